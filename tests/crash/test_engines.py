"""Engines are killed and stopped while a shard asks them: the shard goes on, and its result is the undisturbed one.

The engines are simulated servers, each a process of its own, hosted as vLLM's are (tests/engines has real ones).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gra_hpc.config.settings import EngineConfig, RunConfig
from gra_hpc.engines.node import Node
from gra_hpc.placement.placement import EnginePlace, Placement
from gra_hpc.run import worker
from gra_hpc.run.engines import pinned_models
from gra_hpc.run.plan import Plan
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json
from tools.faults import faults
from tools.simulated.server import Faults, launcher

REPLICAS, STRIKES, SEEDS = 3, 2, 24
SETTINGS = ["launch.shards=1", "engine.simulated_failures=0"]
ENGINES = EngineConfig(start_timeout_s=60, call_timeout_s=2, max_restarts=20)


@pytest.fixture(scope="module")
def undisturbed(crash_dir: Path) -> Run:
    return faults.undisturbed(faults.make_run(crash_dir / "engines-reference", SEEDS, SETTINGS))


@contextlib.contextmanager
def disturbed(node: Node, fault: signal.Signals, rng: random.Random, struck: list[int]) -> Iterator[None]:
    """Meanwhile some replicas are struck, one after the other has come back: no call is in flight at two deaths."""
    over = threading.Event()

    def strike() -> None:
        while not over.is_set() and len(node._replicas) < REPLICAS:  # they start when they are first asked
            time.sleep(0.002)
        for replica in rng.sample(node._replicas, STRIKES):
            while not over.is_set() and not (replica.ready and replica.inflight):
                time.sleep(0.002)
            if over.wait(rng.uniform(0.0, 0.05)):
                return
            assert replica.process is not None
            with contextlib.suppress(ProcessLookupError):
                for pid in servers(replica.process.pid):
                    os.kill(pid, fault)
                    struck.append(pid)
            while not over.is_set() and not (replica.stats.restarts and replica.ready):
                time.sleep(0.002)

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def servers(pid: int) -> list[int]:
    """The server below an engine's guard."""
    import psutil

    below = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return [p.pid for p in below if "--served-model-name" in p.cmdline() and "guard" not in " ".join(p.cmdline())]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("fault", "seed"), [(signal.SIGKILL, 1), (signal.SIGKILL, 2), (signal.SIGSTOP, 3)])
def test_engines_struck_while_a_shard_runs(
    crash_dir: Path,
    short_dir: Path,
    undisturbed: Run,
    monkeypatch: pytest.MonkeyPatch,
    fault: signal.Signals,
    seed: int,
) -> None:
    run = faults.make_run(crash_dir / f"engines-{seed}", SEEDS, SETTINGS)
    struck: list[int] = []

    @contextlib.asynccontextmanager
    async def hosted(config: RunConfig, plan: Plan, log_dir: Path) -> AsyncIterator[Any]:
        models = pinned_models(config, plan)
        (name,) = models
        placement = Placement(tuple(EnginePlace(name, r, ()) for r in range(REPLICAS)), "cpu")
        command = launcher(Faults(latency_s=0.3))
        async with Node(models, placement, ENGINES, short_dir, log_dir, command) as node:
            with disturbed(node, fault, random.Random(seed), struck):
                yield node

    monkeypatch.setattr(worker, "open_engine", hosted)
    assert worker.run_shard(run, 1, 0) is worker.End.published
    assert struck, "on a busy machine the shard may end before all strikes, but not before the first"
    made, reference = run.round(1).shard(0), undisturbed.round(1).shard(0)
    faults.check_shard(made, reference)
    engines = read_json(made.manifest)["engines"]["engines"]
    assert sum(e["restarts"] for e in engines.values()) == STRIKES


def test_calls_that_wait_for_an_engine_are_not_asked_in_a_drain(
    crash_dir: Path, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have passed the shard's gate, and lie in the queue of their model."""
    run = faults.make_run(crash_dir / "engines-drain", SEEDS, SETTINGS)
    taken: list[int] = []

    @contextlib.asynccontextmanager
    async def hosted(config: RunConfig, plan: Plan, log_dir: Path) -> AsyncIterator[Any]:
        models = pinned_models(config, plan)
        (name,) = models
        placement = Placement((EnginePlace(name, 0, ()),), "cpu")
        settings = EngineConfig(start_timeout_s=60, max_running=2)
        async with Node(models, placement, settings, short_dir, log_dir, launcher(Faults(latency_s=1.0))) as node:

            async def warn() -> None:
                while not (
                    name in node._dispatchers
                    and node._dispatchers[name].in_flight == 2
                    and node._dispatchers[name].waiting
                ):
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.3)
                taken.append(node._replicas[0].taken)
                os.kill(os.getpid(), signal.SIGUSR2)

            warning = asyncio.create_task(warn())
            yield node
            await warning
            taken.append(node._replicas[0].taken)

    monkeypatch.setattr(worker, "open_engine", hosted)
    assert worker.run_shard(run, 1, 0) is worker.End.drained
    assert taken == [2, 2]
    assert len(faults.journals(run.round(1).shard(0)).popitem()[1]) == 2
