"""Where a node's seconds go when its engines take turns: swapping, draining, running dry; by group."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class TurnStats:
    """What one group's turns cost."""

    turn: int
    models: list[str] = field(default_factory=list)
    swaps: int = 0
    """Times it was woken instead of another group."""
    swap_seconds: float = 0.0
    """From the end of another group's work until each of its own engines was ready, or did not start. Those that were
    ready before the last one had calls meanwhile."""
    drain_seconds: float = 0.0
    """In which it finished its calls, closed to others: not all of it was at work."""
    dry_seconds: float = 0.0
    """In which nothing waited for it while calls waited for other groups. They count by the part of its calls that was
    missing: where it had 8 in flight at most, a second with 2 is 0.75 s."""

    @property
    def lost_seconds(self) -> float:
        return self.swap_seconds + self.drain_seconds + self.dry_seconds


class LostTime:
    """Counts the seconds. At any time at most one kind of loss goes on.

    Args:
        groups: the models of each group.
    """

    def __init__(self, groups: Mapping[int, Iterable[str]]) -> None:
        self.turns = {turn: TurnStats(turn, sorted(set(models))) for turn, models in groups.items()}
        self._kind = ""
        self._turn, self._part, self._since = 0, 0.0, 0.0

    def mark(self, turn: int, kind: str, part: float = 1.0) -> None:
        """From now on this is what is lost.

        Args:
            turn: the group to whose account it goes.
            kind: swap_seconds, drain_seconds or dry_seconds.
            part: how much of the node; 0: nothing is lost.
        """
        now = asyncio.get_running_loop().time()
        if self._kind:
            stats = self.turns[self._turn]
            setattr(stats, self._kind, getattr(stats, self._kind) + self._part * (now - self._since))
        self._turn, self._kind, self._part, self._since = turn, kind, part, now

    def look(self) -> None:
        """Count up to now."""
        if self._kind:
            self.mark(self._turn, self._kind, self._part)

    def stop(self) -> None:
        """Count up to now, and no further."""
        self.look()
        self._kind = ""

    @property
    def mean_swap_s(self) -> float:
        """Seconds that a swap takes; 0 before the first."""
        turns = self.turns.values()
        return sum(t.swap_seconds for t in turns) / max(1, sum(t.swaps for t in turns))

    def report(self) -> dict[str, Any]:
        """The sums and the groups, JSON-able."""
        groups = [asdict(t) | {"lost_seconds": t.lost_seconds} for t in self.turns.values()]
        keys = ("swaps", "swap_seconds", "drain_seconds", "dry_seconds", "lost_seconds")
        return {k: sum(g[k] for g in groups) for k in keys} | {"groups": groups}


def sentence(rotation: Mapping[str, Any]) -> str:
    """A rotation's report in one line for a log; empty where nobody took turns."""
    if not rotation.get("groups"):
        return ""
    r = rotation
    kinds = f"{r['swap_seconds']:.0f} swapping, {r['drain_seconds']:.0f} draining, {r['dry_seconds']:.0f} running dry"
    groups = "; ".join(f"{', '.join(g['models'])}: {g['swaps']} swaps, {g['lost_seconds']:.0f} s" for g in r["groups"])
    return f"engines took turns: {r['swaps']} swaps, {r['lost_seconds']:.0f} s lost ({kinds}); {groups}"
