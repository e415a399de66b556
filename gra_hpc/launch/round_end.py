"""Rounds: what is left to do of a run, and what follows when a round's shards are published."""

from __future__ import annotations

from gra_hpc.errors import IncompleteError
from gra_hpc.run.plan import size_round
from gra_hpc.run.publish import is_published, sweep
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json


def finish_round(run: Run, number: int) -> str:
    """Merge a round whose shards are published; plan the next one, or make the release. Safe to repeat.

    Raises:
        IncompleteError: shards are missing and `merge.allow_partial` is off.
    """
    from gra_hpc.merge.described_seeds import merge_described
    from gra_hpc.merge.round import merge_round

    if number not in run.rounds:
        raise IncompleteError(f"round {number}: this run has rounds {run.rounds}", f"gra status {run.path}")
    for shard in (run.round(number).shard(s) for s in range(run.shards_of(number))):
        if shard.attempts.is_dir() and is_published(shard):
            sweep(shard)  # it died between its manifest and this
    if number == 0:
        return merge_described(run)
    summary = merge_round(run, number)
    if number < run.config.method.rounds:
        _plan_next(run, number)
        return str(summary)
    from gra_hpc.release.build import build

    build(run)
    return f"{summary}; release in {run.release}"


def _plan_next(run: Run, number: int) -> None:
    """Size the next round by the acceptance measured so far: rows that survived the merge, per candidate, those beyond
    the target among them."""
    candidates = survived = 0
    for r in range(1, number + 1):
        merged = read_json(run.round(r).manifest)
        candidates += merged["ledger"]["planned"] - merged["ledger"]["pending"]
        survived += merged["counts"]["kept"] + merged["counts"]["dropped"].get("surplus", 0)
    if run.config.method.target_accepted and not survived:
        raise IncompleteError(
            f"none of {candidates} candidates of rounds 1 to {number} survived: round {number + 1} is not planned",
            f"gra inspect {run.path} --status rejected  (or failed)",
        )
    size_round(number + 1, run.config, run.plan.seeds, run.plan.shards, survived / max(1, candidates)).save(
        run.round(number + 1)
    )
