"""A node whose engines are simulated in time too: made-up answers, at the pace of the performance model.

Calls go through the real dispatchers (routing, prefix affinity, limits) and, where models take turns, the real
rotation; what is simulated is the engine behind them. It batches continuously: every running call gets one token per
step, and a step takes as long as the performance model says for this batch (`performance.RateCurve`). Engines that
are at work on one device share its time evenly. Lengths of answers are drawn by step around the method's stated
means.

Meant for `clock.SimulatedTimeLoop`; on a usual loop it takes as long as it says.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gra_hpc.config.settings import EngineConfig
from gra_hpc.engines.dispatcher import Dispatcher
from gra_hpc.engines.replica import Call
from gra_hpc.engines.rotation import LEAST_PATIENCE_S, Rotation
from gra_hpc.engines.simulated import simulate
from gra_hpc.errors import EngineError
from gra_hpc.flows.calls import Answer, Request
from gra_hpc.flows.expected import StepSize
from gra_hpc.flows.gra import questions
from gra_hpc.placement.hosts import Host
from gra_hpc.placement.performance import Constants, rate_curve
from gra_hpc.placement.placement import EnginePlace
from gra_hpc.placement.turns import Rota
from gra_hpc.placement.workload import sizes

SPREAD = {"response": 0.8, "refine": 0.8, "instruction": 0.4}
"""Standard deviation of the logarithm of an answer's length; of steps not named, `USUAL_SPREAD`."""
USUAL_SPREAD = 0.25
_SYSTEM = re.compile(r'turn\("system"\) }}\n(.{20})')
_GUIDED = ("describe", "review_instruction", "review_response", "adjudicate")


def _beginnings() -> tuple[dict[str, str], dict[str, str]]:
    """Steps by the first characters of their system message: those without a schema, and those with one."""
    found: tuple[dict[str, str], dict[str, str]] = {}, {}
    for file in sorted(questions.PROMPTS.glob("*.j2")):
        if m := _SYSTEM.search(file.read_text(encoding="utf-8")):
            found[file.stem in _GUIDED][m.group(1)] = file.stem
    return found


_FREE, _ASKED_FOR_JSON = _beginnings()
_STEPS = frozenset(sizes())


def step_of(request: Request) -> str:
    """Which of the method's questions a request is, also where it has come over a socket; `response` for others, and
    `review_response` for others with a schema."""
    if request.step in _STEPS:
        return request.step
    begins = request.messages[0]["content"][:20]
    return _FREE.get(begins, "response") if request.schema is None else _ASKED_FOR_JSON.get(begins, "review_response")


@dataclass(frozen=True)
class Lengths:
    """Answers' lengths: lognormal around the step's mean, drawn by the request's own seed."""

    steps: Mapping[str, StepSize]

    def __call__(self, request: Request) -> int:
        step = step_of(request)
        sigma = SPREAD.get(step, USUAL_SPREAD)
        mean = self.steps[step].completion_tokens
        drawn = random.Random(request.sampling.seed).gauss(math.log(mean) - sigma * sigma / 2, sigma)
        return max(1, min(round(math.exp(drawn)), request.sampling.max_tokens))


class SimulatedDevices:
    """Who is at work on which device: engines on one device share its time."""

    def __init__(self, devices: int, sharing_loss: float) -> None:
        self.busy: list[set[SimulatedReplica]] = [set() for _ in range(devices)]
        self.sharing_loss = sharing_loss

    def share(self, replica: SimulatedReplica) -> float:
        """Part of its devices' time that an engine at work gets: that of the most crowded one."""
        most = max((len(self.busy[d]) for d in replica.place.devices), default=1) or 1
        return max(0.1, 1 - self.sharing_loss * (most - 1)) / most

    def change(self, replica: SimulatedReplica, at_work: bool) -> None:
        """An engine begins or ends its work: its neighbours' pace changes."""
        near = set().union(*(self.busy[d] for d in replica.place.devices)) - {replica}
        for other in near:
            other.settle()
        for d in replica.place.devices:
            (self.busy[d].add if at_work else self.busy[d].discard)(replica)
        for other in near:
            other.plan()


