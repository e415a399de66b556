"""The merge of one round: from published shards to `merged/`, whole or not at all.

`collect` reads the shards, `steps` decides what stays, `manifest` makes the tables and the manifest, `whole_directory`
publishes them with one rename.
"""

from __future__ import annotations

import logging
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gra_hpc import storage
from gra_hpc.errors import FingerprintError, ReleaseError
from gra_hpc.flows.registry import flow_of
from gra_hpc.merge import index, signatures
from gra_hpc.merge import manifest as manifests
from gra_hpc.merge.collect import Part, collect
from gra_hpc.merge.forward import leaving_out
from gra_hpc.merge.semantic import semantic
from gra_hpc.merge.standings import by_chance, left_by
from gra_hpc.merge.steps import Steps
from gra_hpc.run.directory import RoundDir
from gra_hpc.run.merged import Merged, pool_of
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.publish import is_published
from gra_hpc.run.rounds import allowance, held_elsewhere, is_drawn_from, late_shards, plan_after
from gra_hpc.run.run import Run
from gra_hpc.run.signing import keys_of
from gra_hpc.run.target import not_needed
from gra_hpc.signatures.recorded import Signed, SignedTable
from gra_hpc.terminal import word
from gra_hpc.whole_directory import Staging, build_whole, sweep
from gra_hpc.workers import Workers

log = logging.getLogger(__name__)

INLINE_ROWS = 20_000
"""Up to this many rows a second process costs more than it saves."""


@dataclass(frozen=True)
class MergeSummary:
    """What a merge did, or found done."""

    round: int
    done_before: bool
    """An earlier merge had covered all that is published; nothing was done."""
    published: int
    expected: int
    accepted: int
    kept: int
    dropped: dict[str, int]
    """By step."""
    pool: int
    """Rows of the pool after this round."""
    shortfall: int
    """Rows missing to `method.target_accepted`."""
    approximate: str
    """Of the semantic step, when it was approximate: its recall, in words."""
    late: int
    """Late shards of rounds before that it took in."""
    manifest: dict[str, Any] = field(repr=False)
    seconds: float = 0.0
    unneeded: int = 0
    """Shards that nobody has begun: the target was met without them."""
    taken_back: int = 0
    """Shards that did not seem to be needed, and are."""
    waiting: int = 0
    """Shards that were published once the next round had drawn from this merge: a later merge takes them."""

    @classmethod
    def of(cls, manifest: dict[str, Any], *, done_before: bool, seconds: float = 0.0, waiting: int = 0) -> MergeSummary:
        coverage, counts = manifest["coverage"], manifest["counts"]
        return cls(
            round=manifest["round"],
            done_before=done_before,
            published=coverage["published"],
            expected=coverage["expected"],
            accepted=counts["accepted"],
            kept=counts["kept"],
            dropped=counts["dropped"],
            pool=counts["pool"],
            shortfall=(manifest["target"] or {}).get("shortfall", 0),
            approximate=semantic.approximate(manifest["steps"]["semantic"]),
            late=sum(len(late["shards"]) for late in manifest["late"]),
            manifest=manifest,
            seconds=seconds,
            unneeded=len(coverage.get("unneeded", ())),
            taken_back=len(coverage.get("taken_back", ())),
            waiting=waiting,
        )

    def __str__(self) -> str:
        """One sentence."""
        drops = ", ".join(f"{n} {step}" for step, n in self.dropped.items() if n) or "none"
        parts = [
            f"round {self.round}: {self.kept} of {self.accepted} accepted samples kept (dropped: {drops})",
            f"pool {self.pool}",
        ]
        if self.unneeded:
            parts.append(f"{not_needed(self.unneeded, self.expected)}: the target was met without them")
        elif self.taken_back:
            parts.append(f"PARTIAL: {self.published} of {self.expected} shards; those not begun are needed after all")
        elif self.published < self.expected:
            parts.append(f"PARTIAL: {self.published} of {self.expected} shards")
        if self.late:
            parts.append(f"with {self.late} late shards of rounds before")
        if self.shortfall:
            parts.append(f"{self.shortfall} short of method.target_accepted")
        if self.approximate:
            parts.append(f"semantic step {self.approximate}")
        if self.waiting:
            parts.append(
                f"stands, for round {self.round + 1} has drawn from it; {self.waiting} shards published since go into a"
                " later round's merge"
            )
        else:
            parts.append("was merged before; nothing to do" if self.done_before else f"{self.seconds:.1f} s")
        return "; ".join(parts)


