"""Calls whose engine died again and again: which of them is at fault, found by halving.

Nothing tells which of the calls in flight has ended an engine. Those that saw two deaths are suspects. Half of them are
asked together, on a replica that has been drained for it. A half that is answered is acquitted, and the search goes on
among the others; a half that ends the engine again holds the one at fault, and the others are acquitted. So of n calls
that died together the one at fault is alone after about log2(n) rounds, and of calls that died of something else all
are answered on the way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from gra_hpc.engines.replica import Call, Replica

Waiting = tuple[Call, "asyncio.Future[Replica]"]
"""A call and what it waits for: the replica it may go to."""


class Probation:
    """The suspects of one model."""

    def __init__(self) -> None:
        self.suspects: deque[Waiting] = deque()
        """Those that wait to be asked."""
        self.replica: Replica | None = None
        """Kept free of other calls, for the suspects; none while there are none."""
        self._trial: dict[Call, int] = {}
        """Those that are being asked, and the deaths that each had seen before."""
        self._died = False
        """The engine died of this trial."""

    def begin(self, replicas: Sequence[Replica]) -> list[Waiting]:
        """Reserve a replica while there are suspects, and once it is empty, have the first half of them asked.

        Returns:
            The calls that are to be asked now, together, on `replica`; none while it has others, or the last trial
            is not over.
        """
        if self._trial:
            return []
        while self.suspects and self.suspects[0][1].done():  # cancelled
            self.suspects.popleft()
        if not self.suspects:
            self.replica = None
            return []
        if self.replica is None or not self.replica.ready:
            ready = [r for r in replicas if r.ready]
            self.replica = min(ready, key=lambda r: len(r.inflight), default=None)
        if self.replica is None or self.replica.inflight:
            return []
        half = min((len(self.suspects) + 1) // 2, max(1, self.replica.free_calls))
        asked = [entry for _ in range(half) if not (entry := self.suspects.popleft())[1].done()]
        self._trial = {call: call.deaths for call, _ in asked}
        self._died = False
        return asked

    def ended(self, call: Call) -> list[Waiting]:
        """A call is no longer in flight: answered, cancelled, or its engine died.

        Returns:
            The suspects that this acquits: all that wait, when the engine died without them.
        """
        before = self._trial.pop(call, call.deaths)
        if call.deaths == before or self._died:
            return []
        self._died = True
        acquitted = list(self.suspects)
        self.suspects.clear()
        return acquitted
