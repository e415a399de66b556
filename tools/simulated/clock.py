"""An event loop whose clock jumps: hours of waiting pass in milliseconds, and the code that waits is the real one.

Where nothing is ready, the loop does not sleep until its next timer: it sets its clock to it. Work of other threads
(`asyncio.to_thread`) is done at once, in the loop's own thread, and takes no time on that clock. Only for simulations:
sockets and processes are not waited for.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

_IDLE_S = 0.05
"""Real seconds to wait for a signal where no timer is set."""


class _JumpingSelector(selectors.DefaultSelector):
    """Counts the seconds it was asked to wait instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(_IDLE_S if timeout is None else 0)
        if not ready and timeout and timeout > 0:
            self.now += timeout
        return ready


class SimulatedTimeLoop(asyncio.SelectorEventLoop):
    """The loop. `time()` is in simulated seconds since its start."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Simulated seconds."""
        return self._jumping.now

    def run_in_executor(  # type: ignore[override]
        self,
        executor: Any,  # noqa: ARG002
        func: Callable[..., Any],
        *args: Any,
    ) -> Any:
        """Do it now: it takes no simulated time."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except BaseException as e:
            if isinstance(e, (KeyboardInterrupt, SystemExit)):
                raise
            future.set_exception(e)
        return future


class SimulatedTime(asyncio.DefaultEventLoopPolicy):
    """With it, `asyncio.run` uses such loops: `asyncio.set_event_loop_policy(SimulatedTime())`."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return SimulatedTimeLoop()
