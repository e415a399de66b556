"""How long a search may take."""

from __future__ import annotations

import time


class Deadline:
    """A limit on CPU time, so that a busy machine does not make a worse plan; the same as seconds on an idle one."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.cpu, self.wall = seconds, time.process_time(), time.monotonic()

    @property
    def spent(self) -> float:
        return time.process_time() - self.cpu

    @property
    def left(self) -> float:
        return self.seconds - self.spent

    @property
    def passed(self) -> bool:
        return self.left <= 0

    def wall_left(self, at_most: float = float("inf")) -> float:
        """Seconds on the wall clock, at the rate at which this process has been given the CPU (within 1.5 times)."""
        cpu, wall = self.spent, time.monotonic() - self.wall
        stretch = min(1.5, max(1.0, wall / cpu)) if cpu > 0.05 else 1.0
        return max(0.05, min(self.left, at_most) * stretch)
