"""A worker: what a job runs. It opens its node's engines once and works through shards until none is left.

The shard stays the unit of journal, resumption and publication: a worker only decides which comes next (`choice.py`),
and keeps the engines warm from one to the next. Its end is Slurm's signal, or that nothing is left which nobody is at.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from gra_hpc.engines.rotation_costs import sentence
from gra_hpc.errors import EngineError, GraError, IncompleteError
from gra_hpc.run import attempts, publish
from gra_hpc.run.attempts import Heartbeat
from gra_hpc.run.choice import Chooser
from gra_hpc.run.directory import AttemptDir
from gra_hpc.run.engines import Hosted, open_engine
from gra_hpc.run.run import Run
from gra_hpc.run.shard import Attempt, End, Shared, attempt
from gra_hpc.signals import Signals

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a worker ended without an error."""

    end: End
    """published: nothing is left, or others are at what is left."""
    shards: int
    """That it published."""

    def __str__(self) -> str:
        made = f"{self.shards} shard{'' if self.shards == 1 else 's'} published"
        return made if self.end is End.published else f"{made}; {self.end.value}"


def work(run: Run, round_: int, place: int = 0, lead_s: int = 0) -> Outcome:
    """Work through what is left of a round.

    Args:
        run: opened for this worker.
        round_: the round.
        place: the shard to begin at; others follow in their order.
        lead_s: seconds from SIGUSR2 to the end, as the job was submitted with; 0: the run's present setting.

    On SIGUSR2 (time limit ahead, preemption) it gives no more calls to engines and waits for those in flight; the
    caller requeues. On SIGTERM it does the same, only faster.

    Raises:
        GraError: what stopped the worker, or shards that failed; all others were still done. Journals keep what was
            answered.
    """
    with Signals().caught() as signals:
        return asyncio.run(_Worker(run, round_, lead_s, signals).work(place))


def run_shard(run: Run, round_: int, number: int, lead_s: int = 0) -> End:
    """Run one attempt at one shard, whoever else is at it. As `work`.

    Raises:
        GraError: what stops the shard, in one line; the journal keeps what was answered.
    """
    shards = run.shards_of(round_)
    if not 0 <= number < shards:
        raise GraError(f"shard {number}: round {round_} has shards 0 to {shards - 1}", f"gra status {run.path}")
    with Signals().caught() as signals:
        return asyncio.run(_Worker(run, round_, lead_s, signals).alone(number))


