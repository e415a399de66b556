"""Published shards of a round: found, verified, counted. Manifests are trusted about which table counts, not about
what is in it: digest, rows, schema, ledger and ids of every table are checked before anything is merged."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc import parquet, storage
from gra_hpc.errors import FingerprintError, GraError, IncompleteError, ReleaseError
from gra_hpc.flows.keys import RECORDS, Keys
from gra_hpc.flows.registry import Flow, find, flow_of
from gra_hpc.records import ACCEPTED, CONTEXT, FAILED, REJECTED, Rubric, optional_columns
from gra_hpc.run.directory import RunDir, ShardDir, round_name
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.merged import basis_of, made_again
from gra_hpc.run.rounds import held_elsewhere, late_shards
from gra_hpc.run.run import Run
from gra_hpc.run.shard_manifest import ShardManifest
from gra_hpc.run.unneeded import Unneeded
from gra_hpc.signatures.recorded import Signed
from gra_hpc.terminal import word
from gra_hpc.workers import Workers

log = logging.getLogger(__name__)

_NAME = re.compile(r"\d{5,}")
_IN_SHARD = re.compile(r"attempts|manifest\.json|\..+")
"""Beside its attempts' tables."""
FEW, FEW_BYTES = 16, 64 << 20
"""Up to this many shards of this size are not worth a second process."""
_MOVED = re.compile(r"move (\S+) away, then (.*)")
SHOWN = 8
"""Bad files named in one message; the log names all."""


@dataclass(frozen=True)
class Part:
    """The accepted rows of one table, or all rows of the pool: what the merge reads."""

    path: str
    groups: tuple[int, ...]
    """Rows that count, per row group of the file."""
    accepted_only: bool
    """Whether the table has a `status`, of which `accepted` counts."""
    keys: Keys
    """What its rows are compared by."""
    context: bool = False
    """Whether the table has contexts."""
    signed: Signed | None = None
    """What has been made of its texts already."""

    @property
    def rows(self) -> int:
        return sum(self.groups)


@dataclass(frozen=True)
class Shard:
    """One verified shard table."""

    round: int
    number: int
    attempt: str
    part: Part
    rows: int
    bytes: int
    sha256: str
    manifest_sha256: str
    ledger: Ledger
    seeds: int
    """Different seeds among its rows."""
    ids: np.ndarray
    """Accepted rows: bytes [n], padded with NUL."""
    scores: np.ndarray
    """Accepted rows: float64 [n]; -inf without a score."""
    foreign: list[str]
    """Entries of its directory that are none of its own."""


@dataclass(frozen=True)
class Collected:
    """The shards of a round that were published."""

    shards: list[Shard]
    expected: int
    missing: list[int]
    """Without those that are not needed."""
    unneeded: list[int] = field(default_factory=list)
    """Not begun, since the published shards are expected to meet the target (`unneeded.Unneeded`)."""
    late: list[Shard] = field(default_factory=list)
    """Of rounds before, published when their merges stood already; by round, then number."""
    foreign: list[str] = field(default_factory=list)
    """Entries of the shards directory that belong to no shard or attempt of this run; left alone."""

    @property
    def complete(self) -> bool:
        return not self.missing

    @property
    def every(self) -> list[Shard]:
        """The round's own shards, then the late ones."""
        return [*self.shards, *self.late]

    @property
    def ledger(self) -> Ledger:
        """Of the round's own shards."""
        return sum_of(self.shards)


def sum_of(shards: Iterable[Shard]) -> Ledger:
    """The books of some shards."""
    return sum((s.ledger for s in shards), Ledger())


def ranges(numbers: Iterable[int]) -> str:
    """`0-3,7,9-11`."""
    spans: list[list[int]] = []
    for n in sorted(numbers):
        if spans and n == spans[-1][1] + 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def published(run: RunDir, round_: int, expected: int) -> tuple[list[ShardDir], list[str]]:
    """Shards with a manifest, and foreign entries of the shards directory."""
    directory = run.round(round_).shards
    foreign, have = [], []
    for entry in sorted(directory.iterdir()) if directory.is_dir() else []:
        number = int(entry.name) if _NAME.fullmatch(entry.name) else -1
        if number < 0 or number >= expected or not entry.is_dir() or run.round(round_).shard(number).path != entry:
            if not entry.name.startswith("."):
                foreign.append(str(entry.relative_to(run.path)))
            continue
        if (entry / "manifest.json").is_file():
            have.append(number)
    return [run.round(round_).shard(n) for n in have], foreign


