"""A worker: what a job runs. It opens its node's engines once and works through shards until none is left.

The shard stays the unit of journal, resumption and publication: a worker only decides which comes next (`choice.py`),
and keeps the engines warm from one to the next. Its end is Slurm's signal, or that nothing is left which nobody is at.
Where it may, it has a small round merged beside its engines, and goes on with the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from gra_hpc.engines.rotation_costs import sentence
from gra_hpc.errors import EngineError, GraError, IncompleteError
from gra_hpc.run import attempts, publish
from gra_hpc.run.attempt_state import Attempt, Shared, Turn
from gra_hpc.run.attempts import Heartbeat
from gra_hpc.run.choice import Chooser
from gra_hpc.run.directory import AttemptDir, ShardDir, round_name
from gra_hpc.run.engines import Hosted, did_since, open_engine
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.publish import is_published
from gra_hpc.run.rounds import Step, remaining
from gra_hpc.run.run import Run
from gra_hpc.run.shard import End, attempt
from gra_hpc.run.unneeded import Unneeded
from gra_hpc.signals import Signals
from gra_hpc.terminal import word

log = logging.getLogger(__name__)

OPEN, MOST_OPEN, WINDOWS = 3, 32, 3
"""Shards that a worker has open at once: one that is published, one whose samples end, one whose samples begin. Small
ones are more, as many as hold so many windows of samples: a shard is open until its longest sample has ended."""
LOOK_S = 1.0
"""Between two looks at whether the next round is there."""


@dataclass(frozen=True)
class Outcome:
    """How a worker ended without an error."""

    end: End
    """published: nothing is left, or others are at what is left."""
    shards: int
    """That it published."""
    round: int
    """The last round that it was at."""
    first: int
    """The one that it began with."""

    @property
    def rounds(self) -> str:
        """Of which the shards are, for people."""
        return round_name(self.round) if self.first == self.round else f"rounds {self.first} to {self.round}"

    def __str__(self) -> str:
        made = f"{self.shards} shard{'' if self.shards == 1 else 's'} published"
        return made if self.end is End.published else f"{made}; {self.end.value}"


Merge = Callable[[Run, int], Awaitable[None]]
"""Merges a round of a run, in a process of its own, which ends when this is cancelled."""


def work(run: Run, round_: int, place: int = 0, lead_s: int = 0, last: int = 0, merge: Merge | None = None) -> Outcome:
    """Work through what is left of a round, and of those behind it.

    Args:
        run: opened for this worker.
        round_: the round.
        place: the shard to begin at; others follow in their order.
        lead_s: seconds from SIGUSR2 to the end, as the job was submitted with; 0: the run's present setting.
        last: the round that it ends with. One before it is merged by the worker that finds it published first, beside
            its engines; those that wait for that (`launch.linger_s`) go on with it.
        merge: what merges a round; none: the worker ends with its first.

    On SIGUSR2 (time limit ahead, preemption) it gives no more calls to engines and waits for those in flight; the
    caller requeues. On SIGTERM it does the same, only faster.

    Raises:
        GraError: what stopped the worker, or shards that failed; all others were still done. Journals keep what was
            answered.
    """
    with Signals().caught() as signals:
        return asyncio.run(_Worker(run, round_, lead_s, signals, last, merge).work(place))


def run_shard(run: Run, round_: int, number: int, lead_s: int = 0) -> End:
    """Run one attempt at one shard, whoever else is at it. As `work`.

    Raises:
        GraError: what stops the shard, in one line; the journal keeps what was answered.
    """
    shards = run.shards_of(round_)
    if not 0 <= number < shards:
        raise GraError(
            f"shard {number}: {round_name(round_)} has shards 0 to {shards - 1}", f"gra status {word(run.path)}"
        )
    with Signals().caught() as signals:
        return asyncio.run(_Worker(run, round_, lead_s, signals).alone(number))


class _Worker:
    """The state of one worker; `shard.Host` for its attempts."""

    def __init__(
        self, run: Run, round_: int, lead_s: int, signals: Signals, last: int = 0, merge: Merge | None = None
    ) -> None:
        self.run, self.signals, self.config = run, signals, run.config
        self.round = self.first = round_
        self.merge, self.last = merge, last if merge else round_
        if lead_s:
            self.config = replace(self.config, site=replace(self.config.site, signal_lead_s=lead_s))
        self.shared = Shared.of(self.config)
        self.name = ""
        self.published = 0
        """Shards that it published."""
        self._failed: dict[int, Exception] = {}
        """Shards whose last attempt here ended with an error."""
        self._given_up: set[int] = set()
        """Those of them that are not tried again here."""
        self._in_vain = False
        """The last attempt failed before it was answered anything."""
        self._open: dict[int, Attempt] = {}
        """The attempts under way, by shard."""
        self._busy: set[int] = set()
        """Their shards, and those whose attempts begin."""
        self._deaths = 0
        """How often the engines could not be kept running."""
        self._chooser: Chooser | None = None
        self._unneeded = Unneeded(run, round_)
        """Both of the round that it is at."""
        self._engines: Hosted | None = None
        self._stack, self._door = contextlib.AsyncExitStack(), asyncio.Lock()
        self._told: dict[str, Any] = {}

    # ---- shards ------------------------------------------------------------------------------------------------------

    async def alone(self, number: int) -> End:
        """One shard."""
        async with self._at_work():
            shard = self.run.round(self.round).shard(number)
            if publish.is_published(shard):
                publish.sweep(shard)
                return End.already
            return await self._attempt(number, await asyncio.to_thread(attempts.begin, shard, self._beat(number)))

    async def work(self, place: int) -> Outcome:
        """One shard after the other."""
        async with self._at_work():
            left = await self._round(place)
            while not left and not self._failed and (following := await self._following()):
                place = place * self.run.shards_of(following) // self.run.shards_of(self.round)
                self.round = following
                left = await self._round(place)
        if left or (self.signals.first and self.round < self.last):
            end = End.stopped if self.signals.first == signal.SIGTERM else End.drained
            return Outcome(end, self.published, self.round, self.first)
        if self._failed:
            raise self._error()
        return Outcome(End.published, self.published, self.round, self.first)

    async def _round(self, place: int) -> bool:
        """The shards of one round; whether some are left, of which a signal keeps it."""
        round_, heartbeat_s = self.run.round(self.round), self.config.launch.heartbeat_s
        if self._unneeded.number != self.round:
            self._unneeded = Unneeded(self.run, self.round)
        self._chooser = chooser = await asyncio.to_thread(
            Chooser, round_, self.run.shards_of(self.round), place, heartbeat_s, self.run.submissions,
            self._unneeded.known,
        )  # fmt: skip
        most = await asyncio.to_thread(self._most_open)
        tasks: set[asyncio.Task[None]] = set()
        last: Turn | None = None
        try:
            while True:
                for task in [t for t in tasks if t.done()]:
                    tasks.discard(task)
                    task.result()
                choice = await asyncio.to_thread(chooser.next, {*self._given_up, *self._busy})
                if choice is None or self.signals.first:
                    if not tasks:
                        return choice is not None
                    await _first(tasks)
                    continue
                while tasks and (choice.suspect or len(tasks) >= most):
                    await _first(tasks)
                here = await asyncio.to_thread(self._begun, chooser, round_.shard(choice.shard))
                if here is None:
                    continue
                self._busy.add(choice.shard)
                turn = Turn(last.given if last else None)
                tasks.add(asyncio.create_task(self._take(choice.shard, here, turn)))
                last = turn
                await turn.near.wait()
                while tasks and choice.suspect:
                    await _first(tasks)
        finally:
            for state in self._open.values():
                state.draining.set()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _most_open(self) -> int:
        """Shards of this round that may be open at once, by their size (`OPEN`)."""
        planned = RoundPlan.load(self.run.round(self.round))
        size = max(1, planned.candidates // max(1, self.run.shards_of(planned.round)))
        return max(OPEN, min(MOST_OPEN, OPEN - 1 + -(-WINDOWS * self.config.launch.window // size)))

    # ---- rounds ------------------------------------------------------------------------------------------------------

    async def _following(self) -> int:
        """The round to go on with, once this one is merged, here or by another worker; this one, if a shard is left by
        who was at it; 0: there is none, or it does not come in time."""
        if self.round >= self.last or self._chooser is None:
            return 0
        deadline = time.monotonic() + self.config.launch.linger_s
        while not self.signals.first:
            steps = await asyncio.to_thread(_left, self.run, self._unneeded)
            if not steps:
                return 0
            if steps[0].round > self.round:
                return steps[0].round if steps[0].shards and steps[0].round <= self.last else 0
            if await asyncio.to_thread(self._chooser.next, self._given_up) is not None:
                return self.round  # whoever was at that shard is gone
            failed, busy = await asyncio.to_thread(self._chooser.look, self.run.round(self.round).merging)
            if failed:  # the job behind the workers tries it once more, and says why it does not work
                return 0
            if not steps[0].shards and not busy and await self._merged(self._chooser):
                after = await asyncio.to_thread(_left, self.run, self._unneeded)
                if after and after[0].round == self.round and not after[0].shards:  # nothing came of it
                    return 0
                continue
            if time.monotonic() > deadline:
                return 0
            await asyncio.sleep(LOOK_S)
        return 0

    async def _merged(self, chooser: Chooser) -> bool:
        """Have this round merged beside the engines; whether it was this worker's to do."""
        assert self.merge is not None
        here = await asyncio.to_thread(self._begun, chooser, self.run.round(self.round).merging)
        if here is None:
            return False
        beat = self._beat(-1, here.id)
        beat.phase = "merging"
        merging = asyncio.ensure_future(self.merge(self.run, self.round))
        while not merging.done() and not self.signals.first:
            await asyncio.to_thread(beat.write, here)
            await asyncio.wait({merging}, timeout=LOOK_S)
        merging.cancel()
        (problem,) = await asyncio.gather(merging, return_exceptions=True)
        beat.phase, beat.message = "published", ""
        if isinstance(problem, asyncio.CancelledError):
            beat.phase = "drained"
        elif problem is not None:
            beat.phase, beat.message = "failed", str(problem)
            log.warning("%s is not merged here: %s", round_name(self.round), problem)
        else:
            log.info("%s merged beside the engines in %.1f s", round_name(self.round), beat.lasted)
        await asyncio.to_thread(beat.write, here)
        return True

    # ---- attempts ----------------------------------------------------------------------------------------------------

    def _begun(self, chooser: Chooser, shard: ShardDir) -> AttemptDir | None:
        """A new attempt's directory; none where another worker was there first."""
        try:
            here = attempts.begin(shard, self._beat(shard.number))
            if chooser.first(here, shard):
                return here
        except FileNotFoundError:  # who has published it in this moment clears its attempts away
            if not is_published(shard) and shard.number >= 0:
                raise
            return None
        shutil.rmtree(here.path, ignore_errors=True)
        return None

    def _beat(self, number: int, attempt: str = "") -> Heartbeat:
        return Heartbeat(attempt, number, self.round, worker=self.name, gpus=self.config.site.gpus_per_node)

    async def _take(self, number: int, here: AttemptDir, turn: Turn) -> None:
        """One attempt at a shard; what ends it is the shard's fault, until the next one ends as soon.

        Raises:
            Exception: the fault is this node's, or the run's.
        """
        answered, deaths = self.shared.calls, self._deaths
        try:
            end = await self._attempt(number, here, turn)
            self.published += end is End.published
        except Exception as e:
            if isinstance(e, EngineError) and self._deaths > deaths:
                return  # another shard, open beside it, has answered for that
            if self._in_vain:
                raise
            log.warning("%s shard %d failed: %s", round_name(self.round), number, e)
            self._failed[number] = e
            self._in_vain = self.shared.calls == answered
            if isinstance(e, EngineError):
                self._deaths += 1
                for number_, state in self._open.items():
                    if number_ != number:  # begun again, over other engines
                        state.draining.set()
                await self._close_engines()
            else:
                self._given_up.add(number)
        else:
            self._failed.pop(number, None)
            if end is End.published or self.shared.calls > answered:  # one that was only told to drain proves nothing
                self._in_vain = False
        finally:
            self._busy.discard(number)
            self._open.pop(number, None)
            turn.near.set()
            turn.given.set()

    async def _attempt(self, number: int, here: AttemptDir, turn: Turn | None = None) -> End:
        self.name = self.name or here.id
        end = await attempt(self, self.round, number, here, turn)
        log.info("%s shard %d: %s", round_name(self.round), number, end.value)
        return end

    def _error(self) -> Exception:
        """What is said of the shards that failed."""
        first = next(iter(self._failed.values()))
        if len(self._failed) == 1 or not isinstance(first, GraError):
            return first
        return IncompleteError(
            f"{round_name(self.round)}: {len(self._failed)} shards failed, one of them with: {first.what}", first.then
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
        for state in self._open.values():
            state.draining.set()
        if self._engines is not None:
            self._engines.drain()

    def joined(self, state: Attempt) -> None:
        """An attempt is under way: it is to drain when the worker does."""
        self._open[state.shard.number] = state
        if self.signals.first:
            self._drain()

    async def engine(self) -> Hosted:
        """The node's engines; they are opened when they are first asked for.

        Raises:
            EngineError: a placement that does not fit, or engines that cannot be started.
        """
        async with self._door:
            if self._engines is None:
                logs = self.run.logs / self.name
                self.shared.engines = "start"
                self.shared.look()
                self._engines = await self._stack.enter_async_context(open_engine(self.config, self.run.plan, logs))
                self._told = {}
                if self.signals.first:
                    self._drain()
            return self._engines

    async def _close_engines(self) -> None:
        async with self._door:
            if self._engines is not None and (turns := sentence(self._engines.stats().get("rotation", {}))):
                log.info("%s", turns)
            self._engines, self.shared.engines = None, ""
            self.shared.look()
            await self._stack.aclose()

    def engines_did(self) -> dict[str, Any]:
        """What the engines did since this was last asked: of a worker's shards each has its part."""
        if self._engines is None:  # closed a moment ago, for another shard's sake
            return {"engines": {}, "given_up": 0}
        before, self._told = self._told, self._engines.stats()
        return did_since(before, self._told)


async def _first(tasks: set[asyncio.Task[None]]) -> None:
    """Wait until one of several has ended, and take it out.

    Raises:
        Exception: what ended it.
    """
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        tasks.discard(task)
        task.result()


def _left(run: Run, unneeded: Unneeded) -> list[Step]:
    """What is left of a run; nothing, where the next round cannot be planned: whoever merges says why."""
    try:
        return remaining(run, unneeded)
    except GraError as e:
        log.info("%s", e)
        return []
