"""How often an engine is started again: until its deaths lead nowhere."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Patience:
    """One engine's deaths, and whether to start it once more.

    It ends when, without an answered call in between, there were more deaths than `restarts` that lead nowhere. A death
    that found the call at fault, or halved the suspects, leads somewhere: the first counts as one together with all
    deaths before it, the second not at all. So an engine that dies of every call is given up too, after a few of them.
    """

    restarts: int
    """As `engine.max_restarts` says."""
    deaths: int = 0
    """In a row: since it answered a call."""
    was_ready: bool = False
    """It was ready at least once."""
    _fruitless: int = 0
    _culprits: int = 0
    """Calls at fault, since it answered one."""
    _refusal: str = ""
    _refused_again: bool = False
    """It was never ready, and did not start for the same reason twice."""

    def answered(self) -> None:
        """It answered a call."""
        self.deaths = self._fruitless = self._culprits = 0

    def died(self, found: bool = False, halved: bool = False) -> None:
        """It died while it was ready.

        Args:
            found: the call at fault is known.
            halved: it was given a part of the suspects, so that the others are acquitted.
        """
        self.deaths += 1
        if found:
            self._culprits += 1
            self._fruitless = self._culprits
        elif not halved:
            self._fruitless += 1

    def did_not_start(self, cause: str) -> None:
        """A start failed."""
        self.deaths += 1
        self._fruitless += 1
        self._refused_again = cause == self._refusal and not self.was_ready
        self._refusal = cause

    @property
    def spent(self) -> bool:
        """Whether another start is of no use."""
        return self._refused_again or self._fruitless > self.restarts

    @property
    def pause_s(self) -> float:
        """Seconds to wait before the next start."""
        return 0.0 if self._fruitless < 2 else min(60.0, 0.5 * 2.0 ** (self._fruitless - 2))

    def __str__(self) -> str:
        return f"died {self.deaths} times in a row" if self.was_ready else "does not start"
