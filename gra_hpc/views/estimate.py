"""How much work a run is, and how long it takes: calls and tokens by role, node-hours, wall time by number of workers.

Speeds are the performance model's (`engines/performance.py`) from stated defaults, or from a calibration of the site.
Waiting in Slurm's queue is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gra_hpc.config.settings import EngineKind, RunConfig
from gra_hpc.config.site import Executor
from gra_hpc.placement.workload import MethodRates, ModelLoad, RoleLoad, calibration_of, method_load
from gra_hpc.run.plan import Plan
from gra_hpc.terminal import counted
from gra_hpc.views.status_lines import duration

if TYPE_CHECKING:
    from gra_hpc.launch.legs import Leg
    from gra_hpc.placement.placement import Solution

WIDTHS = (1, 4, 16, 64, 256, 1024)
"""Numbers of workers to tell the wall time for."""
LOST = 0.25
"""Share of starts and tails in what is paid from which fewer workers are spoken of."""
TAIL = 0.9
"""Of the time that a window of samples takes on a full node: what a worker loses a round while its window fills, and
empties at the round's end (between shards it stays full). Simulated: `tools/simulated/simulate_cluster.py`."""


@dataclass(frozen=True)
class Estimate:
    """One round, and round 0 before the first; and the workers that do it, which start their engines once."""

    candidates: int
    shards: int
    roles: dict[str, RoleLoad]
    """Work of the round by role, all models together."""
    describing: RoleLoad | None
    """Round 0."""
    samples_per_s: float
    """Of one node, with all engines awake and busy."""
    start_s: float
    """Until a node's engines answer."""
    limit_s: float
    """What a job has before its drain. 0: no limit."""
    gpus: int
    """Of one node."""

    workers: int = 1
    why: str = ""
    """What their number follows from."""
    rounds: int = 1
    """Rounds that they do with one start."""
    window: int = 0
    """Samples that a worker has in flight."""

    @property
    def shard_s(self) -> float:
        """Seconds of answering in one shard."""
        return self.candidates / self.shards / self.samples_per_s

    @property
    def work_s(self) -> float:
        """Seconds of nodes on answers, in all the rounds."""
        return self.rounds * self.candidates / self.samples_per_s

    def tails_s(self, width: int) -> float:
        """Seconds that each of so many workers loses on windows that are not full."""
        return self.rounds * TAIL * min(self.window, self.candidates / width) / self.samples_per_s

    def jobs(self, width: int) -> int:
        """Jobs that each of so many workers takes, within its time limit; each starts engines."""
        if not self.limit_s:
            return 1
        return max(1, math.ceil((self.work_s / width + self.tails_s(width)) / max(60.0, self.limit_s - self.start_s)))

    @property
    def paid_s(self) -> dict[str, float]:
        """Seconds of nodes by what they go into."""
        n = self.workers
        return {"work": self.work_s, "starts": n * self.jobs(n) * self.start_s, "tails": n * self.tails_s(n)}

    def wall_s(self, width: int) -> float:
        """Seconds of the rounds with so many workers."""
        waves = math.ceil(self.shards / width)
        return self.rounds * waves * self.shard_s + self.tails_s(width) + self.jobs(width) * self.start_s


