"""The rounds of a run and what is left of them. Derived from files alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra_hpc.run.plan import RoundPlan, size_round
from gra_hpc.run.publish import is_published
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json, read_object


@dataclass(frozen=True)
class Step:
    """One round that is not merged yet."""

    round: int
    shards: tuple[int, ...]
    """Unpublished shards."""
    total: int
    """All shards of the round."""


def remaining(run: Run) -> list[Step]:
    """The rounds still to do, in order, with their unpublished shards. Derived from files alone.

    Raises:
        IncompleteError: the next round cannot be planned: nothing survived so far.
    """
    steps: list[Step] = []
    for number in run.rounds:
        directory = run.round(number)
        total = run.shards_of(number)
        if directory.manifest.is_file() and not _partial(run, directory.manifest):
            continue
        if not steps:
            RoundPlan.load(directory)  # or says why there is none
        missing = tuple(s for s in range(total) if not is_published(directory.shard(s)))
        if directory.manifest.is_file() and missing and not steps and run.config.merge.allow_partial:
            continue  # a partial merge that was asked for counts as done
        steps.append(Step(number, missing, total))
    if not steps and not (run.release / "manifest.json").is_file():
        steps.append(Step(number, (), total))  # merged, but the job died before the release was built
    return steps


def _partial(run: Run, manifest: Path) -> bool:
    then = f"move {manifest.parent} away, then gra merge {run.path}"
    return not read_object(manifest, "coverage.complete", "files", "ledger", "counts", then=then)["coverage"][
        "complete"
    ]


def plan_after(run: Run, merged: dict[str, Any]) -> RoundPlan | None:
    """The plan of the round after one that is being merged, by the acceptance measured so far: rows that survived the
    merges, per candidate, those beyond the target among them.

    Args:
        merged: the merge's manifest.

    Returns:
        None where there is a target and nothing to measure by: no candidate has survived.
    """
    number = merged["round"]
    candidates = survived = 0
    for m in (*(read_json(run.round(r).manifest) for r in range(1, number)), merged):
        candidates += m["ledger"]["planned"] - m["ledger"]["pending"]
        survived += m["counts"]["kept"] + m["counts"]["dropped"].get("surplus", 0)
    if run.config.method.target_accepted and not survived:
        return None
    return size_round(number + 1, run.config, run.plan.seeds, run.plan.shards, survived / max(1, candidates))


def current_round(run: Run) -> int:
    """The first round that is not merged; the last if all are."""
    steps = remaining(run)
    if steps:
        return steps[0].round
    return run.config.method.rounds
