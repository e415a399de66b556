"""One replica: keeps its engine running while it is wanted, and counts what it does.

A replica is asleep (no process, or a sleeping one), starting, ready, or failed for good. `keep` is the only place that
starts its engine; calls reach it through `dispatcher.Dispatcher`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from typing import Any

from gra_hpc.config.settings import EngineConfig
from gra_hpc.engines.call_limit import Admission
from gra_hpc.engines.client import EngineGone, EngineTrouble
from gra_hpc.engines.process import EngineDied, EngineProcess
from gra_hpc.engines.restarts import Patience
from gra_hpc.engines.start_phases import phases, told
from gra_hpc.engines.vllm_server import recorded, recorded_environment
from gra_hpc.errors import EngineError, GraError
from gra_hpc.flows.calls import Answer, Request
from gra_hpc.placement.placement import EnginePlace

log = logging.getLogger(__name__)

LEAVE_S = 2.0
"""A server that is no longer healthy gets this long to leave by itself, with an exit code that says why."""

TERMINATED_PAUSE_S = 40.0
"""Wait before the restart of an engine that got SIGTERM from outside: longer than Slurm's KillWait, so that no engine
is started in a job that is being ended (and killed half started)."""


@dataclass(eq=False, slots=True)
class Call:
    """One request on its way to an answer."""

    request: Request
    messages: tuple[dict[str, str], ...]
    since: float = 0.0
    """Loop time at which it began to wait."""
    deaths: int = 0
    """Deaths of an engine during which it was in flight."""
    alone: int = 0
    """How many of them found nothing else in flight."""
    guilty: bool = False
    """Engines die of it: it is not asked again."""
    cause: str = ""
    """Why the engine died the last time."""
    troubles: int = 0
    """Internal errors that a living engine answered it with."""
    prefix: tuple[int, ...] = ()
    """Hashes of growing prefixes of its prompt, for routing."""


@dataclass
class EngineStats:
    """What one replica did, for reports."""

    model: str
    replica: int
    calls: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    busy_seconds: float = 0.0
    """Time with at least one call in flight."""
    starts: int = 0
    start_seconds: float = 0.0
    start_phases: dict[str, float] = field(default_factory=dict)
    """Of these, of starts that ended well, by `start_phases.PHASES`."""
    restarts: int = 0
    swaps: int = 0
    """Times it went to sleep for another's turn."""
    causes: list[str] = field(default_factory=list)
    """Why it died, each time."""
    arguments: list[str] = field(default_factory=list)
    """Its latest command line (`vllm_server.recorded`)."""
    environment: dict[str, str] = field(default_factory=dict)
    """The variables that `engine.env` gave it."""