def collect(
    run: Run, round_: int, fingerprint: str, expected: int, workers: Workers, *, allow_partial: bool
) -> Collected:
    """Find and verify the published shards, and the late ones of rounds before.

    Raises:
        IncompleteError: shards are missing and `allow_partial` is not set, or none is there.
        FingerprintError: a shard was made with other settings.
        ReleaseError: a manifest or table that is not what it should be. All bad ones are logged, the first are named.
    """
    have, foreign = published(run, round_, expected)
    held = held_elsewhere(run, round_)
    have = [s for s in have if (round_, s.number) not in held]
    absent = sorted(set(range(expected)) - {s.number for s in have})
    unneeded = sorted(Unneeded(run, round_).shards().intersection(absent)) if absent else []
    missing = [s for s in absent if s not in unneeded]
    if missing and not (allow_partial and have):
        partly = have and flow_of(run.config).forwards(run.config) is None
        raise IncompleteError(
            f"{round_name(round_)}: {len(missing)} of {expected} shards are not published: {_short(ranges(missing))}",
            f"gra resume {word(run.path)}"
            + (f"  (or gra merge {word(run.path)} merge.allow_partial=true, its coverage declared)" if partly else ""),
        )
    late = [(r, run.round(r).shard(s)) for r, s in late_shards(run, round_)]
    every = [*((round_, s) for s in have), *late]
    basis = {r: basis_of(run, r) for r in {r for r, _ in every}}
    flow, rubric = run.config.method.flow, run.plan.rubric
    asked = [(str(run.path), str(s.path), s.number, r, fingerprint, basis[r], flow, rubric) for r, s in every]
    shards, problems = [], []
    few = len(every) <= FEW and sum(f.stat().st_size for _, s in every for f in s.path.glob("samples-*")) < FEW_BYTES
    results = map(verify, asked) if few else workers.map(verify, asked)
    for (_, shard), result in zip(every, results, strict=True):
        if isinstance(result, Shard):
            shards.append(result)
        else:
            result.then = result.then or made_again(shard)
            log.error("%s; %s", result.what, result.then)
            problems.append(result)
    foreign = sorted(foreign + [entry for s in shards for entry in s.foreign])
    for entry in foreign:
        log.warning("%s: not part of this run's round %d; left alone", entry, round_)
    if problems:
        named = "; ".join(p.what for p in problems[:SHOWN])
        more = f"; and {len(problems) - SHOWN} more (see the log)" if len(problems) > SHOWN else ""
        kind = FingerprintError if all(isinstance(p, FingerprintError) for p in problems) else ReleaseError
        raise kind(named + more, _to_do([p.then for p in problems[:SHOWN]]))
    return Collected(shards[: len(have)], expected, missing, unneeded, shards[len(have) :], foreign)


def _to_do(thens: Sequence[str]) -> str:
    """What to do about each of several shards; what is to be done with several files is said once."""
    away: dict[str, list[str]] = {}
    for then in dict.fromkeys(thens):
        found = _MOVED.fullmatch(then)
        away.setdefault(found[2] if found else then, []).extend([found[1]] if found else [])
    files = {rest: " and ".join(filter(None, (", ".join(p[:-1]), *p[-1:]))) for rest, p in away.items()}
    return "; ".join(f"move {named} away, then {rest}" if named else rest for rest, named in files.items())


