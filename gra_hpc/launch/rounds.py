"""Rounds: what is left to do of a run, and what follows when a round's shards are published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gra_hpc import presets
from gra_hpc.errors import IncompleteError
from gra_hpc.plan import Plan, RoundPlan, size_round
from gra_hpc.publish import is_published, sweep
from gra_hpc.rundir import RunDir
from gra_hpc.storage import read_json, read_object


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


def finish_round(run: RunDir, number: int) -> str:
    """Merge a round whose shards are published; plan the next one, or make the release. Safe to repeat.

    Raises:
        IncompleteError: shards are missing and `merge.allow_partial` is off.
    """
    from gra_hpc.merge.describe import merge_described
    from gra_hpc.merge.job import merge_round

    plan, config = Plan.load(run), presets.load(run.config)
    plan.verify(config, run)
    if number not in rounds_of(plan, config.method.rounds):
        raise IncompleteError(
            f"round {number}: this run has rounds {rounds_of(plan, config.method.rounds)}",
            f"gra status {run.path}",
        )
    for shard in (run.round(number).shard(s) for s in range(shards_of(run, plan, number))):
        if shard.attempts.is_dir() and is_published(shard):
            sweep(shard)  # it died between its manifest and this
    if number == 0:
        return merge_described(run)
    summary = merge_round(run, number, config)
    if number < config.method.rounds:
        _plan_next(run, plan, number)
        return str(summary)
    from gra_hpc.release.build import build

    build(run)
    return f"{summary}; release in {run.release}"


def _plan_next(run: RunDir, plan: Plan, number: int) -> None:
    """Size the next round by the acceptance measured so far: rows that survived the merge, per candidate, those beyond
    the target among them."""
    config = presets.load(run.config)
    candidates = survived = 0
    for r in range(1, number + 1):
        merged = read_json(run.round(r).manifest)
        candidates += merged["ledger"]["planned"] - merged["ledger"]["pending"]
        survived += merged["counts"]["kept"] + merged["counts"]["dropped"].get("surplus", 0)
    if config.method.target_accepted and not survived:
        raise IncompleteError(
            f"none of {candidates} candidates of rounds 1 to {number} survived: round {number + 1} is not planned",
            f"gra inspect {run.path} --status rejected  (or failed)",
        )
    size_round(number + 1, config, plan.seeds, plan.shards, survived / max(1, candidates)).save(
        run.round(number + 1)
    )


def current_round(run: RunDir) -> int:
    """The first round that is not merged; the last if all are."""
    steps = remaining(run)
    if steps:
        return steps[0].round
    return presets.load(run.config).method.rounds
