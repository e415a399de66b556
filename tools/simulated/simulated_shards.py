"""The real code of a shard (plan, flow, journal, drain, resume, publication) in simulated time: for `simulate_cluster`.

SIMULATED: the engines are `SimulatedNode`, the clock jumps. What is measured is how long a shard takes by that clock,
from ready engines to its end, over all its attempts; `ShardModel` is fitted to it.
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
SIZES = (250, 500, 1000, 2000, 4000)
"""Candidates of the shards that run through the real code."""


@dataclass(frozen=True)
class Experiment:
    """One shard through the real code."""

    size: int
    interruptions: tuple[tuple[float, int], ...] = ()
    """For each attempt but the last: seconds after its engines are ready, and the signal."""
    speed: float = 1.0
    seed: int = 0
    """Another one draws other answers, of other lengths."""


@dataclass(frozen=True)
class Measured:
    """What became of it."""

    experiment: Experiment
    seconds: tuple[float, ...]
    """Of each attempt, from ready engines to its end, simulated."""
    ends: tuple[str, ...]
    calls: int
    cpu_seconds: float
    replayed: int


def make_run(path: Path, config: RunConfig, size: int) -> Run:
    """A planned run of one shard, with the simulated engine and models that lie nowhere."""
    model = path / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text(
        '{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}', encoding="utf-8"
    )
    with (path / "seeds.jsonl").open("w", encoding="utf-8") as f:
        for r in simulation.seeds(size):
            row = {k: getattr(r, k) for k in ("instruction", "response", "domain", "summary")}
            f.write(json.dumps(row | {"keywords": list(r.keywords)}) + "\n")
    config.engine.kind = EngineKind.simulated
    config.seeds = replace(config.seeds, path=str(path / "seeds.jsonl"), fields={}, limit=0)
    config.merge.semantic = False
    config.merge.decontamination.sources = []
    config.launch.shards = 1
    config.models = {n: replace(m, path=str(model), load_format="dummy") for n, m in config.models.items()}
    return planning.make(path / "run", config)


@contextlib.contextmanager
def simulated_engines(rota: Rota, speed: float, stop: tuple[float, int] | None, clock: list[float]) -> Iterator[None]:
    """`run_shard` finds a simulated node where it opens its engines, and time that jumps."""

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


def real_shard(asked: tuple[Experiment, int, float]) -> Measured:
    """Plan and run one shard, with its interruptions, until it is published.

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
        run = make_run(Path(temporary), config, experiment.size)
        began = time.process_time()
        while End.published.name not in ends:
            stop = experiment.interruptions[len(ends)] if len(ends) < len(experiment.interruptions) else None
            with simulated_engines(rota, pace * experiment.speed, stop, seconds):
                ends.append(worker.run_shard(run, 1, 0).name)
        manifest = json.loads(run.round(1).shard(0).manifest.read_bytes())
        spent = time.process_time() - began
    attempts = manifest["attempts"]
    return Measured(
        experiment,
        tuple(seconds),
        tuple(ends),
        sum(a.get("calls", 0) for a in attempts),
        spent,
        sum(a.get("replayed", 0) for a in attempts),
    )


def experiments(real: int) -> list[Experiment]:
    """About so many candidates: every size alike, some shards interrupted, one slow node."""
    found = [
        Experiment(1000, ((20.0, signal.SIGTERM),)),
        Experiment(1000, ((35.0, signal.SIGTERM), (15.0, signal.SIGTERM))),
        Experiment(1000, ((30.0, signal.SIGUSR2),)),
        Experiment(1000, speed=0.6),
    ]
    left = real - 4000
    while left >= min(SIZES):
        for size in SIZES:
            if size <= left:
                found.append(Experiment(size, seed=len(found)))
                left -= size
    return sorted(found, key=lambda e: -e.size)


def read_measured(path: Path | None) -> list[Measured]:
    """What an earlier call wrote; nothing if it did not."""
    if path is None or not path.exists():
        return []
    found = []
    for row in json.loads(path.read_text(encoding="utf-8")):
        e = row["experiment"]
        stops = tuple((float(at), int(number)) for at, number in e["interruptions"])
        experiment = Experiment(e["size"], stops, e["speed"], e["seed"])
        kept = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items() if k != "experiment"}
        found.append(Measured(experiment, **kept))
    return found


@dataclass(frozen=True)
class ShardModel:
    """Seconds of a shard on ready engines: `fixed + size / rate`, times a factor near one."""

    rate: float
    """Samples a second while a node is full."""
    fixed: float
    """Seconds that a shard takes however small it is: filling and draining its window."""
    spread: tuple[float, ...]
    """Measured over fitted seconds."""
    interruption: float
    """Seconds of work lost by an interruption, beside the start of engines: calls in flight, a batch to fill again."""
    smallest: int

    def seconds(self, size: int) -> float:
        return self.fixed + size / self.rate

    @classmethod
    def fitted(cls, found: Sequence[Measured]) -> ShardModel:
        """Least squares over the uninterrupted shards on usual nodes."""
        plain = [m for m in found if not m.experiment.interruptions and m.experiment.speed == 1.0]
        x, y = [m.experiment.size for m in plain], [m.seconds[0] for m in plain]
        slope, fixed = statistics.linear_regression(x, y)
        model = cls(1 / slope, max(0.0, fixed), (), 0.0, min(x))
        spread = tuple(sorted(b / model.seconds(a) for a, b in zip(x, y, strict=True)))
        at = {s: statistics.mean(m.seconds[0] for m in plain if m.experiment.size == s) for s in set(x)}
        lost = [
            (sum(m.seconds) - at.get(m.experiment.size, model.seconds(m.experiment.size)))
            / len(m.experiment.interruptions)
            for m in found
            if m.experiment.interruptions
        ]
        return replace(model, spread=spread, interruption=max(0.0, statistics.mean(lost)) if lost else 0.0)
