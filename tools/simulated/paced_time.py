"""The same comparison in a clock that jumps: no sockets, no client's cost, and no other work on this machine in it.

SIMULATED in time too. Our side is the real worker, its flow, its window and the real dispatchers before paced engines;
the peer's is its order alone, stages with barriers between, without its own cost: no client can do them sooner.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from gra_hpc.engines.replica import Call
from gra_hpc.flows.calls import Answer
from gra_hpc.placement.turns import Rota
from gra_hpc.run import worker
from gra_hpc.run.run import Run
from tools.bench.shard_ways import STAGES
from tools.simulated.clock import SimulatedTime, SimulatedTimeLoop
from tools.simulated.node import SimulatedNode, SimulatedReplica
from tools.simulated.pace import Figures, PacedEngine
from tools.simulated.paced_server import Described, PacedServer, request_of

Samples = Sequence[Sequence[Mapping[str, Any]]]
"""Calls by sample, as `bench.replay.Captured.by_sample` has them."""


class Sharing:
    """A simulated node's devices, as a paced engine asks for them (`pace.Neighbours`)."""

    def __init__(self, devices: Sequence[set[Any]], mine: Sequence[int], loss: float) -> None:
        self.devices, self.mine, self.loss = devices, mine, loss

    def at_work(self, busy: bool) -> None:
        for d in self.mine:
            (self.devices[d].add if busy else self.devices[d].discard)(self)

    def share(self) -> float:
        most = max((len(self.devices[d]) for d in self.mine), default=1) or 1
        return max(0.1, 1 - self.loss * (most - 1)) / most


class PacedReplica(SimulatedReplica):
    """A simulated node's engine whose steps are paced one by one."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        constants = args[2]
        figures = Figures.of_host(self.host, constants)
        sharing = Sharing(self.devices.busy, self.place.devices, self.devices.sharing_loss)
        self.engine = PacedEngine(figures, neighbours=sharing)
        self._server = PacedServer([self.place.model], [self.engine])

    async def answer(self, call: Call) -> Answer:
        answer, _ = await self._server.answer(call.request)
        self.calls += 1
        self.tokens += answer.completion_tokens
        return answer

    def settle(self) -> None:
        """Its engine counts by itself."""

    def plan(self) -> None:
        """Its engine has its own timer."""


def ours(run: Run, rota: Rota, alone: Mapping[str, Figures]) -> tuple[float, list[dict[str, Any]]]:
    """Our worker: seconds from its first call to its last answer, and its engines' reports.

    Args:
        alone: each model's pace on a device of its own.
    """
    told: list[dict[str, Any]] = []
    seconds: list[float] = []

    @contextlib.asynccontextmanager
    async def opened(config: Any, *_: Any) -> AsyncIterator[SimulatedNode]:
        node = SimulatedNode(rota, config.engine, kind=PacedReplica)
        for r in node.replicas:
            assert isinstance(r, PacedReplica)
            r.engine.alone = alone[r.place.model]
        began = asyncio.get_running_loop().time()
        try:
            yield node
        finally:
            node.close()
            told.extend(r.engine.report() for r in node.replicas if isinstance(r, PacedReplica))
            seconds.append(max(e["last"] for e in told) - began)

    usual, policy = worker.open_engine, asyncio.get_event_loop_policy()
    worker.open_engine = opened  # type: ignore[assignment]
    asyncio.set_event_loop_policy(SimulatedTime())
    try:
        worker.work(run, 1)
    finally:
        worker.open_engine = usual
        asyncio.set_event_loop_policy(policy)
    return seconds[0], told


def stages(
    samples: Samples, engines: Mapping[str, Sequence[Described]], loss: float, in_turns: bool, most: int
) -> tuple[float, int, list[dict[str, Any]]]:
    """A peer's order: seconds, passes, and the engines' reports.

    Args:
        engines: by model; in turns all models have the same ones.
        most: calls in flight of a pass.
    """

    async def work() -> tuple[float, int, list[dict[str, Any]]]:
        loop = asyncio.get_running_loop()
        devices: list[set[Any]] = [
            set() for _ in range(1 + max(d for e in engines.values() for x in e for d in x.devices))
        ]
        made: dict[int, PacedEngine] = {}

        def paced(d: Described) -> PacedEngine:
            if d.slot not in made:
                made[d.slot] = PacedEngine(d.figures, neighbours=Sharing(devices, d.devices, loss), alone=d.alone)
            return made[d.slot]

        servers = {m: PacedServer([m], [paced(d) for d in found]) for m, found in engines.items()}
        passes = 0

        async def one(stage: str, model: str) -> None:
            nonlocal passes
            places = asyncio.Semaphore(most)

            async def ask(call: Mapping[str, Any]) -> None:
                async with places:
                    fields = {**call["sampling"], "model": model}
                    if call["schema"]:
                        fields["response_format"] = {"type": "json_schema", "json_schema": {"schema": call["schema"]}}
                    await servers[model].answer(request_of(fields, call["messages"]))

            async def document(calls: Sequence[Mapping[str, Any]]) -> None:
                for wave in sorted({c["wave"] for c in calls}):
                    await asyncio.gather(*(ask(c) for c in calls if c["wave"] == wave))

            mine = [[c for c in s if (STAGES[c["role"]], c["model"]) == (stage, model)] for s in samples]
            passes += any(mine)
            await asyncio.gather(*(document(calls) for calls in mine if calls))

        began = loop.time()
        for stage in dict.fromkeys(STAGES.values()):
            if in_turns:
                for model in servers:
                    await one(stage, model)
            else:
                await asyncio.gather(*(one(stage, model) for model in servers))
        return loop.time() - began, passes, [e.report() for e in made.values()]

    with asyncio.Runner(loop_factory=SimulatedTimeLoop) as runner:
        return runner.run(work())
