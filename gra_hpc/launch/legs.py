"""Legs of a run: rounds that the same workers do one after the other, merging what lies between beside their engines.

A leg is one array of workers and one job behind it, which merges what they have not merged. Where a round is too large
for that, or its shards so long that workers would not wait for each other, a leg ends with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from gra_hpc.config.settings import EngineKind
from gra_hpc.config.site import Executor
from gra_hpc.flows.registry import flow_of
from gra_hpc.run.directory import round_name
from gra_hpc.run.engines import plan_engines
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.rounds import Step
from gra_hpc.run.run import Run

if TYPE_CHECKING:
    from gra_hpc.placement.placement import Solution

WORK_PER_START = 19.0
"""Seconds of work that are worth a second of starting engines: a start is then a twentieth of a worker's time."""


@dataclass(frozen=True)
class Leg:
    """Rounds that are left, in a row, and the workers that they are worth."""

    steps: tuple[Step, ...]
    workers: int
    """Of all of them: so many that the start of its engines is a small part of each one's time. 0: only a merge is
    left."""
    why: str = ""
    """What their number follows from, for people."""

    @property
    def first(self) -> int:
        return self.steps[0].round

    @property
    def last(self) -> int:
        return self.steps[-1].round

    @property
    def shards(self) -> tuple[int, ...]:
        """What is left of its first round of which something is: where workers begin."""
        return next((step.shards for step in self.steps if step.shards), ())

    @property
    def most(self) -> int:
        """Workers that find a shard of their own, in one of its rounds at least."""
        return max(len(step.shards) for step in self.steps)

    def __str__(self) -> str:
        return round_name(self.first) if self.first == self.last else f"rounds {self.first} to {self.last}"


@dataclass(frozen=True)
class Pace:
    """Of one node, by the performance model."""

    samples_per_s: float
    start_s: float

    @classmethod
    def of_engines(cls, solution: Solution | None) -> Pace | None:
        """Of engines that are placed; none where none are."""
        return cls(max(1e-9, solution.rota.samples_per_s), solution.start_s) if solution else None

    @classmethod
    def of(cls, run: Run) -> Pace | None:
        """Of a run's engines; none where nothing is started here.

        Raises:
            ConfigError, EngineError: the models do not fit on the site's nodes.
        """
        config = run.config
        if config.engine.kind is EngineKind.simulated or not flow_of(config).asks:
            return None
        return cls.of_engines(plan_engines(config, run.plan))


def legs_of(
    run: Run, steps: Sequence[Step], pace: Callable[[], Pace | None] | None = None, through: int = 0
) -> list[Leg]:
    """What is left of a run, cut into legs.

    Args:
        pace: of a node, where it is known already; else it is worked out when the number of workers depends on it.
        through: the last round that workers who run now go on to: a round whose shards they have published is theirs
            to merge.

    Raises:
        ConfigError, EngineError: the models do not fit on the site's nodes.
    """
    pace = pace or cache(lambda: Pace.of(run))
    legs: list[tuple[Step, ...]] = []
    for step in steps:
        if legs and _goes_on(run, legs[-1], step, pace, through):
            legs[-1] += (step,)
        else:
            legs.append((step,))
    return [Leg(leg, *_workers(run, leg, pace)) for leg in legs]


def _goes_on(run: Run, leg: tuple[Step, ...], following: Step, pace: Callable[[], Pace | None], through: int) -> bool:
    """Whether the workers of a leg merge its last round, and go on with the next."""
    config, rows, step = run.config, run.config.launch.inline_merge_rows, leg[-1]
    fresh = not any(run.round(s.round).manifest.is_file() for s in (step, following))
    if config.merge.allow_partial or not fresh or following.round != step.round + 1:
        return False
    mine = step.shards or step.round < through
    if not (mine and following.shards and rows) or (step.round and _candidates(run, step) > rows):
        return False
    if _workers(run, (*leg, following), pace)[0] == 1:
        return True
    # those that are through wait for the others' last shards: not longer than `linger_s`, or few would go on
    known = pace()
    return known is None or _candidates(run, step) / step.total / known.samples_per_s <= config.launch.linger_s


def _workers(run: Run, steps: Sequence[Step], pace: Callable[[], Pace | None]) -> tuple[int, str]:
    """`launch.workers`, or by the estimate of the work; no more than there are shards, or than may run at once. And
    which of them it was."""
    config = run.config
    bounds = {"one a shard": max(len(step.shards) for step in steps)}
    if config.launch.parallel or config.site.executor is Executor.local:
        bounds["launch.parallel"] = config.launch.parallel or 1
    elif config.site.parallel:
        bounds["site.parallel"] = config.site.parallel
    if config.launch.workers:
        bounds["launch.workers"] = config.launch.workers
    elif min(bounds.values()) > 1 and (known := pace()) is not None:
        candidates = sum(_candidates(run, step) * len(step.shards) / step.total for step in steps)
        worth = most_workers(candidates / known.samples_per_s, known.start_s)
        bounds["a start is a twentieth of each one's time"] = worth
    why = min(bounds, key=lambda name: bounds[name])
    return bounds[why], why


def most_workers(work_s: float, start_s: float) -> int:
    """Workers that so much work is worth.

    Args:
        work_s: of one node for all of it.
        start_s: of a node's engines.
    """
    return max(1, int(min(1e9, work_s / max(1e-9, WORK_PER_START * start_s))))


def _candidates(run: Run, step: Step) -> int:
    """Of a round; of one that is not planned yet as many as of the first."""
    if step.round == 0:
        return run.plan.undescribed
    planned = run.round(step.round if run.round(step.round).plan_file.is_file() else 1)
    return RoundPlan.load(planned).candidates
