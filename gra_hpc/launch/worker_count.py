"""How many workers a round is worth: so many that the start of its engines is a small part of each one's time."""

from __future__ import annotations

from gra_hpc.config.settings import EngineKind
from gra_hpc.flows.registry import flow_of
from gra_hpc.run.engines import plan_engines
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.rounds import Step
from gra_hpc.run.run import Run

WORK_PER_START = 19.0
"""Seconds of work that are worth a second of starting engines: a start is then a twentieth of a worker's time."""


def workers_for(run: Run, step: Step) -> int:
    """Workers for what is left of a round: `launch.workers`, or by the estimate of its work; no more than there are
    shards, or than may run at once.

    Raises:
        ConfigError, EngineError: the models do not fit on the site's nodes.
    """
    config, left = run.config, len(step.shards)
    left = min(left, config.launch.parallel or config.site.parallel or left)
    if config.launch.workers or left < 2:
        return min(left, config.launch.workers or left)
    if config.engine.kind is EngineKind.simulated or not flow_of(config).asks:
        return left  # nothing is started
    solution = plan_engines(config, run.plan)
    if solution is None:
        return left  # all models answer elsewhere
    candidates = run.plan.undescribed if step.round == 0 else _candidates(run, step)
    work_s = candidates * len(step.shards) / step.total / max(1e-9, solution.rota.samples_per_s)
    return most_workers(left, work_s, solution.start_s)


def most_workers(bound: int, work_s: float, start_s: float) -> int:
    """Workers for so much work.

    Args:
        bound: their greatest number.
        work_s: of one node for all of it.
        start_s: of a node's engines.
    """
    return max(1, min(bound, int(work_s / max(1e-9, WORK_PER_START * start_s))))


def _candidates(run: Run, step: Step) -> int:
    """Of a round; of one that is not planned yet as many as of the first."""
    planned = run.round(step.round if run.round(step.round).plan_file.is_file() else 1)
    return RoundPlan.load(planned).candidates
