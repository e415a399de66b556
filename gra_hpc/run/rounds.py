"""The rounds of a run and what is left of them. Derived from files alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gra_hpc.config import presets
from gra_hpc.run.directory import RunDir
from gra_hpc.run.plan import Plan, RoundPlan
from gra_hpc.run.publish import is_published
from gra_hpc.storage import read_object


@dataclass(frozen=True)
class Step:
    """One round that is not merged yet."""

    round: int
    shards: tuple[int, ...]
    """Unpublished shards."""
    total: int
    """All shards of the round."""


def rounds_of(plan: Plan, rounds: int) -> list[int]:
    """The rounds of a run; 0 only if there are seeds to describe."""
    return [*([0] if plan.undescribed else []), *range(1, rounds + 1)]


def shards_of(run: RunDir, plan: Plan, number: int) -> int:
    """Shards of a round."""
    return RoundPlan.load(run.round(0)).shards if number == 0 else plan.shards


def remaining(run: RunDir) -> list[Step]:
    """The rounds still to do, in order, with their unpublished shards. Derived from files alone."""
    plan, config = Plan.load(run), presets.load(run.config)
    steps: list[Step] = []
    for number in rounds_of(plan, config.method.rounds):
        directory = run.round(number)
        total = shards_of(run, plan, number)
        if directory.manifest.is_file() and not _partial(run, directory.manifest):
            continue
        missing = tuple(s for s in range(total) if not is_published(directory.shard(s)))
        if directory.manifest.is_file() and missing and not steps and config.merge.allow_partial:
            continue  # a partial merge that was asked for counts as done
        steps.append(Step(number, missing, total))
    if not steps and not (run.release / "manifest.json").is_file():
        steps.append(Step(number, (), total))  # merged, but the job died before the release was built
    return steps


def _partial(run: RunDir, manifest: Path) -> bool:
    then = f"move {manifest.parent} away, then gra merge {run.path}"
    return not read_object(manifest, "coverage.complete", "files", "ledger", "counts", then=then)["coverage"][
        "complete"
    ]


def current_round(run: RunDir) -> int:
    """The first round that is not merged; the last if all are."""
    steps = remaining(run)
    if steps:
        return steps[0].round
    return presets.load(run.config).method.rounds
