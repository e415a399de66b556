"""The merge of a round, read back: its manifest, and its tables as they were written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra_hpc.errors import IncompleteError, ReleaseError, StorageError
from gra_hpc.foreign import fits
from gra_hpc.records import digest
from gra_hpc.run.directory import RoundDir, RunDir, ShardDir, round_name
from gra_hpc.run.plan import Plan, RoundPlan
from gra_hpc.storage import checked, read_object
from gra_hpc.terminal import counted, word

_TYPES = {
    "coverage": dict[str, Any],
    "files": dict[str, dict[str, Any]],
    "ledger": dict[str, int | dict[str, int]],
    "counts": dict[str, int | dict[str, int]],
    "shards": list[dict[str, Any]],
}
"""What is read of a merge's manifest."""
FORWARDED = "forwarded"
"""The step that leaves rows to the next round: each is a candidate of that one again."""
_TAKEN = {
    FORWARDED: "left to the next round",
    "contaminated": "in a benchmark",
    "exact": "exact duplicate",
    "fuzzy": "near-duplicate",
    "semantic": "semantic duplicate",
    "surplus": "beyond method.target_accepted",
}
"""What steps of a merge drop, in their order."""


@dataclass(frozen=True)
class Merged:
    """A merged round."""

    dir: RoundDir
    manifest: dict[str, Any]

    @classmethod
    def load(cls, directory: RoundDir) -> Merged | None:
        """What is in place; none if the round is not merged.

        Raises:
            StorageError: its manifest cannot be read, or is none.
        """
        try:
            found = read_object(directory.manifest, *_TYPES, then=_again(directory))
        except FileNotFoundError:
            return None
        if not all(fits(found[key], hint) for key, hint in _TYPES.items()) or not (
            all(fits(s.get("shard"), int) and fits(s.get("round", 0), int) for s in found["shards"])
            and all(fits(f.get("sha256"), str) for f in found["files"].values())
            and fits(found["coverage"].get("complete"), bool)
            and fits(found["coverage"].get("unneeded", []), list[int])
            and fits(found["counts"].get("kept", 0), int)
            and fits(found["counts"].get("dropped", {}), dict[str, int])
            and fits(found.get("late", []), list[dict[str, Any]])
        ):
            raise StorageError(f"{directory.manifest}: not the manifest of a merge", _again(directory))
        return cls(directory, found)

    @classmethod
    def of(cls, directory: RoundDir) -> Merged:
        """What is in place.

        Raises:
            IncompleteError: the round is not merged.
            StorageError: its manifest cannot be read, or is none.
        """
        found = cls.load(directory)
        if found is None:
            run = directory.path.parent.parent
            RunDir(run).check_there()
            begun = any(directory.path.glob("shards/*/manifest.json"))
            then = f"gra merge {word(run)}" if begun else f"gra status {word(run)}  (says what to do first)"
            raise IncompleteError(f"{round_name(directory.number)} is not merged", then)
        return found

    @property
    def complete(self) -> bool:
        """Whether all shards of the round are in it, but those that are not needed."""
        return bool(self.manifest["coverage"]["complete"])

    @property
    def unneeded(self) -> frozenset[int]:
        """Shards of the round that it did without, since its target was met (`unneeded.Unneeded`)."""
        return frozenset(self.manifest["coverage"].get("unneeded", ()))

    @property
    def holds_all(self) -> bool:
        """Whether all shards of the round are in it: none can come late."""
        return self.complete and not self.unneeded

    @property
    def taken_back(self) -> bool:
        """Whether shards that did not seem to be needed are: it has kept too few rows without them."""
        return bool(self.manifest["coverage"].get("taken_back"))

    @property
    def number(self) -> int:
        return self.dir.number

    @property
    def shards(self) -> frozenset[tuple[int, int]]:
        """Round and number of the shards in it: the round's own, and late ones of rounds before."""
        return frozenset((s.get("round", self.number), s["shard"]) for s in self.manifest["shards"])

    @property
    def late(self) -> list[dict[str, Any]]:
        """What it took in of late shards of rounds before, by round: shards, ledger, rows kept and dropped."""
        return list(self.manifest.get("late", ()))

    @property
    def digest(self) -> str:
        """What was merged and what came of it, without when, where and in how many attempts."""
        m = self.manifest
        shards = [[s.get("round", self.number), s["shard"], s.get("samples_sha256")] for s in m["shards"]]
        files = {name: f["sha256"] for name, f in m["files"].items()}
        parts = [m.get(k) for k in ("ledger", "coverage", "steps", "similarity")]
        return digest(self.number, RoundPlan.load(self.dir).candidates, shards, files, parts)

    @property
    def again(self) -> str:
        """What to type when it is damaged."""
        return _again(self.dir)

    def file(self, name: str) -> Path:
        """A file of the merge, as it was written.

        Raises:
            ReleaseError: it is not.
        """
        return checked(self.dir.merged / name, self.manifest["files"][name], self.again)


