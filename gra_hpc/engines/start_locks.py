"""Which engines may start at once: those that share no device, and only one of them split over several devices.

Two engines that load on one device measure its free memory while the other takes it; two tensor-parallel engines race
for TCP ports. Twelve engines on eight GPUs are up after two rounds of starts instead of twelve.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from gra_hpc.placement.placement import EnginePlace

_PORTS = 1 << 30
"""Stands for the ports, behind all devices."""
_ANYWHERE = -1
"""Stands for the devices of engines that name none."""


class StartingLocks:
    """The locks of one node's devices."""

    def __init__(self) -> None:
        self._locks: dict[int, asyncio.Lock] = {}

    def of(self, place: EnginePlace) -> Starting:
        """What an engine must hold while it starts."""
        wanted = sorted(place.devices) or [_ANYWHERE]
        if place.tensor_parallel > 1:
            wanted.append(_PORTS)
        return Starting([self._locks.setdefault(d, asyncio.Lock()) for d in wanted])


class Starting:
    """Several locks as one; taken in one order by everybody, so that nobody waits for ever."""

    def __init__(self, locks: list[asyncio.Lock]) -> None:
        self._locks = locks
        self._held: list[asyncio.Lock] = []

    async def __aenter__(self) -> None:
        try:
            for lock in self._locks:
                await lock.acquire()
                self._held.append(lock)
        except BaseException:
            self._release()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _release(self) -> None:
        while self._held:
            self._held.pop().release()