class Replica:
    """One place's engine over its restarts.

    Args:
        place: where it runs.
        config: limits and timeouts.
        build: makes the process of the n-th start (0, 1, ...); may raise EngineError.
        starting: held while its engine starts: engines that would disturb each other start one after another.
        changed: called when the replica becomes ready, stops being ready, or has failed.
        can_sleep: its engine can be put to sleep and woken (vLLM's sleep mode); otherwise it is stopped and started.
    """

    def __init__(
        self,
        place: EnginePlace,
        config: EngineConfig,
        build: Callable[[int], EngineProcess],
        starting: AbstractAsyncContextManager[None],
        changed: Callable[[Replica], None],
        can_sleep: bool = False,
    ) -> None:
        self.place, self.config, self.can_sleep = place, config, can_sleep
        self.stats = EngineStats(place.model, place.replica)
        self.process: EngineProcess | None = None
        self.ready = False
        self.failed: EngineError | None = None
        self.inflight: set[Call] = set()
        self.admission = Admission(config.max_running, place.batch)
        self.taken = self._taken_before = 0
        self.on_trial = False
        """It was given calls that are suspected of ending engines: its death then halves them."""
        self._build, self._starting, self._changed = build, starting, changed
        self._wanted, self._unwanted = asyncio.Event(), asyncio.Event()
        self._unwanted.set()
        self.down = asyncio.Event()
        """Set while the engine holds no device: stopped or asleep."""
        self.down.set()
        self._patience = Patience(config.max_restarts)
        self._found = False
        """Its last death found the call at fault."""
        self._busy_since = 0.0
        self._progress_at = 0.0
        self._verdict: tuple[EngineProcess | None, asyncio.Task[bool] | None] = (None, None)

    # ---- calls -------------------------------------------------------------------------------------------------------

    @property
    def free_calls(self) -> int:
        """Calls it can take now."""
        return self.admission.limit - len(self.inflight) if self.ready else 0

    @property
    def deaths(self) -> int:
        """How often its engine died, or did not start."""
        return len(self.stats.causes)

    def take(self, call: Call) -> None:
        """Put a call in flight."""
        if not self.inflight:
            self._busy_since = self._progress_at = time.monotonic()
        self.inflight.add(call)
        self.taken += 1

    def release(self, call: Call) -> None:
        """The call is no longer in flight here."""
        if call in self.inflight:
            self.inflight.remove(call)
            if not self.inflight:
                self.stats.busy_seconds += time.monotonic() - self._busy_since

    async def answer(self, call: Call) -> Answer | None:
        """Have the engine answer a call that is in flight here.

        Returns:
            The answer; none when the engine died, or broke the call off though it lives (then `call` has the counts).
        """
        process = self.process
        assert process is not None
        try:
            ask = process.client.embed if self.place.embeds else process.client.chat
            answer = await ask(call.request, call.messages)
        except (EngineGone, EngineTrouble) as e:
            if await self._died(process):
                return None
            call.troubles += 1
            if call.troubles >= 3:
                return Answer(f"engine {self.place.name}: {e}", "error", 0, 0, 0.0)
            await asyncio.sleep(0.1 * call.troubles)
            return None
        stats = self.stats
        stats.calls += 1
        stats.prompt_tokens += answer.prompt_tokens
        stats.completion_tokens += answer.completion_tokens
        stats.errors += answer.finish == "error"
        self._patience.answered()
        self._progress_at = time.monotonic()
        return answer

    async def _died(self, process: EngineProcess) -> bool:
        """Whether the engine is dead, now that a call got no answer from it. All such calls share one look."""
        known, verdict = self._verdict
        if known is not process or verdict is None or (verdict.done() and not verdict.result()):
            verdict = asyncio.create_task(self._judge(process))
            self._verdict = process, verdict
        return await asyncio.shield(verdict)

    async def _judge(self, process: EngineProcess) -> bool:
        victims = set(self.inflight)
        cause = ""
        if not process.dead.is_set():
            status = await _look(process)
            if status == 200:
                return False
            victims |= self.inflight
            self._set_ready(False)
            # vLLM's front end outlives its engine core: it answers 503 for a while, then leaves.
            cause = "its engine core died" if status else "its server does not answer"
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.dead.wait(), LEAVE_S)
        self._set_ready(False)
        await process.kill("" if process.dead.is_set() else cause)
        alone = len(victims) == 1
        for call in victims:
            call.deaths += 1
            call.alone += alone
            # An engine that was asked something else before may have died of that.
            sure = call.alone >= 2 or self.taken == self._taken_before + 1
            call.guilty = alone and call.deaths >= 2 and sure
            call.cause = process.why()
            self._found |= call.guilty
        return True

    # ---- life --------------------------------------------------------------------------------------------------------

    def want(self, wanted: bool) -> None:
        """Whether the engine shall be awake."""
        if wanted:
            self._unwanted.clear()
            self._wanted.set()
        else:
            self._wanted.clear()
            self._unwanted.set()

    def _set_ready(self, ready: bool) -> None:
        if self.ready != ready:
            self.ready = ready
            self._changed(self)

    async def keep(self) -> None:
        """Start, watch, restart, put to sleep: until it has failed for good, or is cancelled (then it is ended)."""
        try:
            while self.failed is None:
                await self._wanted.wait()
                await self._life()
        except GraError as e:  # the launch was refused, or its log has no room: trying again cannot help
            self._fail(e if isinstance(e, EngineError) else EngineError(e.what, e.then))
        except OSError as e:
            self._fail(EngineError(f"engine {self.place.name}: {e.filename}: {e.strerror}"))
        finally:
            self._set_ready(False)
            try:
                if self.process is not None:
                    await asyncio.shield(self.process.stop())
            finally:
                self.down.set()  # also where a start was refused: a rotation waits for it

    async def _life(self) -> None:
        """From wanted to ready to dead or unwanted, once."""
        if self.process is not None and self.process.terminated:
            await asyncio.sleep(TERMINATED_PAUSE_S)
        elif self._patience.pause_s:
            await asyncio.sleep(self._patience.pause_s)
        try:
            async with self._starting:
                if not self._wanted.is_set():
                    return
                self.down.clear()
                await self._rise()
        except EngineDied as e:
            self._patience.did_not_start(str(e))
            self._bury(str(e))
            return
        process = self.process
        assert process is not None
        self.admission.begin()
        self._patience.was_ready = True
        self._set_ready(True)
        watch = asyncio.create_task(self._watch(process))
        try:
            await _first(process.dead.wait(), self._unwanted.wait())
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)  # its cancellation, not ours
        self._set_ready(False)
        if process.dead.is_set():
            await self._died(process)  # the calls that died with it are known first
            await process.stop()
            self._patience.died(self._found, self.on_trial)
            self._found = self.on_trial = False
            self._bury(process.why())
        else:
            await self._rest(process)

    async def _rise(self) -> None:
        """Start the engine, or wake it."""
        process = self.process
        if process is not None and not process.dead.is_set():
            try:
                await process.client.wake()
            except (EngineGone, EngineTrouble) as e:
                await process.kill(f"cannot be woken ({e})")
            else:
                return
        if process is not None:
            await process.stop()
        self.process = process = self._build(self.stats.starts)
        self.stats.arguments = recorded(process.launch.argv)
        self.stats.environment = recorded_environment(process.spec)
        self.stats.starts += 1
        self._taken_before = self.taken
        begin = time.monotonic()
        try:
            await process.start(self.config.start_timeout_s)
        finally:
            took = time.monotonic() - begin
            self.stats.start_seconds += took
        found = await asyncio.to_thread(phases, process.log_path, took, time.time())
        for phase, seconds in found.items():
            self.stats.start_phases[phase] = round(self.stats.start_phases.get(phase, 0.0) + seconds, 2)
        by_phase = f": {told(found)}" if found else ""
        log.info("engine %s ready after %.1f s%s (%s)", self.place.name, took, by_phase, process.log_path)

    async def _rest(self, process: EngineProcess) -> None:
        """Free the devices for others: sleep where the engine can, else stop."""
        self.stats.swaps += 1
        if self.can_sleep:
            try:
                await process.client.sleep()
            except (EngineGone, EngineTrouble) as e:
                log.warning("engine %s cannot sleep (%s): stopping it instead", self.place.name, e)
                await process.stop()
        else:
            await process.stop()
        self.down.set()

    def _bury(self, cause: str) -> None:
        """Note a death; fail for good when restarts lead nowhere."""
        process = self.process
        self.down.set()
        self.stats.causes.append(cause)
        where = process.log_path if process else "?"
        if self._patience.spent:
            error = f"engine {self.place.name} {self._patience}: {cause}"
            self._fail(EngineError(error, f"see its log: {where}"))
            return
        self.stats.restarts += 1
        log.warning("engine %s died (%s); starting it again; its log: %s", self.place.name, cause, where)

    def _fail(self, error: EngineError) -> None:
        log.error("%s", error)
        self.failed = error
        self.ready = False
        self._changed(self)

    async def _watch(self, process: EngineProcess) -> None:
        """Look at the engine's load and progress; end it when it hangs, or when only its front end is left."""
        timeout = float(self.config.call_timeout_s)
        pause = min(2.0, max(0.1, timeout / 8))
        tokens, idle_looks = -1, 0
        while True:
            await asyncio.sleep(pause)
            if not self.inflight:
                idle_looks += 1
                if idle_looks % 3 == 0 and await process.client.health() == 503 and not self.inflight:
                    await process.kill("its engine core died while idle")
                    return
                continue
            try:
                metrics = await process.client.metrics(timeout=min(10.0, timeout))
            except EngineGone:
                metrics = None
            now = time.monotonic()
            if metrics is not None:
                if metrics.tokens != tokens or metrics.tokens < 0:  # a version that does not count is alive, at least
                    tokens = metrics.tokens
                    self._progress_at = now
                if self.admission.follow(metrics):
                    self._changed(self)
            if self.inflight and now - self._progress_at > timeout:
                await process.kill(f"hung: {len(self.inflight)} calls in flight, no token for {timeout:g} s")
                return

    def report(self) -> dict[str, Any]:
        """Its statistics, JSON-able."""
        stats = asdict(self.stats)
        if self.inflight:
            stats["busy_seconds"] += time.monotonic() - self._busy_since
        return stats | {"ready": self.ready, "in_flight": len(self.inflight)}


async def _look(process: EngineProcess) -> int:
    """Status of the health check, with patience for a busy machine, but none once the process is dead."""
    look = asyncio.create_task(process.client.health(timeout=60.0))
    await _first(process.dead.wait(), asyncio.shield(look))
    if not look.done():
        look.cancel()
        return 0
    return look.result()


async def _first(*waits: Awaitable[object]) -> None:
    """Return when one of several has ended; the others are cancelled."""
    tasks = [asyncio.ensure_future(w) for w in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
