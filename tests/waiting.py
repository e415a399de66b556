"""Waiting for what must come, however busy the machine: an event, never a fixed time.

A test that waits in vain is ended by its own limit (`timeout` in pyproject.toml): that is for one that hangs, not for
one that is slow.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import psutil


def until(condition: Callable[[], object], going: Callable[[], object] = lambda: True) -> None:
    """Wait for a condition.

    Args:
        going: what it waits for can still come; where it cannot, the test fails.
    """
    while not condition():
        assert going() or condition(), "it cannot come any more"
        time.sleep(0.01)


async def until_it_is(condition: Callable[[], object]) -> None:
    """The same among coroutines."""
    while not condition():
        await asyncio.sleep(0.005)


def ended(processes: Sequence[psutil.Process]) -> None:
    """Wait until processes have ended; a zombie has."""

    def runs(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    until(lambda: not any(map(runs, processes)))
