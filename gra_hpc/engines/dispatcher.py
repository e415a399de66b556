"""One model's replicas and the calls that wait for them: who answers what, and what becomes of calls whose engine died.

A call goes to the least loaded replica, or to one that has seen the beginning of its prompt where that costs nothing
(vLLM keeps computed prefixes). Nothing polls: a waiting call is woken by the release of another, or by a replica that
becomes ready.

A call in flight when its engine dies is asked again. After its second such death it is on probation (`suspects.py`):
asked with half of the calls that died with it, then with a quarter of them, until only the one at fault is left. A call
is given up when its engine dies again with nothing else in flight: at once if the engine was asked nothing else since
its start, else the second time. So of many calls that died together only the one at fault is lost, and none to engines
that died of something else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable

from gra_hpc.engines.replica import Call, Replica
from gra_hpc.engines.suspects import Probation, Waiting
from gra_hpc.errors import EngineError
from gra_hpc.flows.calls import Answer, Draining

log = logging.getLogger(__name__)

_CHUNK = 128
"""Characters per step of a prompt's prefix: a few of vLLM's blocks (16 tokens on a GPU, 128 on a CPU)."""
_CHUNKS = 64
"""Most steps that are told apart."""
_REMEMBERED = 20_000
"""Prefixes remembered per replica."""


def prefixes(messages: tuple[dict[str, str], ...]) -> tuple[int, ...]:
    """Hashes of the growing prefixes of a prompt, at most `_CHUNKS`, for this process only."""
    text = "\0".join(m["content"] for m in messages)
    found, so_far = [], 0
    for end in range(_CHUNK, min(len(text), _CHUNKS * _CHUNK) + 1, _CHUNK):
        so_far = hash((so_far, text[end - _CHUNK : end]))
        found.append(so_far)
    return tuple(found)


class Dispatcher:
    """All replicas of one model on a node.

    Args:
        model: its name.
        waiting_changed: called when a call has to wait, or a replica ran empty (the rotation listens).
    """

    def __init__(self, model: str, waiting_changed: Callable[[], None]) -> None:
        self.model = model
        self.replicas: list[Replica] = []
        self.fold_system = False
        self.quarantined = 0
        self.error: EngineError | Draining | None = None
        self._waiting: deque[Waiting] = deque()
        self._probation = Probation()
        self._seen: dict[Replica, OrderedDict[int, None]] = {}
        self._waiting_changed = waiting_changed
        self.open = True
        """Whether calls are admitted; a rotation closes a dispatcher to drain it."""

    @property
    def waiting(self) -> int:
        """Calls that wait for a replica."""
        return len(self._waiting) + len(self._probation.suspects)

    @property
    def oldest(self) -> float | None:
        """Loop time since which the longest-waiting call waits."""
        heads = [queue[0][0].since for queue in (self._waiting, self._probation.suspects) if queue]
        return min(heads, default=None)

    @property
    def in_flight(self) -> int:
        """Calls at the replicas."""
        return sum(len(r.inflight) for r in self.replicas)

    async def ask(self, call: Call) -> Answer:
        """Answer a call, whatever happens to engines meanwhile.

        Raises:
            EngineError: no replica can be kept running.
            Draining: it is not in flight, and the dispatcher drains.
        """
        if len(self.replicas) > 1:
            call.prefix = prefixes(call.messages)
        while True:
            replica = await self._admit(call)
            try:
                answer = await replica.answer(call)
            finally:
                self._release(replica, call)
            if answer is not None:
                return answer
            if call.guilty:
                self.quarantined += 1
                log.warning("a call to %s was given up: its engine died %d times", self.model, call.deaths)
                said = f"its engine died {call.deaths} times while answering it, the last time this call alone"
                return Answer(f"{said}: {call.cause}", "error", 0, 0, 0.0)

    async def _admit(self, call: Call) -> Replica:
        """Wait for a place at a replica, and take it."""
        if self.error is not None:
            raise self.error
        on_probation = call.deaths >= 2
        if not on_probation and not self._waiting and (replica := self._pick(call)) is not None:
            self._take(replica, call)
            return replica
        loop = asyncio.get_running_loop()
        call.since = loop.time()
        future: asyncio.Future[Replica] = loop.create_future()
        queue = self._probation.suspects if on_probation else self._waiting
        entry = (call, future)
        queue.append(entry)
        self._waiting_changed()
        if on_probation:
            self.pump()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._release(future.result(), call)
            elif entry in queue:
                queue.remove(entry)
            self.pump()
            raise

    def _release(self, replica: Replica, call: Call) -> None:
        """A call is no longer at a replica."""
        replica.release(call)
        acquitted = self._probation.ended(call)
        for other, _ in acquitted:
            other.deaths = other.alone = 0
        self._waiting.extendleft(reversed(acquitted))
        self.pump()

    def pump(self) -> None:
        """Give waiting calls to replicas that have room."""
        for call, future in self._probation.begin(self.replicas) if self.open else ():
            replica = self._probation.replica
            assert replica is not None
            self._take(replica, call)
            replica.on_trial = True
            future.set_result(replica)
        while self._waiting:
            call, future = self._waiting[0]
            if future.done():
                self._waiting.popleft()
                continue
            replica = self._pick(call)
            if replica is None:
                break
            self._waiting.popleft()
            self._take(replica, call)
            future.set_result(replica)
        if not self._waiting:
            self._waiting_changed()

    def _pick(self, call: Call) -> Replica | None:
        if not self.open:
            return None
        free = [r for r in self.replicas if r.free_calls > 0 and r is not self._probation.replica]
        if len(free) < 2:
            return free[0] if free else None
        # Replicas that share devices have smaller weights: as many calls there would wait while others are idle.
        most = max(r.place.weight for r in free)
        load = {r: len(r.inflight) * most / r.place.weight for r in free}
        least = min(load.values())
        near = [r for r in free if load[r] <= least + 2 + least // 8]
        return max(near, key=lambda r: (self._known(r, call.prefix), -load[r]))

    def _known(self, replica: Replica, prefix: tuple[int, ...]) -> int:
        """Length of the prefix that the replica has seen, in steps."""
        seen = self._seen.get(replica)
        if seen is None:
            return 0
        return next((n for n in range(len(prefix), 0, -1) if prefix[n - 1] in seen), 0)

    def _take(self, replica: Replica, call: Call) -> None:
        replica.take(call)
        replica.on_trial = False
        if call.prefix:
            seen = self._seen.setdefault(replica, OrderedDict())
            for key in call.prefix:
                seen[key] = None
                seen.move_to_end(key)
            while len(seen) > _REMEMBERED:
                seen.popitem(last=False)

    def changed(self, replica: Replica) -> None:
        """A replica became ready, is no longer, or has failed."""
        if not replica.ready:
            self._seen.pop(replica, None)
        failed = [r for r in self.replicas if r.failed is not None]
        if replica.failed is not None and len(failed) == len(self.replicas):
            self.fail(replica.failed)
        self.pump()

    def drain(self) -> None:
        """Give no more calls to replicas; those in flight are answered."""
        if self.error is None:
            self.fail(Draining())

    def fail(self, error: EngineError | Draining) -> None:
        """All calls to this model that are not in flight end with an error from now on."""
        self.error = error
        for queue in (self._waiting, self._probation.suspects):
            while queue:
                _, future = queue.popleft()
                if not future.done():
                    future.set_exception(error)