def merge_round(run: Run, round_: int) -> MergeSummary:
    """Merge the published shards of a round into `run.round(round_).merged`.

    Safe to run twice, at the same time, or after a death. A merge is replaced when more shards are published, of its
    round or late ones of rounds before, until the next round has drawn from it; from then on they are left to a later
    merge.

    Args:
        run: the run.
        round_: from 1.

    Raises:
        IncompleteError: shards, or the previous round's merge, are missing.
        FingerprintError: shards or an earlier merge of another plan.
        ReleaseError: a bad or foreign table, named.
        StorageError: no room; nothing was published half.
        ConfigError: a benchmark or embedding model that is not there.
    """
    started = time.monotonic()
    target = run.round(round_)
    fingerprint, expected = run.plan.fingerprint, run.shards_of(round_)
    before = existing_merge(run, round_, fingerprint)
    if before is not None:
        summary = _done(run, round_, before)
        if summary is not None:
            sweep(target.merged)
            return summary

    def may_replace() -> bool:
        """Asked at the last moment: attempts of the next round may have begun meanwhile. One that begins right now
        finds what it rests on gone before it publishes."""
        if is_drawn_from(run, round_):
            log.warning("round %d: round %d has drawn from its merge meanwhile: that stands", round_, round_ + 1)
            return False
        return True

    def work(staging: Staging) -> dict[str, Any] | None:
        manifest = _build(run, round_, expected, staging)

        def better() -> bool:
            theirs = existing_merge(run, round_, fingerprint)
            return theirs is None or (not _shards(target, manifest) <= _shards(target, theirs) and may_replace())

        return manifest if staging.publish(better) else None

    with storage.full_disk_as_error(target.merged, f"make room, then gra merge {word(run.path)}"):
        manifest = build_whole(target.merged, work)
    if manifest is not None:
        return MergeSummary.of(manifest, done_before=False, seconds=time.monotonic() - started)
    theirs = existing_merge(run, round_, fingerprint)
    if theirs is None:
        raise ReleaseError(f"{target.merged}: appeared and vanished during the merge", f"gra merge {word(run.path)}")
    log.info("round %d: another merge was first; its result stays", round_)
    return MergeSummary.of(theirs, done_before=True)


def existing_merge(run: Run, round_: int, fingerprint: str) -> dict[str, Any] | None:
    """Manifest of an earlier merge of the round, or none.

    Raises:
        FingerprintError: it was made from another plan.
        ReleaseError: a directory without a readable manifest, or whose tables are not as it says.
    """
    target = run.round(round_)
    try:
        manifest: dict[str, Any] = storage.read_json(target.manifest)
    except FileNotFoundError:
        if target.merged.is_dir() and any(target.merged.iterdir()):
            raise ReleaseError(
                f"{target.merged}: not a merged round (no manifest.json)",
                f"move it away, then gra merge {word(run.path)}",
            ) from None
        return None
    if manifest.get("fingerprint") != fingerprint:
        raise FingerprintError(
            f"{target.manifest}: merged from another plan", f"move it away, then gra merge {word(run.path)}"
        )
    for name, file in manifest["files"].items():
        path = target.merged / name
        if not path.is_file() or path.stat().st_size != file["bytes"]:
            raise ReleaseError(
                f"{path}: not as its manifest says", f"move {target.merged} away, then gra merge {word(run.path)}"
            )
    return manifest


def _shards(target: RoundDir, manifest: dict[str, Any]) -> frozenset[tuple[int, int]]:
    return Merged(target, manifest).shards


def _done(run: Run, round_: int, before: dict[str, Any]) -> MergeSummary | None:
    """The summary of an earlier merge when it stands, or none when more shards have come."""
    merged = Merged(run.round(round_), before)
    published = set(late_shards(run, round_))
    if not merged.holds_all:
        own = {(round_, s) for s in range(run.shards_of(round_)) if is_published(run.round(round_).shard(s))}
        published |= own - held_elsewhere(run, round_)
    more = published - merged.shards
    if more and not is_drawn_from(run, round_):
        return None
    return MergeSummary.of(before, done_before=True, waiting=len(more))