def _again(directory: RoundDir) -> str:
    """The same shards give the same tables."""
    run = directory.path.parent.parent
    return f"move {directory.merged} away, then gra merge {word(run)} --round {directory.number}"


def made_again(shard: ShardDir) -> str:
    """What to type so that a published shard which is damaged, or gone, is made again, in words.

    A merge that has counted it stands until it is moved away too, and so do those after it, which rest on its pool:
    where the shard comes back as another, their shards are found to be drawn from a pool that is no more.
    """
    run = RunDir(shard.path.parents[3])
    round_ = int(shard.path.parents[1].name)
    counting = (n for n in _merged_rounds(run) if n >= round_ and _counts(run.round(n), (round_, shard.number)))
    first = next(counting, None)
    away = [str(shard.manifest)] if shard.manifest.exists() else []
    if first is None:
        return (
            f"move {shard.manifest} away, then gra resume {word(run.path)}" if away else f"gra resume {word(run.path)}"
        )
    away.append(merges_from(run, first))
    return f"bring it back, or move {' and '.join(away)} away, then gra resume {word(run.path)}"


def gone(shard: ShardDir, number: int) -> ReleaseError:
    """A shard without its manifest, though a round's merge has counted it."""
    return ReleaseError(f"{shard.manifest}: gone, though round {number} was merged with it", made_again(shard))


def merges_from(run: RunDir, first: int) -> str:
    """The directories of the merges of a round and of those after it, as a shell reads them."""
    names = [run.round(n).path.name for n in _merged_rounds(run) if n >= first]
    which = names[0] if len(names) == 1 else f"{{{','.join(names)}}}"
    return f"{run.path}/rounds/{which}/{run.round(first).merged.name}"


def _merged_rounds(run: RunDir) -> list[int]:
    return sorted(int(path.parts[-2]) for path in run.path.glob("rounds/[0-9]*/merged"))


def _counts(directory: RoundDir, shard: tuple[int, int]) -> bool:
    """Whether a merge holds a shard, by round and number; one that cannot be read may."""
    try:
        merged = Merged.load(directory)
    except StorageError:
        return True
    return merged is not None and shard in merged.shards


def basis_of(run: RunDir, number: int) -> str:
    """What a round's shards rest on: a digest of the pool they draw from and of how many candidates the round makes.
    Empty for rounds 0 and 1, where neither ever changes: a partial merge may be replaced.

    Raises:
        IncompleteError: the round before is not merged.
    """
    if number < 2:
        return ""
    files = Merged.of(run.round(number - 1)).manifest["files"]
    names = ("pool.parquet", run.round(number).plan_file.name)
    return digest([files[name]["sha256"] for name in names if name in files])


def seeds_of(run: RunDir, plan: Plan) -> Path:
    """The table of the seeds, as it was planned.

    Raises:
        ReleaseError: it is not.
    """
    return as_planned(run, plan, run.seeds)


def as_planned(run: RunDir, plan: Plan, path: Path) -> Path:
    """A file that was written with the plan; its digest is there, unless the plan is of an earlier format.

    Raises:
        ReleaseError: it is not as it was written.
    """
    recorded = plan.files.get(str(path.relative_to(run.path)))
    then = f"bring it back, or {run.anew()}"
    return checked(path, recorded, then) if recorded else path


def pool_of(run: RunDir, plan: Plan, number: int) -> Path:
    """The table that a round draws from, as it was written: the pool of the round before it; for the first the seeds,
    described where they had to be.

    Raises:
        IncompleteError: the round before is not merged.
        ReleaseError: it is not as it was written.
    """
    if number == 0 or (number == 1 and not plan.undescribed):
        return seeds_of(run, plan)
    return Merged.of(run.round(number - 1)).file("pool.parquet")


def decided(dropped: Mapping[str, int]) -> int:
    """Rows that merges dropped for good, and left to no other round."""
    return sum(n for step, n in dropped.items() if step != FORWARDED)


def not_kept(dropped: Mapping[str, int]) -> list[str]:
    """What became of rows that merges did not keep: `dropped: 8 near-duplicates`, `4 left to the next round`."""
    words = taken({step: n for step, n in dropped.items() if step != FORWARDED})
    left = taken({FORWARDED: dropped.get(FORWARDED, 0)})
    return [*([f"dropped: {words}"] if words else []), *([left] if left else [])]


def taken(dropped: Mapping[str, int]) -> str:
    """What merges dropped, in words: `8 near-duplicates, 4 beyond method.target_accepted`; empty: nothing."""
    words = {step: _TAKEN.get(step, f"by {step}") for step in [*_TAKEN, *sorted(set(dropped) - set(_TAKEN))]}
    return ", ".join(
        counted(n, words[step]) if words[step].endswith("duplicate") else f"{n} {words[step]}"
        for step in words
        if (n := dropped.get(step, 0))
    )
