"""What a release is made from: the merged rounds of a run, and the shards that each merge counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from gra_hpc import __version__, parquet, storage
from gra_hpc.config.frozen import fingerprinted
from gra_hpc.errors import ReleaseError
from gra_hpc.records import digest
from gra_hpc.run.directory import ShardDir
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.merged import Merged
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.run import Run


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
        then = f"bring it back, or move {self.shard.manifest} away, then gra resume {self.shard.path.parents[3]}"
        return storage.checked(path, self.manifest[key], then)


@dataclass(frozen=True)
class MergedRound(Merged):
    """One merged round, and its books."""

    plan: RoundPlan

    @property
    def digest(self) -> str:
        """What was merged and what came of it, without when, where and in how many attempts."""
        m = self.manifest
        shards = [[s["shard"], s.get("samples_sha256")] for s in m["shards"]]
        files = {name: f["sha256"] for name, f in m["files"].items()}
        parts = [m.get(k) for k in ("ledger", "coverage", "steps", "similarity")]
        return digest(self.number, self.plan.candidates, shards, files, parts)

    @property
    def number(self) -> int:
        return self.dir.number

    @property
    def ledger(self) -> Ledger:
        """The round's books against its plan: candidates of shards that were not there are pending."""
        ledger = Ledger.from_dict(self.manifest["ledger"])
        absent = self.plan.candidates - ledger.planned
        return ledger + Ledger(planned=absent, pending=absent)

    @property
    def dropped(self) -> dict[str, int]:
        """Rows that the merge dropped, by step."""
        return dict(self.manifest["counts"]["dropped"])

    @property
    def survived(self) -> int:
        return int(self.manifest["survived"])

    @property
    def coverage(self) -> dict[str, Any]:
        """`published` of `expected` shards, and which are `missing`."""
        return {k: self.manifest["coverage"][k] for k in ("published", "expected", "missing")}

    def tables(self) -> Iterator[Table]:
        """The shards that the merge counted, in order.

        Raises:
            ReleaseError: a shard that is not there any more, was published anew, or whose manifest has changed.
        """
        for entry in self.manifest["shards"]:
            shard = self.dir.shard(entry["shard"])
            try:
                manifest = storage.read_json(shard.manifest)
            except FileNotFoundError:
                raise ReleaseError(f"{shard.manifest}: gone, though round {self.number} was merged with it") from None
            if storage.sha256(shard.manifest) != entry["manifest_sha256"]:
                anew = f"published anew (attempt {manifest['attempt']}, merged was {entry['attempt']})"
                same = manifest["attempt"] == entry["attempt"]
                what = f"changed since round {self.number} was merged" if same else anew
                raise ReleaseError(f"{shard.manifest}: {what}", f"bring the merged one back, or {self.again}")
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
        prepared = merged.pop(0, None)
        return cls(run, list(merged.values()), prepared)

    @property
    def all_rounds(self) -> list[MergedRound]:
        return [*([self.prepared] if self.prepared else []), *self.rounds]

    @property
    def digest(self) -> str:
        """What the release depends on: the same digest gives the same release."""
        merges = [[r.number, r.digest] for r in self.all_rounds]
        return digest(self.run.plan.fingerprint, __version__, merges, fingerprinted(self.run.config.release))

    @property
    def model_of(self) -> dict[str, str]:
        """Model of each committee member."""
        return {name: member.model for name, member in self.run.config.committee.items()}


def _merged(run: Run, number: int) -> MergedRound:
    directory = run.round(number)
    merged = Merged.of(directory)
    if merged.manifest["fingerprint"] != run.plan.fingerprint:
        raise ReleaseError(
            f"{directory.manifest}: merged with other settings than the run's plan", f"gra merge {run.path}"
        )
    return MergedRound(directory, merged.manifest, RoundPlan.load(directory))


def read_slices(path: Path, columns: list[str], rows: int = 4096) -> Iterator[pa.Table]:
    """A Parquet table, so many rows at a time.

    Raises:
        ReleaseError: no such file, damaged, or another table.
    """
    for batch in parquet.read_batches(path, columns, rows):
        yield pa.Table.from_batches([batch])
