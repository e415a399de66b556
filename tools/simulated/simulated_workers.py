"""The real worker (choice, overlap of shards, flow, journal, drain, resume, publication) in simulated time: for
`simulate_cluster`.

SIMULATED: the engines are `SimulatedNode`, the clock jumps. What is measured is how long a worker takes by that clock
for some shards, from ready engines to its end, over all its jobs; `WorkerModel` is fitted to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gra_hpc.config.settings import EngineKind, RunConfig
from gra_hpc.placement.placement import NodeSpec
from gra_hpc.placement.turns import Rota
from gra_hpc.run import planning, worker
from gra_hpc.run.run import Run
from gra_hpc.run.shard import End
from tools.simulated import simulation
from tools.simulated.clock import SimulatedTime
from tools.simulated.node import SimulatedNode

NODE = NodeSpec("gpu", 8, 80, device_type="a100")
KINDS = ((1, 4000), (4, 1000), (16, 250), (16, 500), (8, 1000), (16, 1000))
"""Shards of a worker that run through the real code, and the candidates of each: several windows in all, as a worker
has many. Below that its time is what the longest samples take, and no rate shows in it."""


@dataclass(frozen=True)
class Experiment:
    """One worker through the real code."""

    size: int
    """Candidates of each of its shards."""
    shards: int = 1
    interruptions: tuple[tuple[float, int], ...] = ()
    """For each of its jobs but the last: seconds after its engines are ready, and the signal."""
    seed: int = 0
    """Another one draws other answers, of other lengths."""

    @property
    def candidates(self) -> int:
        return self.size * self.shards


@dataclass(frozen=True)
class Measured:
    """What became of it."""

    experiment: Experiment
    seconds: tuple[float, ...]
    """Of each of its jobs, from ready engines to its end, simulated."""
    ends: tuple[str, ...]
    calls: int
    cpu_seconds: float
    replayed: int


def make_run(path: Path, config: RunConfig, size: int, shards: int = 1) -> Run:
    """A planned run of shards of so many candidates, with the simulated engine and models that lie nowhere."""
    model = path / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text(
        '{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}', encoding="utf-8"
    )
    with (path / "seeds.jsonl").open("w", encoding="utf-8") as f:
        for r in simulation.seeds(size * shards):
            row = {k: getattr(r, k) for k in ("instruction", "response", "domain", "summary")}
            f.write(json.dumps(row | {"keywords": list(r.keywords)}) + "\n")
    config.engine.kind = EngineKind.simulated
    config.seeds = replace(config.seeds, path=str(path / "seeds.jsonl"), fields={}, limit=0)
    config.merge.semantic = False
    config.merge.decontamination.sources = []
    config.launch.shards = shards
    config.models = {n: replace(m, path=str(model), load_format="dummy") for n, m in config.models.items()}
    return planning.make(path / "run", config)


@contextlib.contextmanager
def simulated_engines(rota: Rota, speed: float, stop: tuple[float, int] | None, clock: list[float]) -> Iterator[None]:
    """A worker finds a simulated node where it opens its engines, and time that jumps."""

    @contextlib.asynccontextmanager
    async def opened(config: RunConfig, *_: Any) -> AsyncIterator[SimulatedNode]:
        node = SimulatedNode(rota, config.engine, speed=speed)
        loop = asyncio.get_running_loop()
        if stop:
            loop.call_later(stop[0], signal.raise_signal, stop[1])
        try:
            yield node
        finally:
            node.close()
            clock.append(loop.time())

    usual, policy = worker.open_engine, asyncio.get_event_loop_policy()
    worker.open_engine = opened  # type: ignore[assignment]
    asyncio.set_event_loop_policy(SimulatedTime())
    try:
        yield
    finally:
        worker.open_engine = usual
        asyncio.set_event_loop_policy(policy)


def real_worker(asked: tuple[Experiment, int, float]) -> Measured:
    """Plan a run and have one worker do it, with its interruptions, until all is published.

    Args:
        asked: the experiment, the window (`launch.window`), and the engines' pace as part of the performance model's.
    """
    experiment, window, pace = asked
    logging.disable(logging.WARNING)
    config = simulation.committee(window)
    rota = simulation.solved(config, NODE, simulation.measured_rates(config)).rota
    config.method.seed = experiment.seed
    seconds: list[float] = []
    ends: list[str] = []
    with tempfile.TemporaryDirectory(prefix="gra-simulated-") as temporary:
        run = make_run(Path(temporary), config, experiment.size, experiment.shards)
        began = time.process_time()
        while End.published.name not in ends:
            stop = experiment.interruptions[len(ends)] if len(ends) < len(experiment.interruptions) else None
            with simulated_engines(rota, pace, stop, seconds):
                ends.append(worker.work(run, 1).end.name)
        shards = [run.round(1).shard(n).manifest for n in range(experiment.shards)]
        attempts = [a for shard in shards for a in json.loads(shard.read_bytes())["attempts"]]
        spent = time.process_time() - began
    return Measured(
        experiment,
        tuple(seconds),
        tuple(ends),
        sum(a.get("calls", 0) for a in attempts),
        spent,
        sum(a.get("replayed", 0) for a in attempts),
    )


INTERRUPTED = (
    Experiment(1000, 4, ((80.0, signal.SIGTERM),)),
    Experiment(1000, 4, ((110.0, signal.SIGTERM), (70.0, signal.SIGTERM))),
    Experiment(1000, 4, ((140.0, signal.SIGUSR2),)),
)
LEAST = sum(shards * size for shards, size in KINDS) + sum(e.candidates for e in INTERRUPTED)
"""Candidates of one worker of each kind."""


def experiments(real: int) -> list[Experiment]:
    """About so many candidates: one worker of every kind, more as far as they go; some are interrupted."""
    found = list(INTERRUPTED)
    left = real - sum(e.candidates for e in found)
    while left >= min(size * shards for shards, size in KINDS):
        for shards, size in KINDS:
            if size * shards <= left:
                found.append(Experiment(size, shards, seed=len(found)))
                left -= size * shards
    return sorted(found, key=lambda e: -e.candidates)


def read_measured(path: Path | None) -> list[Measured]:
    """What an earlier call wrote; nothing if it did not."""
    if path is None or not path.exists():
        return []
    found = []
    for row in json.loads(path.read_text(encoding="utf-8")):
        e = row["experiment"]
        stops = tuple((float(at), int(number)) for at, number in e["interruptions"])
        experiment = Experiment(e["size"], e["shards"], stops, e["seed"])
        kept = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items() if k != "experiment"}
        found.append(Measured(experiment, **kept))
    return found


@dataclass(frozen=True)
class WorkerModel:
    """Seconds of a worker on ready engines: `fixed + shards * each + samples / rate`, times a factor near one."""

    rate: float
    """Samples a second while a node is full."""
    fixed: float
    """Seconds that a worker takes beside: filling its window, and draining it at the end."""
    each: float
    """Seconds that a shard costs beside its samples: where one ends and the next begins."""
    spread: tuple[float, ...]
    """Measured over fitted seconds."""
    interruption: float
    """Seconds of work lost by an interruption, beside the start of engines: calls in flight, a batch to fill again."""

    def seconds(self, shards: int, samples: int) -> float:
        return self.fixed + shards * self.each + samples / self.rate

    @classmethod
    def fitted(cls, found: Sequence[Measured]) -> WorkerModel:
        """Least squares over the uninterrupted workers; no part is below zero."""
        from scipy.optimize import nnls

        plain = [m for m in found if not m.experiment.interruptions]
        table = [[1.0, m.experiment.shards, m.experiment.candidates] for m in plain]
        (fixed, each, slope), _ = nnls(table, [m.seconds[0] for m in plain])
        model = cls(float(1 / slope), float(fixed), float(each), (), 0.0)

        def expected(m: Measured) -> float:
            return model.seconds(m.experiment.shards, m.experiment.candidates)

        spread = tuple(sorted(m.seconds[0] / expected(m) for m in plain))
        lost = [
            (sum(m.seconds) - expected(m)) / (len(m.ends) - 1)
            for m in found
            if len(m.ends) > 1  # at another pace one may have been through before it was to be interrupted
        ]
        return replace(model, spread=spread, interruption=max(0.0, statistics.mean(lost)) if lost else 0.0)