def _short(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else text[:limit].rsplit(",", 1)[0] + ",..."


def verify(asked: tuple[str, str, int, int, str, str, str, Rubric]) -> Shard | GraError:
    """Check one shard's manifest and samples table, and read what the merge ranks by.

    Args:
        asked: run directory, shard directory, shard number, round, fingerprint, what the round's shards rest on, the
            flow's name, and what its Reviewers score.
    """
    run, path, number, round_, fingerprint, basis, flow, rubric = asked
    shard = ShardDir(Path(path), number)
    try:
        return _verify(Path(run), shard, round_, fingerprint, basis, find(flow), rubric)
    except GraError as e:
        e.what = e.what.replace(f"{run}/", "")
        return e


def _verify(run: Path, shard: ShardDir, round_: int, fingerprint: str, basis: str, flow: Flow, rubric: Rubric) -> Shard:
    def need(ok: bool, what: str, kind: type[GraError] = ReleaseError) -> None:
        if not ok:
            raise kind(what)

    where, manifest = shard.manifest, ShardManifest.load(shard, len(rubric.response))
    need(
        (manifest.round, manifest.shard) == (round_, shard.number),
        f"{where}: says round {manifest.round} shard {manifest.shard}, expected round {round_} shard {shard.number}",
    )
    need(
        manifest.fingerprint == fingerprint,
        f"{where}: made with other settings (fingerprint {manifest.fingerprint[:12]}, this run's is "
        f"{fingerprint[:12]})",
        FingerprintError,
    )
    need(
        manifest.basis in ("", basis),
        f"{where}: drawn from another pool than that of round {round_ - 1}'s merge as it is now",
    )
    table, ledger, rows = shard.samples(manifest.attempt), manifest.ledger, manifest.rows
    try:
        actual = table.stat().st_size
        need(actual == manifest.bytes, f"{table}: {actual} bytes, its manifest says {manifest.bytes}")
        digest = storage.sha256(table)
    except OSError as e:
        raise ReleaseError(f"{table}: {e.strerror}, though its manifest names it") from None
    need(digest == manifest.sha256, f"{table}: SHA-256 {digest[:12]}..., its manifest says {manifest.sha256[:12]}...")
    with parquet.open_table(table, schema=flow.schema(rubric=rubric), optional=optional_columns()) as file:
        context = CONTEXT in file.schema_arrow.names
        need(file.metadata.num_rows == rows, f"{table}: {file.metadata.num_rows} rows, its manifest says {rows}")
        groups, ids, scores = [], [], []
        counts = dict.fromkeys((ACCEPTED, REJECTED, FAILED), 0)
        seeds: list[pa.Array] = []
        for g in range(file.num_row_groups):
            t = file.read_row_group(g, columns=["id", "status", "score", "seed_id", "round"])
            for status in counts:
                counts[status] += pc.sum(pc.equal(t["status"], status)).as_py() or 0
            seeds.append(pc.unique(t["seed_id"]))
            need(not len(t) or pc.all(pc.equal(t["round"], round_)).as_py(), f"{table}: rows of another round")
            t = t.filter(pc.equal(t["status"], ACCEPTED))
            groups.append(len(t))
            ids.append(id_bytes(t["id"]))
            scores.append(pc.fill_null(t["score"], -np.inf).to_numpy())
    need(sum(counts.values()) == rows, f"{table}: rows without a status of accepted, rejected or failed")
    try:
        ledger.check(str(where))
    except GraError as e:
        raise ReleaseError(e.what) from None
    booked = (ledger.accepted, ledger.rejected_total, ledger.failed_total)
    need(
        tuple(counts.values()) == booked,
        f"{table}: {', '.join(f'{v} {k}' for k, v in counts.items())}; the manifest's ledger says {ledger.line()}",
    )
    signed = None
    if manifest.signatures:
        path, then = shard.signatures(manifest.attempt), f"gra merge {word(run)}: what is missing is made again"
        signed = manifest.signatures.at(path, sum(groups), digest, f"move {path} away, then {then}")
    own = manifest.tables(shard)
    return Shard(
        round=round_,
        number=shard.number,
        attempt=manifest.attempt,
        part=Part(str(table), tuple(groups), True, flow.keys or RECORDS, context, signed),
        rows=rows,
        bytes=manifest.bytes,
        sha256=digest,
        manifest_sha256=manifest.digest,
        ledger=ledger,
        seeds=len(pc.unique(pa.chunked_array(seeds, pa.string()))) if seeds else 0,
        ids=np.concatenate(ids) if ids else np.empty(0, "S1"),
        scores=np.nan_to_num(np.concatenate(scores), nan=-np.inf) if scores else np.empty(0),
        foreign=[
            str(f.relative_to(run))
            for f in sorted(shard.path.iterdir())
            if f.name not in own and not _IN_SHARD.fullmatch(f.name)
        ],
    )


def id_bytes(column: Any) -> np.ndarray:
    """Ids as fixed-size bytes [n], padded with NUL."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
    if len(array) == 0:
        return np.empty(0, "S1")
    return np.array(array.cast(pa.binary()).to_pylist(), dtype="S")
