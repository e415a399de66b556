"""Signals that tell a process to stop, noted: what to do about them is the caller's."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator


class Signals:
    """SIGUSR2 and SIGTERM, noted from an attempt's first moment on: a large journal takes a while to read."""

    def __init__(self) -> None:
        self.first = 0
        """The signal that came first; 0: none yet."""
        self.wake: Callable[[], object] = lambda: None
        """Called when one comes."""

    def _note(self, number: int, _: object) -> None:
        self.first = self.first or number
        self.wake()

    @contextlib.contextmanager
    def caught(self) -> Iterator[Signals]:
        """Handle them here; the handlers that were there (submitit's) come back afterwards."""
        handled = (signal.SIGUSR2, signal.SIGTERM)
        before = {s: signal.signal(s, self._note) for s in handled}
        try:
            yield self
        finally:
            for s in handled:
                signal.signal(s, before[s])


class Stop:
    """SIGUSR2 and SIGTERM, noted; the ranks agree on what to do at the end of a step."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, *_: object) -> None:
        self.asked = True