class _Worker:
    """The state of one worker; `shard.Host` for its attempts."""

    def __init__(self, run: Run, round_: int, lead_s: int, signals: Signals) -> None:
        self.run, self.round, self.signals, self.config = run, round_, signals, run.config
        if lead_s:
            self.config = replace(self.config, site=replace(self.config.site, signal_lead_s=lead_s))
        self.shared = Shared.of(self.config)
        self.name = ""
        self.published = 0
        self._failed: dict[int, Exception] = {}
        """Shards whose last attempt here ended with an error."""
        self._given_up: set[int] = set()
        """Those of them that are not tried again here."""
        self._in_vain = False
        """The last attempt failed before it was answered anything."""
        self._state: Attempt | None = None
        self._engines: Hosted | None = None
        self._stack = contextlib.AsyncExitStack()
        self._told: dict[str, Any] = {}

    # ---- shards ------------------------------------------------------------------------------------------------------

    async def alone(self, number: int) -> End:
        """One shard."""
        async with self._at_work():
            shard = self.run.round(self.round).shard(number)
            if publish.is_published(shard):
                publish.sweep(shard)
                return End.already
            return await self._attempt(number, await asyncio.to_thread(attempts.begin, shard))

    async def work(self, place: int) -> Outcome:
        """One shard after the other."""
        round_, heartbeat_s = self.run.round(self.round), self.config.launch.heartbeat_s
        chooser = await asyncio.to_thread(
            Chooser, round_, self.run.shards_of(self.round), place, heartbeat_s, self.run.submissions
        )
        async with self._at_work():
            while (choice := await asyncio.to_thread(chooser.next, self._given_up)) and not self.signals.first:
                if here := await asyncio.to_thread(self._begun, choice.shard, chooser):
                    await self._take(choice.shard, here)
        if choice and self.signals.first:
            end = End.stopped if self.signals.first == signal.SIGTERM else End.drained
            return Outcome(end, self.published)
        if self._failed:
            raise self._error()
        return Outcome(End.published, self.published)

    def _begun(self, number: int, chooser: Chooser) -> AttemptDir | None:
        """A new attempt's directory; none where another worker was there first."""
        shard = self.run.round(self.round).shard(number)
        here = attempts.begin(shard)
        Heartbeat(here.id, number, self.round, gpus=self.config.site.gpus_per_node).write(here)
        if chooser.first(here, shard):
            return here
        shutil.rmtree(here.path, ignore_errors=True)
        return None

    async def _take(self, number: int, here: AttemptDir) -> None:
        """One attempt at a shard; what ends it is the shard's fault, until the next one ends as soon.

        Raises:
            Exception: the fault is this node's, or the run's.
        """
        answered = self.shared.calls
        try:
            self.published += await self._attempt(number, here) is End.published
        except Exception as e:
            if self._in_vain:
                raise
            log.warning("round %d shard %d failed: %s", self.round, number, e)
            self._failed[number] = e
            self._in_vain = self.shared.calls == answered
            if isinstance(e, EngineError):
                await self._close_engines()
            else:
                self._given_up.add(number)
        else:
            self._failed.pop(number, None)
            self._in_vain = False

    async def _attempt(self, number: int, here: AttemptDir) -> End:
        self.name = self.name or here.id
        end = await attempt(self, self.round, number, here)
        log.info("round %d shard %d: %s", self.round, number, end.value)
        return end

    def _error(self) -> Exception:
        """What is said of the shards that failed."""
        first = next(iter(self._failed.values()))
        if len(self._failed) == 1 or not isinstance(first, GraError):
            return first
        return IncompleteError(
            f"round {self.round}: {len(self._failed)} shards failed, one of them with: {first.what}", first.then
        )

    # ---- engines -----------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _at_work(self) -> AsyncIterator[None]:
        """Signals reach the attempts meanwhile; no engine outlives it."""
        loop = asyncio.get_running_loop()
        self.signals.wake = lambda: loop.call_soon_threadsafe(self._drain)
        try:
            yield
        finally:
            self.signals.wake = lambda: None
            await self._close_engines()

    def _drain(self) -> None:
        if self._state is not None:
            self._state.draining.set()
        if self._engines is not None:
            self._engines.drain()

    def joined(self, state: Attempt) -> None:
        """An attempt is under way: it is to drain when the worker does."""
        self._state = state
        if self.signals.first:
            self._drain()

    async def engine(self) -> Hosted:
        """The node's engines; they are opened when they are first asked for.

        Raises:
            EngineError: a placement that does not fit, or engines that cannot be started.
        """
        if self._engines is None:
            logs = self.run.logs / self.name
            self._engines = await self._stack.enter_async_context(open_engine(self.config, self.run.plan, logs))
            self._told = {}
            if self.signals.first:
                self._drain()
        return self._engines

    async def _close_engines(self) -> None:
        if self._engines is not None and (turns := sentence(self._engines.stats().get("rotation", {}))):
            log.info("%s", turns)
        self._engines = None
        await self._stack.aclose()

    def engines_did(self) -> dict[str, Any]:
        """What the engines did since this was last asked: of a worker's shards each has its part."""
        assert self._engines is not None
        before, self._told = self._told, self._engines.stats()
        return _since(before, self._told)


_AS_THEY_ARE = ("replica", "gpus", "turn", "in_flight", "arguments", "left_out")
"""Of engines' statistics, what does not add up."""


def _since(before: Any, now: Any) -> Any:
    """What has been added to statistics."""
    if isinstance(now, dict) and isinstance(before, dict):
        return {k: v if k in _AS_THEY_ARE or k not in before else _since(before[k], v) for k, v in now.items()}
    if isinstance(now, list) and isinstance(before, list):
        if any(isinstance(v, dict) for v in now):
            return [_since(b, v) for b, v in zip(before, now, strict=True)] if len(before) == len(now) else now
        return now if len(before) > len(now) or now[: len(before)] != before else now[len(before) :]
    if isinstance(now, int | float) and isinstance(before, int | float) and not isinstance(now, bool):
        return round(now - before, 6)
    return now