class SimulatedReplica:
    """One engine, with the interface that `Dispatcher` and `Rotation` know of `Replica`."""

    def __init__(
        self,
        place: EnginePlace,
        host: Host,
        constants: Constants,
        devices: SimulatedDevices,
        lengths: Callable[[Request], int],
        changed: Callable[[SimulatedReplica], None],
        start_s: float,
        rest_s: float,
        speed: float,
        max_running: int,
    ) -> None:
        self.place, self.host, self.devices, self.lengths = place, host, devices, lengths
        self.ready = False
        self.failed: EngineError | None = None
        self.inflight: set[Call] = set()
        self.taken = self.deaths = 0
        self.on_trial = False
        self.limit = max_running
        self.down = asyncio.Event()
        self.down.set()
        self.calls = self.tokens = self.swaps = 0
        self.busy_seconds = self.start_seconds = 0.0
        self._curve = rate_curve(host.need, host.tensor_parallel, constants)
        self._batch = max(1, int(self._curve.batch(host.kv_bytes)))
        self._steps: dict[int, float] = {}
        self._speed, self._start_s, self._rest_s = speed, start_s, rest_s
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._running: list[tuple[float, int, asyncio.Future[None]]] = []
        self._queue: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = 0
        self._done = 0.0
        """Tokens that a call running since the beginning would have."""
        self._at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._waking: asyncio.TimerHandle | None = None
        self._first = True

    # ---- what the dispatcher and the rotation ask --------------------------------------------------------------------

    @property
    def free_calls(self) -> int:
        """Calls it can take now."""
        return self.limit - len(self.inflight) if self.ready else 0

    def take(self, call: Call) -> None:
        self.inflight.add(call)
        self.taken += 1

    def release(self, call: Call) -> None:
        self.inflight.discard(call)

    async def answer(self, call: Call) -> Answer:
        """Compute it: as many steps as its answer has tokens."""
        began = self._loop.time()
        tokens = self.lengths(call.request)
        future: asyncio.Future[None] = self._loop.create_future()
        self.settle()
        self._order += 1
        heapq.heappush(self._queue, (self._order, tokens, future))
        self._fill()
        await future
        self.calls += 1
        self.tokens += tokens
        said = simulate(call.request)
        return replace(said, completion_tokens=tokens, seconds=self._loop.time() - began)

    def want(self, wanted: bool) -> None:
        """Wake up, or make room for others."""
        if self._waking is not None:
            self._waking.cancel()
        if wanted:
            self.down.clear()
            pause = self._start_s if self._first else self._rest_s
            self.start_seconds += pause
            self._first = False
            self._waking = self._loop.call_later(pause, self._set_ready, True)
        else:
            self.swaps += 1
            self._set_ready(False)
            self._waking = self._loop.call_later(self._rest_s, self.down.set)

    def _set_ready(self, ready: bool) -> None:
        self.ready = ready
        self._changed(self)

    # ---- continuous batching ---------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Count what was computed since the last change."""
        now = self._loop.time()
        if self._running:
            passed = now - self._at
            self.busy_seconds += passed
            self._done += passed / self._step()
        self._at = now

    def _step(self) -> float:
        """Seconds of a step, now."""
        n = len(self._running)
        if n not in self._steps:
            self._steps[n] = self._curve.step(n) / self._speed
        return self._steps[n] / self.devices.share(self)

    def plan(self) -> None:
        """Set the timer to the next answer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running:
            left = max(0.0, self._running[0][0] - self._done)
            self._timer = self._loop.call_later(left * self._step(), self._finish)

    def _fill(self) -> None:
        idle = not self._running
        while self._queue and len(self._running) < self._batch:
            order, tokens, future = heapq.heappop(self._queue)
            heapq.heappush(self._running, (self._done + tokens, order, future))
        if idle and self._running:
            self.devices.change(self, True)
        self.plan()

    def _finish(self) -> None:
        self.settle()
        while self._running and self._running[0][0] <= self._done + 1e-6:
            future = heapq.heappop(self._running)[2]
            if not future.done():
                future.set_result(None)
        if not self._running and not self._queue:
            self._done = 0.0
            self.devices.change(self, False)
        self._fill()

    def report(self) -> dict[str, Any]:
        """Its statistics, JSON-able, as `Replica.report` has them."""
        self.settle()
        return {
            "model": self.place.model, "replica": self.place.replica, "calls": self.calls, "errors": 0,
            "prompt_tokens": 0, "completion_tokens": self.tokens, "busy_seconds": self.busy_seconds,
            "start_seconds": self.start_seconds, "swaps": self.swaps, "simulated": True,
        }  # fmt: skip


class SimulatedNode:
    """The engines of a placement behind the door, in simulated time.

    Args:
        rota: the engines by turn, with their memory (`turns.Rota`, or of `Solution.rota`).
        config: `max_running`.
        start_s: seconds until the engines of the first turn are ready.
        speed: of the whole node, against the performance model: below 1 for a straggler.
        steps: stated lengths of answers by step.
        kind: of the engines.
    """

    def __init__(
        self,
        rota: Rota,
        config: EngineConfig | None = None,
        start_s: float = 0.0,
        speed: float = 1.0,
        steps: Mapping[str, StepSize] | None = None,
        kind: type[SimulatedReplica] = SimulatedReplica,
    ) -> None:
        config = config or EngineConfig()
        hosts = [(n, h) for n, turn in enumerate(rota.turns) for h in turn.engines]
        last = 1 + max(d for _, h in hosts for d in h.devices)
        devices = SimulatedDevices(last, rota.constants.sharing_loss)
        self._dispatchers: dict[str, Dispatcher] = {}
        self.replicas: list[SimulatedReplica] = []
        self._rotation: Rotation | None = None
        counts: dict[str, int] = {}
        for number, host in hosts:
            if not isinstance(host, Host):
                raise EngineError("simulated node: only nodes with GPUs")
            name = host.need.name
            place = EnginePlace(
                name, counts.get(name, 0), host.devices, host.tensor_parallel, turn=number, weight=max(1.0, host.calls)
            )
            counts[name] = place.replica + 1
            replica = kind(
                place, host, rota.constants, devices, Lengths(steps or sizes()), self._changed, start_s,
                rota.turns[number].swap_s / 2, speed, config.max_running,
            )  # fmt: skip
            dispatcher = self._dispatchers.setdefault(name, Dispatcher(name, self._touched))
            dispatcher.replicas.append(replica)  # type: ignore[arg-type]
            self.replicas.append(replica)
        self._task: asyncio.Task[None] | None = None
        if len(rota.turns) > 1:
            self._rotation = Rotation(list(self._dispatchers.values()), LEAST_PATIENCE_S)
            self._task = asyncio.create_task(self._rotation.run())
        else:
            for replica in self.replicas:
                replica.want(True)

    async def ask(self, request: Request) -> Answer:
        """Answer a request (`flows.calls.Engine`)."""
        return await self._dispatchers[request.model].ask(Call(request, request.messages))

    def _touched(self) -> None:
        if self._rotation is not None:
            self._rotation.touched()

    def _changed(self, replica: SimulatedReplica) -> None:
        self._dispatchers[replica.place.model].changed(replica)  # type: ignore[arg-type]
        self._touched()

    def drain(self) -> None:
        """Take no more calls (`run.engines.Hosted`)."""
        self.close()
        for dispatcher in self._dispatchers.values():
            dispatcher.drain()

    def close(self) -> None:
        """End the rotation."""
        if self._task is not None:
            self._task.cancel()

    def stats(self) -> dict[str, Any]:
        """What the engines did so far, as `node.Node.stats` says it."""
        rotation = self._rotation or Rotation([])
        return {
            "engines": {r.place.name: r.report() for r in self.replicas},
            "rotation": rotation.report(),
            "given_up": 0,
        }
