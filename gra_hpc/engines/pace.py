"""When the next call may go to somebody else's server: a bound on calls in flight, one on calls a minute, pauses."""

from __future__ import annotations

import asyncio
from collections import deque

from gra_hpc.flows.calls import Draining


class Pace:
    """Lets calls through, first come, first served; those that are asked again go before.

    Nothing polls: a call is woken by the end of another, or by one timer.

    Args:
        concurrency: calls in flight.
        per_minute: calls begun in a minute, spread evenly; 0: no limit.
    """

    def __init__(self, concurrency: int, per_minute: float = 0.0) -> None:
        self.most = concurrency
        self.limit = concurrency
        """Now: half as many each time that the server has too much to do, and one more each time that so many were
        answered."""
        self.in_flight = 0
        self._apart_s = 60.0 / per_minute if per_minute else 0.0
        self._next = self._paused_until = 0.0
        self._answered = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._drained = asyncio.Event()

    async def enter(self, again: bool = False) -> None:
        """Wait for a call's turn. `leave` gives it back.

        Args:
            again: it was asked before.

        Raises:
            Draining: nothing is asked any more.
        """
        if self._drained.is_set():
            raise Draining
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if again else self._waiting.append)(future)
        self._pump()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.leave()
            raise

    def leave(self) -> None:
        """A call is no longer in flight."""
        self.in_flight -= 1
        self._pump()

    def answered(self) -> None:
        """The server answered a call: when it has answered as many as it is asked at once, it is asked one more."""
        self._answered += 1
        if self.limit < self.most and self._answered >= self.limit:
            self._answered = 0
            self.limit += 1
            self._pump()

    def too_much(self, pause_s: float) -> None:
        """The server has too much to do: nothing is asked for a while, and then less at once."""
        now = asyncio.get_running_loop().time()
        if now >= self._paused_until:  # all calls in flight say so: once counts
            self.limit = max(1, self.limit // 2)
            self._answered = 0
        self._paused_until = max(self._paused_until, now + pause_s)

    async def sleep(self, seconds: float) -> None:
        """Wait before a call is asked again.

        Raises:
            Draining: it will not be.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._drained.wait()
        except TimeoutError:
            return
        raise Draining

    def drain(self) -> None:
        """Let nothing through any more; what waits ends with `Draining`."""
        self._drained.set()
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(Draining())

    def _pump(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        while self._waiting and self.in_flight < self.limit:
            if self._waiting[0].done():  # cancelled
                self._waiting.popleft()
                continue
            now = loop.time()
            wait = max(self._next, self._paused_until) - now
            if wait > 0:
                self._timer = loop.call_later(wait, self._pump)
                return
            self._next = max(now, self._next) + self._apart_s
            self.in_flight += 1
            self._waiting.popleft().set_result(None)
