"""What a release is made from: the merged rounds of a run, and the shards that each merge counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from gra_hpc import __version__, parquet, storage
from gra_hpc.config.frozen import fingerprinted
from gra_hpc.errors import ReleaseError
from gra_hpc.records import digest
from gra_hpc.run.directory import RoundDir, RunDir, ShardDir
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.merged import Merged, gone, made_again, merges_from
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.run import Run
from gra_hpc.terminal import word


@dataclass(frozen=True)
class Table:
    """The published tables of one shard, as the merge counted them."""

    shard: ShardDir
    attempt: str
    manifest: dict[str, Any]
    """The shard's."""

    @property
    def samples(self) -> Path:
        """The samples table, as it was published.

        Raises:
            ReleaseError: it is not.
        """
        return self._as_published(self.shard.samples(self.attempt), "samples")

    @property
    def calls(self) -> Path:
        """The calls table, as it was published.

        Raises:
            ReleaseError: it is not.
        """
        return self._as_published(self.shard.calls(self.attempt), "calls")

    def _as_published(self, path: Path, key: str) -> Path:
        return storage.checked(path, self.manifest[key], lambda: made_again(self.shard))


@dataclass(frozen=True)
class MergedRound(Merged):
    """One merged round, and the books of its candidates, wherever their shards were merged."""

    plan: RoundPlan
    taken: dict[int, dict[str, Any]] = field(default_factory=dict)
    """What the merges of later rounds, by number, say of late shards of this round."""

    @property
    def ledger(self) -> Ledger:
        """The round's books against its plan: candidates of shards that were not there are pending."""
        books = (self.manifest["ledger"], *(late["ledger"] for late in self.taken.values()))
        ledger = sum(map(Ledger.from_dict, books), Ledger())
        absent = self.plan.candidates - ledger.planned
        return ledger + Ledger(planned=absent, pending=absent)

    @property
    def dropped(self) -> dict[str, int]:
        """Rows of this round that merges dropped, by step."""
        here = dict(self.manifest["counts"]["dropped"])
        for late in self.late:
            here = {step: n - late["dropped"].get(step, 0) for step, n in here.items()}
        for late in self.taken.values():
            here = {step: here.get(step, 0) + n for step, n in late["dropped"].items()}
        return here

    @property
    def survived(self) -> int:
        """Rows of this round that are in the release."""
        here = self.manifest["survived"] - sum(late["kept"] for late in self.late)
        return int(here + sum(late["kept"] for late in self.taken.values()))

    @property
    def coverage(self) -> dict[str, Any]:
        """`published` of `expected` shards, which are `missing`, and which came `late`, by the round they were merged
        with; where there are any, which were not needed (`unneeded`), and their candidates (`spared`)."""
        c, late = self.manifest["coverage"], {n: entry["shards"] for n, entry in self.taken.items()}
        came = {shard for shards in late.values() for shard in shards}
        return {
            "published": c["published"] + len(came),
            "expected": c["expected"],
            "missing": [s for s in c["missing"] if s not in came],
            "late": {str(n): shards for n, shards in late.items()},
            **self._spared(came),
        }

    def _spared(self, came: set[int]) -> dict[str, Any]:
        """Shards that were not needed, without those that came late all the same."""
        if not (unneeded := sorted(self.unneeded - came)):
            return {}
        seeds = self.manifest["coverage"]["seeds"]["all"]
        return {"unneeded": unneeded, "spared": sum(self.plan.of_shard(s, seeds) for s in unneeded)}

    def tables(self) -> Iterator[Table]:
        """The shards that the merge counted, in order.

        Raises:
            ReleaseError: a shard that is not there any more, was published anew, or whose manifest has changed.
        """
        for entry in self.manifest["shards"]:
            number = entry.get("round", self.number)
            shard = RoundDir(self.dir.path.with_name(f"{number:02d}"), number).shard(entry["shard"])
            try:
                manifest = storage.read_json(shard.manifest)
            except FileNotFoundError:
                raise gone(shard, self.number) from None
            if storage.sha256(shard.manifest) != entry["manifest_sha256"]:
                anew = f"published anew (attempt {manifest['attempt']}, merged was {entry['attempt']})"
                same = manifest["attempt"] == entry["attempt"]
                what = f"changed since round {self.number} was merged" if same else anew
                run = RunDir(self.dir.path.parents[1])
                then = f"move {merges_from(run, self.number)} away, then gra resume {word(run.path)}"
                raise ReleaseError(f"{shard.manifest}: {what}", f"bring the merged one back, or {then}")
            yield Table(shard, manifest["attempt"], manifest)


@dataclass(frozen=True)
class Inputs:
    """A run whose rounds are all merged."""

    run: Run
    rounds: list[MergedRound]
    """Rounds 1 to R."""
    prepared: MergedRound | None
    """Round 0, if seeds had to be described."""

    @classmethod
    def of_run(cls, run: Run) -> Inputs:
        """Read the merges' manifests.

        Raises:
            IncompleteError: a round that is not merged.
        """
        merged = {n: _merged(run, n) for n in run.rounds}
        for number, later in merged.items():
            for late in later.late:
                merged[late["round"]].taken[number] = late
        prepared = merged.pop(0, None)
        return cls(run, list(merged.values()), prepared)

    @property
    def all_rounds(self) -> list[MergedRound]:
        return [*([self.prepared] if self.prepared else []), *self.rounds]

    @property
    def digest(self) -> str:
        """What the release depends on: the same digest gives the same release."""
        merges = [[r.number, r.digest] for r in self.all_rounds]
        parts = [self.run.plan.fingerprint, __version__, merges, fingerprinted(self.run.config.release)]
        return digest(*parts, *([self.people] if self.people else []))

    @cached_property
    def people(self) -> dict[str, Any] | None:
        """What people said of a sample of the rows (`judging/labels.py`); none if nobody was asked."""
        try:
            return storage.read_object(self.run.audit, "people", "judged", "agreement", "corrected_share")
        except FileNotFoundError:
            return None

    @property
    def model_of(self) -> dict[str, str]:
        """Model of each committee member."""
        return {name: member.model for name, member in self.run.config.committee.items()}


def _merged(run: Run, number: int) -> MergedRound:
    directory = run.round(number)
    merged = Merged.of(directory)
    if merged.manifest["fingerprint"] != run.plan.fingerprint:
        raise ReleaseError(
            f"{directory.manifest}: merged with other settings than the run's plan", f"gra merge {word(run.path)}"
        )
    return MergedRound(directory, merged.manifest, RoundPlan.load(directory))


def read_slices(path: Path, columns: list[str], rows: int = 4096) -> Iterator[pa.Table]:
    """A Parquet table, so many rows at a time.

    Raises:
        ReleaseError: no such file, damaged, or another table.
    """
    for batch in parquet.read_batches(path, columns, rows):
        yield pa.Table.from_batches([batch])