def cheaper(e: Estimate) -> Estimate | None:
    """The same with fewer workers, where more than a quarter of what is paid is no work; none: it is less, or there is
    one worker."""

    def wasted(of: Estimate) -> float:
        paid = of.paid_s
        return 1 - paid["work"] / sum(paid.values())

    if wasted(e) <= LOST:
        return None
    fewer = e
    while fewer.workers > 1 and wasted(fewer) > LOST / 2:
        fewer = replace(fewer, workers=-(-fewer.workers // 2))
    return fewer if fewer.workers < e.workers else None


def estimate(
    config: RunConfig, plan: Plan, candidates: int, shards: int, solution: Solution | None, leg: Leg | None = None
) -> Estimate:
    """Estimate a round.

    Args:
        candidates: of the round.
        shards: of the round.
        solution: where the engines run; none with simulated engines, whose calls take `simulated_latency_s`, and
            where endpoints answer for every model.
        leg: the round's, with its workers; none: one worker, and no other round.

    Raises:
        ConfigError: a calibration that cannot be read.
    """
    rates, _ = calibration_of(config)
    load = method_load(config, rates, thinking=plan.thinking_models, context_tokens=plan.context_tokens)
    if solution is not None:
        start = solution.start_s
        speed = solution.rota.samples_per_s
    else:
        in_a_row = sum(r.calls for r in _by_role(load, 1).values()) / 2
        start = 0.0
        speed = config.launch.window / max(1e-6, config.engine.simulated_latency_s * in_a_row)
    site = config.site
    return Estimate(
        candidates,
        shards,
        _by_role(load, candidates),
        _describing(config, rates, plan),
        speed,
        start,
        max(0.0, 60.0 * site.time_minutes - site.signal_lead_s) if site.executor is Executor.slurm else 0.0,
        site.gpus_per_node,
        workers=leg.workers if leg else 1,
        why=leg.why if leg else "",
        rounds=sum(step.round > 0 for step in leg.steps) if leg else 1,
        window=config.launch.window,
    )


def _by_role(load: dict[str, ModelLoad], times: int) -> dict[str, RoleLoad]:
    roles: dict[str, RoleLoad] = {}
    for model in load.values():
        for role, work in model.roles.items():
            old = roles.get(role, RoleLoad(0, 0, 0))
            roles[role] = RoleLoad(
                old.calls + times * work.calls,
                old.prompt_tokens + times * work.prompt_tokens,
                old.completion_tokens + times * work.completion_tokens,
                thought_tokens=old.thought_tokens + times * work.thought_tokens,
            )
    return roles


def _describing(config: RunConfig, rates: MethodRates, plan: Plan) -> RoleLoad | None:
    load = method_load(config, rates, "prepare", plan.thinking_models, plan.context_tokens)
    return _by_role(load, plan.undescribed).get("generator") if plan.undescribed else None


def lines(e: Estimate, config: RunConfig) -> Iterator[str]:
    """An estimate, for people."""
    if e.describing:
        yield f"work         round 0 (describe): {' '.join(_work(e.describing).split())}"
    calls = sum(r.calls for r in e.roles.values())
    yield f"{'' if e.describing else 'work':12} a round: {_count(calls)} calls"
    for role, work in e.roles.items():
        yield f"               {role:12} {_work(work)}"
    if config.engine.kind is EngineKind.simulated:
        return
    elsewhere = [name for name, m in config.models.items() if m.endpoint.url]
    if len(elsewhere) == len(config.models):
        yield "time         not known: every model is hosted elsewhere"
        return
    name = "GPU-hours" if e.gpus else "node-hours"
    paid = e.paid_s
    hours = sum(paid.values()) / e.rounds / 3600 * (e.gpus or 1)
    share = ", ".join(f"{v / sum(paid.values()):.0%} {k}" for k, v in paid.items())
    yield (
        f"time         a round: {hours:,.3g} {name}"
        + (f"; {config.method.rounds} rounds: {hours * config.method.rounds:,.3g}" if config.method.rounds > 1 else "")
        + f"; {share}"
    )
    yield (
        f"             {counted(e.workers, 'worker')}{f' ({e.why})' if e.why else ''}, each after a start of"
        f" {duration(e.start_s)}; a shard: {e.candidates / e.shards:,.0f} candidates, {duration(e.shard_s)}"
    )
    if fewer := cheaper(e):
        instead = sum(fewer.paid_s.values()) / fewer.rounds / 3600 * (e.gpus or 1)
        yield (
            f"             launch.workers={fewer.workers}: {instead:,.3g} {name} in place of {hours:,.3g}, and"
            f" {duration(fewer.wall_s(fewer.workers))} in place of {duration(e.wall_s(e.workers))}"
        )
    if elsewhere:
        yield f"             (what {', '.join(elsewhere)} take, hosted elsewhere, is not in it)"
    if e.limit_s:
        again = e.jobs(e.workers) - 1
        said = f"{counted(again, 'requeue')} a worker, {again * e.workers} in all" if again else "no requeue expected"
        yield f"             time limit {config.site.time_minutes} min: {said}"
    what = "a round" if e.rounds == 1 else f"{e.rounds} rounds"
    if config.site.executor is Executor.local:  # however many at once: they share one machine
        yield f"             wall time of {what}: {duration(sum(paid.values()))} here"
    else:
        most = min(e.shards, config.launch.parallel or config.site.parallel or e.shards)
        widths = sorted({w for w in WIDTHS if w < most} | {most, e.workers})
        yield f"             wall time of {what}: " + "; ".join(
            f"{duration(e.wall_s(w))} with {counted(w, 'worker')}" for w in widths
        )
    if config.site.calibration:
        yield f"             (without the queue; calibrated by {config.site.calibration})"
    else:
        yield "             (without the queue; by stated defaults, good to a factor: gra calibrate measures)"


def _work(work: RoleLoad) -> str:
    return (
        f"{_count(work.calls):>6} calls, {_count(work.prompt_tokens):>6} prompt"
        f" and {_count(work.completion_tokens - work.thought_tokens):>6} answer tokens"
        + (f", {_count(work.thought_tokens)} of thoughts" if work.thought_tokens else "")
    )


def _count(n: float) -> str:
    """`812`, `46k`, `3.1M`, `1.2G`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= size * 0.9995:
            value = n / size
            return f"{value:.1f}{unit}" if value < 10 else f"{value:.0f}{unit}"
    return f"{n:.0f}"