def _build(run: Run, round_: int, expected: int, staging: Staging) -> dict[str, Any]:
    """Build the directory in `staging.out`; its manifest."""
    timings: dict[str, float] = {}

    @contextmanager
    def clock(step: str) -> Iterator[None]:
        begin = time.monotonic()
        yield
        timings[step] = round(time.monotonic() - begin, 3)
        log.info("round %d: %s: %.1f s", round_, step, timings[step])

    with Workers(max(1, len(os.sched_getaffinity(0)))) as many:
        with clock("collect"):
            shards = collect(
                run, round_, run.plan.fingerprint, expected, many, allow_partial=run.config.merge.allow_partial
            )
            pool_path = pool_of(run, run.plan, round_)
            keys = keys_of(run.config).of_records
            pool, pool_ids = index.pool_part(str(pool_path), keys, _signed_pool(run, round_, pool_path))
            ix = index.build(pool, pool_ids, shards.every, _kept_before(run, round_))
        workers = many if len(ix) > INLINE_ROWS else Workers(1)
        wanted = allowance(run, round_, late=bool(shards.late))
        steps = Steps(run, round_, ix, np.ones(len(ix), bool), wanted, staging.scratch, workers, clock)
        steps.take()
        with clock("write"):
            manifest = manifests.write(steps, shards, pool_path, staging.out)
            published = [run.round(s.round).shard(s.number) for s in shards.every]
            for member in by_chance(run, published):
                log.warning("round %d: by gold questions %s tells good from bad no better than chance", round_, member)
            if steps.signing and steps.signing.keep:
                kept = np.flatnonzero(steps.alive[ix.pool :]) + ix.pool
                pool_sha256 = manifest["files"]["pool.parquet"]["sha256"]
                out = staging.out / run.round(round_).signatures.name
                manifest["signatures"] = signatures.save(ix, kept, steps.signing, pool_sha256, out)
            if round_ < run.config.method.rounds and (following := plan_after(run, manifest)):
                tables = [Path(s.part.path) for s in shards.every]
                if left := left_by(run, round_, tables, staging.out / "kept.parquet", published):
                    following = replace(following, standing=left)
                here, kept_table = RoundPlan.load(run.round(round_)), staging.out / "kept.parquet"
                following = leaving_out(run, here, following, kept_table, pool_path)
                _add(manifest, staging.out / run.round(round_ + 1).plan_file.name, following.to_dict())
    (staging.out / "timings.json").write_bytes(storage.to_json(_timings(timings)))
    (staging.out / "manifest.json").write_bytes(storage.sealed(manifest))
    return manifest


def _kept_before(run: Run, round_: int) -> list[tuple[Part, np.ndarray]]:
    """What earlier rounds kept, where it is compared and is not in the pool.

    Raises:
        ReleaseError: it has changed since.
    """
    flow = flow_of(run.config)
    if flow.pools or flow.keys is None:
        return []
    files = [Merged.of(run.round(number)).file("kept.parquet") for number in range(1, round_)]
    return [index.kept_part(str(f), flow.schema(), flow.keys) for f in files]


def _signed_pool(run: Run, round_: int, pool: Path) -> Signed | None:
    """The signatures of the pool that a round adds to: the merge before has written them, the first merge makes them.

    Raises:
        ReleaseError: they have changed since.
    """
    before = run.round(round_ - 1)
    if pool != before.pool:
        return None
    merged = Merged.of(before)
    if merged.manifest.get("signatures") is None:
        return None
    then = f"move {before.signatures} away, then gra merge {word(run.path)}: what is missing is made again"
    try:
        recorded = SignedTable.from_entry(merged.manifest["signatures"])
    except ValueError as e:
        raise ReleaseError(f"{before.manifest}: {e}", merged.again) from None
    return recorded.at(before.signatures, merged.manifest["counts"]["pool"], storage.known_sha256(pool), then)


def _add(manifest: dict[str, Any], file: Path, value: dict[str, Any]) -> None:
    """Write one more file of the merge, and record it."""
    file.write_bytes(storage.sealed(value))
    manifest["files"][file.name] = storage.entry(file)


def _timings(seconds: dict[str, float]) -> dict[str, Any]:
    usage = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "host": os.uname().nodename,
        "finished": time.time(),
        "seconds": seconds,
        "peak_mb": {"merge": round(usage[0]), "largest_worker": round(usage[1])},
    }
