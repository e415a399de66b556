"""The rounds of a run and what is left of them. Derived from files alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gra_hpc.run.attempts import earlier
from gra_hpc.run.directory import ShardDir
from gra_hpc.run.journal import Scan, scan
from gra_hpc.run.merged import Merged
from gra_hpc.run.plan import RoundPlan, size_round
from gra_hpc.run.publish import is_published
from gra_hpc.run.run import Run
from gra_hpc.run.unneeded import Unneeded
from gra_hpc.storage import read_object
from gra_hpc.terminal import word


@dataclass(frozen=True)
class Step:
    """One round that is to be merged, or merged anew."""

    round: int
    shards: tuple[int, ...]
    """Unpublished shards that are needed."""
    total: int
    """All shards of the round."""


def remaining(run: Run, unneeded: Unneeded | None = None) -> list[Step]:
    """The rounds still to do, in order, with their unpublished shards that are needed. Derived from files alone.

    A partial merge is replaced once more shards are published, until the next round has drawn from it. From then on it
    stands, and what is late goes into the next merge that can be replaced, or is not made yet.

    Args:
        unneeded: what has looked at a round before, and so need not read all of it again.

    Raises:
        IncompleteError: the next round cannot be planned: nothing survived so far.
    """
    merges = {n: Merged.load(run.round(n)) for n in run.rounds}
    held = {shard for m in merges.values() if m for shard in m.shards}
    steps: list[Step] = []
    waiting = False  # whether shards of rounds before are in no merge, or will be in none
    for number, merged in merges.items():
        if merged and merged.holds_all and not waiting:
            continue
        if not merged and not steps:
            RoundPlan.load(run.round(number))  # or says why there is none
        total = run.shards_of(number)
        absent = [s for s in range(total) if not is_published(run.round(number).shard(s))]
        looking = unneeded if unneeded and unneeded.number == number else Unneeded(run, number)
        spared = looking.shards() if absent and (merged or not steps) else ()
        missing = tuple(s for s in absent if s not in spared)
        if not merged:
            steps.append(Step(number, missing, total))
            waiting = False
            continue
        late = any((number, s) not in held for s in set(range(total)).difference(absent))
        if not steps and run.config.merge.allow_partial:
            missing = ()  # a partial merge that was asked for counts as done
        if is_drawn_from(run, number):
            if missing:
                steps.append(Step(number, missing, total))
            waiting = waiting or late or bool(missing)
        elif late or missing or waiting:
            steps.append(Step(number, missing, total))
            waiting = False
    if not steps and not is_released(run):
        last = run.rounds[-1]
        steps.append(Step(last, (), run.shards_of(last)))  # merged, but the job died before the release was built
    return steps


def is_taken_back(run: Run, number: int) -> bool:
    """Whether a round's merge has kept too few rows without some shards, so that these are still to be made."""
    merged = Merged.load(run.round(number)) if number else None
    return bool(merged and merged.taken_back) and any(s.round == number and s.shards for s in remaining(run)[:1])


def is_released(run: Run) -> bool:
    """Whether the release is there, made of the merges that are in place.

    Raises:
        StorageError: its manifest cannot be read, or is none.
    """
    then = f"move {run.release} away, then gra merge {word(run.path)}"
    try:
        manifest = read_object(run.release / "manifest.json", "rounds", then=then)
    except FileNotFoundError:
        return False
    made_from = {r["round"]: r["merge"] for r in manifest["rounds"]}
    return made_from == {n: Merged.of(run.round(n)).digest for n in run.rounds if n}


def gone_shards(run: Run) -> list[tuple[ShardDir, int]]:
    """Shards without their manifests that a merge has counted, each with the round of that merge."""
    merges = [m for n in run.rounds if (m := Merged.load(run.round(n)))]
    counted = [(run.round(r).shard(s), m.number) for m in merges for r, s in sorted(m.shards)]
    return [(shard, number) for shard, number in counted if not is_published(shard)]


def is_drawn_from(run: Run, number: int) -> bool:
    """Whether the next round has drawn from a round's merge: it has a published shard, or an answered call."""
    if number == run.rounds[-1]:
        return False
    following = [run.round(number + 1).shard(s) for s in range(run.shards_of(number + 1))]
    if any(is_published(shard) for shard in following):
        return True
    journals = (a.journal for shard in following for a in earlier(shard))
    return any(True for journal in journals for _ in scan(journal, Scan(journal)))


def late_shards(run: Run, number: int) -> list[tuple[int, int]]:
    """Published shards of rounds before one that are in no merge but, perhaps, this round's: round and number."""
    elsewhere = held_elsewhere(run, number)
    found = []
    for r in range(1, number):
        merged = Merged.load(run.round(r))
        if merged and not merged.holds_all:
            shards = (s for s in range(run.shards_of(r)) if (r, s) not in elsewhere)
            found += [(r, s) for s in shards if is_published(run.round(r).shard(s))]
    return found


def held_elsewhere(run: Run, number: int) -> set[tuple[int, int]]:
    """Shards, by round and number, that are in the merge of another round than this one."""
    merges = (Merged.load(run.round(n)) for n in run.rounds if n != number)
    return {shard for m in merges if m for shard in m.shards}


def plan_after(run: Run, merged: dict[str, Any]) -> RoundPlan | None:
    """The plan of the round after one that is being merged, by the acceptance measured so far: rows that survived the
    merges, per candidate, those beyond the target among them.

    Args:
        merged: the merge's manifest.

    Returns:
        None where there is a target and nothing to measure by: no candidate has survived.
    """
    number = merged["round"]
    if run.plan.decided:  # its candidates are those that the other run made
        return RoundPlan(**run.plan.decided["rounds"][number])
    candidates = survived = 0
    for m in (*(Merged.of(run.round(r)).manifest for r in range(1, number)), merged):
        books = [m["ledger"], *(late["ledger"] for late in m["late"])]
        candidates += sum(b["planned"] - b["pending"] for b in books)
        survived += m["counts"]["kept"] + m["counts"]["dropped"].get("surplus", 0)
    if run.config.method.target_accepted and not survived:
        return None
    return size_round(number + 1, run.config, run.plan.seeds, run.plan.shards, survived / max(1, candidates))


def allowance(run: Run, number: int, late: bool) -> int:
    """Rows that a round's merge may keep; 0: all that survive. Where late shards of rounds before come with it, also as
    many as the merges before fell short of their targets."""
    target = run.config.method.target_accepted
    if not target or not late:
        return target
    before = [Merged.of(run.round(n)).manifest["counts"]["kept"] for n in range(1, number)]
    return target + max(0, sum(target - kept for kept in before))


def current_round(run: Run) -> int:
    """The first round that is not merged; the last if all are."""
    steps = remaining(run)
    if steps:
        return steps[0].round
    return run.config.method.rounds
