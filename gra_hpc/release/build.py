"""The release directory, built beside its place and renamed into it: data, rejects, settings, report, card, manifest.

The same plan and the same merges give the same bytes, on any machine and however the shards came in; only report and
manifest also tell what the work took.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc import parquet, storage
from gra_hpc.config.settings import ReviewOrder
from gra_hpc.errors import GraError, ReleaseError
from gra_hpc.flows.registry import Released, flow_of
from gra_hpc.records import ACCEPTED, FAILED, REJECTED, THOUGHTS
from gra_hpc.release import card, limits
from gra_hpc.release import manifest as manifests
from gra_hpc.release.diagnostics.measure import Diagnosis, measure
from gra_hpc.release.export import export_splits
from gra_hpc.release.inputs import Inputs, read_slices
from gra_hpc.release.report import report, results
from gra_hpc.release.report.measures import measure_work
from gra_hpc.release.schema import OUTCOMES
from gra_hpc.release.shuffle import KEY, Shuffle, keys_of
from gra_hpc.release.tables import tables_of
from gra_hpc.run.merged import as_planned
from gra_hpc.run.run import Run
from gra_hpc.terminal import word
from gra_hpc.text import languages
from gra_hpc.thoughts import Thoughts
from gra_hpc.whole_directory import Staging, build_whole

log = logging.getLogger(__name__)

ROW_GROUP = 8192
"""Rows per row group."""
MB = 1_000_000
_REASONS = ("step", "winner", "similarity", "detail")


def build(run: Run) -> Path:
    """Make the release of a run whose rounds are all merged; nothing to do if it is there, made from the same merges.

    Killed at any moment, it leaves what was there before. Of two at once, one wins, whole.

    Returns:
        The release directory.

    Raises:
        IncompleteError: a round is not merged.
        ReleaseError: merges and shards that do not belong together, or something else in the release's place.
        StorageError: no room.
    """
    there = run.release
    if there.exists() and not (there / manifests.NAME).is_file() and (not there.is_dir() or any(there.iterdir())):
        raise ReleaseError(
            f"{there}: in the way, and no release (no {manifests.NAME})",
            f"move it away, then gra merge {word(run.path)}",
        )
    while True:
        inputs = Inputs.of_run(run)
        if made_from(run.release) == inputs.digest or _build(inputs):
            return run.release


def _build(inputs: Inputs) -> bool:
    """Build once; whether a release of these inputs is in place, and not one of merges that were redone meanwhile."""
    run = inputs.run
    log.info("building the release of %s", run.path)

    def work(staging: Staging) -> bool:
        Builder(inputs, staging.out, staging.scratch).build()
        if Inputs.of_run(run).digest != inputs.digest:
            return False
        staging.publish(lambda: made_from(run.release) != inputs.digest)
        return True

    return build_whole(run.release, work)


def made_from(release: Path) -> str:
    """What a release in place was made from; empty if there is none, one of another format, or with files missing."""
    try:
        there = manifests.read(release)
        whole = all((release / name).stat().st_size == f["bytes"] for name, f in there["files"].items())
    except (OSError, GraError, KeyError, ValueError):  # ValueError: a name with a NUL
        return ""
    return str(there.get("made_from", "")) if whole and there.get("format") == manifests.FORMAT else ""


class Builder:
    """One build.

    Args:
        out: empty directory that becomes the release.
        scratch: empty directory for temporary files.
    """

    def __init__(self, inputs: Inputs, out: Path, scratch: Path) -> None:
        self.inputs, self.out, self.scratch = inputs, out, scratch
        self.config = inputs.run.config.release
        self.tables = tables_of(inputs.run)
        self.thoughts = inputs.run.plan.thought_out and self.config.thoughts is not Thoughts.drop
        """Whether the rows bring thoughts to be released."""
        self.rows: dict[str, int] = {}
        """Rows by Parquet file."""
        self.unasked = {"instruction": 0, "response": 0}
        """Questions to Reviewers that were not needed, by what they were about."""
        told = languages.can_tell() and self.tables.conversations
        self.languages: Counter[str] | None = Counter() if told else None
        """Rows of the data by language; none where that cannot be told."""
        self.thought_out = 0
        """Rows of the data with thoughts."""

    def build(self) -> None:
        """Fill `out`."""
        with storage.full_disk_as_error(self.out):
            splits = self._data()
            rejects = self._rejects()
            self._check(splits, rejects)
            manifests.write_run_config(self.inputs.run.config, self.out / "run.yaml")
            run = self.inputs.run
            if run.plan.seed_rejects:
                shutil.copyfile(as_planned(run, run.plan, run.seed_rejects), self.out / "rejects" / "seeds.jsonl")
            # As they will be read from the file: card and report see nothing else.
            texts = self.tables.conversations
            diagnosis = measure(self.inputs) if texts else Diagnosis({"missing": ["rows are no conversations"]})
            told = None if self.languages is None else dict(languages.in_order(self.languages))
            described = manifests.describe(self.inputs, splits, rejects, self.thought_out, told)
            described |= {"diagnostics": diagnosis.facts}
            if not texts:
                described["result"] = manifests.result(self.inputs.run, self.tables)
                described |= self._added()
            elif run.config.method.review_order is ReviewOrder.bounded:
                described["unasked"] = self.unasked
            facts = orjson.loads(storage.to_json(described))
            inline = self.config.thoughts is Thoughts.inline
            for form in self.config.formats if texts else ():
                export_splits(self.out, facts["name"], list(splits), form, self.out / "exports", inline)
            if texts:
                report.write(self.inputs, facts, diagnosis, self.out)
            else:
                results.write(self.inputs, facts, limits.limits(facts), self.out / report.NAME)
            card.write(facts, self.out)
            facts["files"] = self._files()
            (self.out / manifests.NAME).write_bytes(storage.sealed(facts))

    # ---- data --------------------------------------------------------------------------------------------------------

    def _data(self) -> dict[str, dict[str, int]]:
        """Write data/*.parquet. Returns rows, seeds and files by split."""
        every, seeds = self.tables.split_keys(self._kept(list(self.tables.split_by)))
        bound = int(self.config.validation * 2**64)
        if not len(every) or int(every.max()) < bound:  # nothing would be left to train on
            bound = 0
        held_out = {"train": np.uint64(bound) <= every, "validation": every < np.uint64(bound)}
        schema = self.tables.samples
        size = Size.of((r.file("kept.parquet") for r in self.inputs.rounds), self.tables.twice, schema.names)
        shuffles, counts = {}, {}
        for split, rows in held_out.items():
            share = float(rows.mean()) if len(every) else 0.0
            shuffles[split] = self._shuffle(split, size, share, schema)
            in_split = seeds >= bound if split == "train" else seeds < bound
            counts[split] = {"rows": int(rows.sum()), "seeds": int(in_split.sum()), "files": shuffles[split].groups}
        begin = 0
        for table in self._kept(schema.names):
            mine = every[begin : begin + len(table)] >= np.uint64(bound)
            begin += len(table)
            if self.thoughts:
                self.thought_out += int(pc.sum(pc.not_equal(table[THOUGHTS], "")).as_py() or 0)
            if self.languages is not None:
                self.languages += languages.count(table)
            order = keys_of(table["id"])
            for split, which in (("train", mine), ("validation", ~mine)):
                shuffles[split].add(table.filter(which), order[which])
        (self.out / "data").mkdir()
        for split, shuffle in shuffles.items():
            if split == "train" or shuffle.rows:
                for number in range(shuffle.groups):
                    name = f"data/{split}-{number:05d}-of-{shuffle.groups:05d}.parquet"
                    self._write(name, map(self.tables.data_rows, slices(shuffle.group(number))), self.tables.data)
        return {s: c for s, c in counts.items() if s == "train" or c["rows"]}

    def _kept(self, columns: list[str]) -> Iterator[pa.Table]:
        for r in self.inputs.rounds:
            yield from read_slices(r.file("kept.parquet"), columns)

    # ---- rejects -----------------------------------------------------------------------------------------------------

    def _rejects(self) -> dict[str, int]:
        """Write rejects/*.parquet. Returns rows by outcome."""
        rounds = self.inputs.all_rounds
        ledgers = sum((r.ledger for r in rounds[1:]), rounds[0].ledger)
        files = {r.number: r.file("dropped.parquet") for r in self.inputs.rounds}
        dropped = {n: np.sort(keys_of(parquet.read_table(file, ["id"])["id"])) for n, file in files.items()}
        counts = {
            "rejected": ledgers.rejected_total,
            "failed": ledgers.failed_total,
            "dropped": sum(len(k) for k in dropped.values()),
        }
        tables = [t for r in rounds for t in r.tables()]
        schema = self.tables.rejected
        size = Size.of((t.samples for t in tables), (), schema.names)
        rows = max(1, sum(t.manifest["samples"]["rows"] for t in tables))
        shuffles = {o: self._shuffle(o, size, counts[o] / rows, schema) for o in OUTCOMES}
        why = Shuffle(self.scratch / "why", _why_schema(), 0, shuffles["dropped"].buckets)
        for file in files.values():
            for table in read_slices(file, _why_schema().names):
                why.add(table)
        for r in rounds:
            keys = dropped.get(r.number)
            for shard in r.tables():
                for table in read_slices(shard.samples, schema.names):
                    if self.tables.conversations:
                        self._count_unasked(table)
                    self._deal(table, keys, shuffles)
        (self.out / "rejects").mkdir()
        for outcome, shuffle in shuffles.items():
            for number in range(shuffle.groups if shuffle.rows else 0):
                name = f"rejects/{outcome}-{number:05d}-of-{shuffle.groups:05d}.parquet"
                found: Iterable[pa.Table] = shuffle.group(number)
                if outcome == "dropped":
                    per = shuffle.buckets // shuffle.groups
                    found = (_with_reasons(t, why.read(number * per + i)) for i, t in enumerate(found))
                made = (self.tables.reject_rows(t, outcome) for t in slices(found))
                self._write(name, made, self.tables.rejects)
        return {o: s.rows for o, s in shuffles.items()}

    def _deal(self, table: pa.Table, dropped: np.ndarray | None, shuffles: dict[str, Shuffle]) -> None:
        """Put rejected, failed and dropped rows where they belong; `dropped` is sorted."""
        for status, outcome in ((REJECTED, "rejected"), (FAILED, "failed")):
            shuffles[outcome].add(table.filter(pc.equal(table["status"], status)))
        if dropped is not None and len(dropped):
            accepted = table.filter(pc.equal(table["status"], ACCEPTED))
            keys = keys_of(accepted["id"])
            at = np.searchsorted(dropped, keys)
            which = dropped[np.minimum(at, len(dropped) - 1)] == keys
            shuffles["dropped"].add(accepted.filter(which), keys[which])

    def _count_unasked(self, table: pa.Table) -> None:
        """Reviewers who were not asked about a sample, for it was rejected already (`method.review_order=bounded`)."""
        rejected = table.filter(pc.equal(table["status"], REJECTED))
        for about, column in (("instruction", "instruction_reviews"), ("response", "reviews")):
            ended = rejected.filter(pc.equal(rejected["stage"], f"{about}_review"))
            seats, given = (pc.sum(pc.list_value_length(ended[name])).as_py() or 0 for name in ("reviewers", column))
            self.unasked[about] += seats - given

    def _shuffle(self, name: str, size: Size, share: float, schema: pa.Schema) -> Shuffle:
        """Of a share of rows, one group per file."""
        files = max(1, round(size.disk * share / (self.config.shard_mb * MB)))
        return Shuffle(self.scratch / name, schema, int(size.memory * share), files)

    # ---- the flow's own ----------------------------------------------------------------------------------------------

    def _added(self) -> dict[str, Any]:
        """What the flow adds: its files are in `out`, its facts and sections go into the manifest."""
        run = self.inputs.run
        release = flow_of(run.config).views.release
        if release is None:
            return {}
        names = self.tables.samples.names
        tables = [t for r in self.inputs.rounds for t in r.tables()]

        def samples() -> Iterator[pa.Table]:
            for table in tables:
                yield from read_slices(table.samples, names)

        tokens = {f"{role} {model}": n for (role, model), n in sorted(measure_work(tables, ()).tokens.items())}
        rounds = [r.manifest.get("steps", {}) for r in self.inputs.rounds]
        return {"added": asdict(release(Released(run.config, samples, tokens, rounds, self.out)))}

    # ---- files -------------------------------------------------------------------------------------------------------

    def _write(self, name: str, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
        self.rows[name] = 0
        with parquet.whole_table(self.out / name, schema, level=3) as writer:
            for table in tables:
                writer.write_table(table, row_group_size=ROW_GROUP)
                self.rows[name] += len(table)

    def _check(self, splits: dict[str, dict[str, int]], rejects: dict[str, int]) -> None:
        """The books: every accepted sample was kept or dropped, every rejected or failed one is in rejects."""
        released = sum(s["rows"] for s in splits.values())
        rounds = self.inputs.rounds
        ledger = sum((r.ledger for r in rounds[1:]), rounds[0].ledger)
        ledger.check(str(self.inputs.run.path))
        if released + rejects["dropped"] != ledger.accepted:
            raise ReleaseError(
                f"{self.inputs.run.path}: {ledger.accepted} samples accepted, but {released} kept and"
                f" {rejects['dropped']} dropped",
                f"gra merge {word(self.inputs.run.path)}",
            )
        everything = ledger + self.inputs.prepared.ledger if self.inputs.prepared else ledger
        for name, booked in (("rejected", everything.rejected_total), ("failed", everything.failed_total)):
            if rejects[name] != booked:
                raise ReleaseError(
                    f"{self.inputs.run.path}: {booked} samples {name} in the ledger, {rejects[name]} in the tables"
                )

    def _files(self) -> dict[str, dict[str, Any]]:
        """Every file but the manifest: digest, bytes, and rows of a table."""
        out: dict[str, dict[str, Any]] = {}
        for path in sorted(p for p in self.out.rglob("*") if p.is_file()):
            name = path.relative_to(self.out).as_posix()
            out[name] = {"sha256": storage.sha256(path), "bytes": path.stat().st_size}
            if name in self.rows:
                out[name]["rows"] = self.rows[name]
        return out


@dataclass(frozen=True)
class Size:
    """Bytes of some columns of tables."""

    disk: int
    """As Parquet lies on the disk."""
    memory: int
    """Before compression."""

    @classmethod
    def of(cls, paths: Iterable[Path], twice: Collection[str], columns: Collection[str]) -> Size:
        """Add up what the tables' own metadata say.

        Args:
            twice: columns that count twice, as `messages` repeats them.
            columns: that count; no others do.
        """
        disk = memory = 0
        for path in paths:
            with parquet.open_table(path) as file:
                meta = file.metadata
            for g in range(meta.num_row_groups):
                group = meta.row_group(g)
                for c in range(group.num_columns):
                    column = group.column(c)
                    top = column.path_in_schema.split(".")[0]
                    times = (top in columns) * (1 + (top in twice))
                    disk += times * column.total_compressed_size
                    memory += times * column.total_uncompressed_size
        return cls(disk, memory)


def slices(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows, `ROW_GROUP` at a time, without their key."""
    held: list[pa.Table] = []
    count = 0
    for table in tables:
        held.append(table.drop_columns(KEY))
        count += len(table)
        while count >= ROW_GROUP:
            together = pa.concat_tables(held)
            yield together.slice(0, ROW_GROUP).combine_chunks()
            held, count = [together.slice(ROW_GROUP)], count - ROW_GROUP
    if count:
        yield pa.concat_tables(held).combine_chunks()


def _with_reasons(rows: pa.Table, reasons: pa.Table) -> pa.Table:
    """Dropped samples with what the merge said of them; both sorted by key, then id.

    Raises:
        ReleaseError: a sample without a reason, or the reverse.
    """
    if rows["id"].to_pylist() != reasons["id"].to_pylist():
        raise ReleaseError("the merge's dropped rows are not among its shards' accepted samples")
    out = rows
    for name in _REASONS:
        out = out.append_column(name, reasons[name])
    return out.drop_columns(KEY).append_column(KEY, rows[KEY])


def _why_schema() -> pa.Schema:
    kinds = {"similarity": pa.float64()}
    return pa.schema([(n, kinds.get(n, pa.string())) for n in ("id", *_REASONS)])
