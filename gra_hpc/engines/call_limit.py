"""How many calls one engine is given at once."""

from __future__ import annotations

import math

from gra_hpc.engines.client import Metrics


class Admission:
    """The limit of one engine's calls in flight.

    Args:
        most: never more than these (`engine.max_running`).
        batch: calls that its KV cache is expected to hold; 0: not known.
    """

    def __init__(self, most: int, batch: int = 0) -> None:
        self.most, self.batch = most, batch
        self.limit = most
        self.begin()

    def begin(self) -> None:
        """The engine has just started, or woken: a little more than its KV cache should hold, so that it never lacks
        work; all where that is not known."""
        self.limit = min(self.most, math.ceil(1.25 * self.batch) or self.most)

    def follow(self, metrics: Metrics) -> bool:
        """Follow the engine's own queue: calls that it cannot run because its KV cache is full are better kept here,
        where another replica can take them, and where they force no preemption.

        Returns:
            Whether there is more room than before.
        """
        before, running = self.limit, metrics.running
        if metrics.kv_use > 0.9 and metrics.waiting > max(4, running // 4):
            self.limit = max(8, min(before, running + max(4, running // 4)))
        elif metrics.waiting == 0 and before < self.most:
            self.limit = min(self.most, 2 * before)
        return self.limit > before
