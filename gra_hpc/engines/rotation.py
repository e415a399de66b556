"""Who is awake: when the engines of a node do not fit on its devices together, they take turns.

Engines with the same `turn` form a group; one group is awake at a time. A group works until nothing waits for it and
nothing is in flight, then the group with the most waiting calls is woken: groups swap as rarely as possible, since a
swap costs seconds (sleep mode on a GPU) to a minute (stop and start on a CPU). So that nobody starves, a group whose
oldest call has waited longer than the patience is woken next, once the awake group has been given the calls that waited
when it was woken (but for those whose engines are not ready); the awake group is then closed to new calls, drained and
swapped out. `rotation_costs.py` counts what that costs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import Any

from gra_hpc.engines.dispatcher import Dispatcher
from gra_hpc.engines.replica import Replica
from gra_hpc.engines.rotation_costs import LostTime

log = logging.getLogger(__name__)

SETTLE_S = 0.05
"""A group that ran empty gets this long to be asked again by the samples it has just answered."""
LEAST_PATIENCE_S = 60.0
"""A call waits at least this long before it forces a swap; four mean swaps if that is longer."""


@dataclass(frozen=True, slots=True)
class Load:
    """One group's work."""

    waiting: int = 0
    running: int = 0
    oldest_s: float = 0.0
    """Seconds the longest-waiting call has waited."""


def choose(loads: dict[int, Load], awake: int | None, gate_passed: bool, patience_s: float) -> int | None:
    """The group that should be awake.

    Args:
        loads: work by group.
        awake: the group that is awake, if any.
        gate_passed: the awake group has been given the calls that waited when it was woken.
        patience_s: waiting time from which a call may force a swap.

    Returns:
        The group; `awake` itself to stay; none when nobody has work.
    """
    others = {turn: load for turn, load in loads.items() if turn != awake and load.waiting}
    most = max(others, key=lambda t: (others[t].waiting, others[t].oldest_s, -t), default=None)
    oldest = max(others, key=lambda t: (others[t].oldest_s, -t), default=None)
    starving = oldest is not None and others[oldest].oldest_s > patience_s
    if awake is None:
        return oldest if starving else most
    mine = loads.get(awake, Load())
    if oldest is None:
        return awake
    if starving and (gate_passed or not mine.waiting):
        return oldest
    if not mine.waiting and not mine.running:
        return most
    return awake


class Rotation:
    """Wakes one group of replicas at a time.

    Args:
        dispatchers: the models' dispatchers; their replicas carry the turns.
        patience_s: see `LEAST_PATIENCE_S`.
    """

    def __init__(self, dispatchers: list[Dispatcher], patience_s: float = LEAST_PATIENCE_S) -> None:
        self.dispatchers, self.least_patience_s = dispatchers, patience_s
        self.groups: dict[int, list[Replica]] = {}
        for dispatcher in dispatchers:
            for replica in dispatcher.replicas:
                self.groups.setdefault(replica.place.turn, []).append(replica)
        self.awake: int | None = None
        self.lost = LostTime({turn: [r.place.model for r in rs] for turn, rs in self.groups.items()})
        self._activity = asyncio.Event()
        self._gate: dict[str, int] = {}
        """By model of the awake group: calls it will have been given once those are that waited when it was woken."""
        self._rising: dict[Replica, int] = {}
        """Engines of the awake group that have been neither ready nor dead since it was woken, and the deaths that each
        had seen before."""
        self._most = 0
        """Calls in flight in the awake group, at most, since it was woken."""
        self._first: int | None = None

    def begin(self, turn: int) -> None:
        """Wake a group before anything waits, if none is awake."""
        self._first = turn
        self._activity.set()

    def touched(self) -> None:
        """Something changed: a call waits, a replica ran empty."""
        self._activity.set()

    @property
    def patience_s(self) -> float:
        return max(self.least_patience_s, 4.0 * self.lost.mean_swap_s)

    def loads(self) -> dict[int, Load]:
        """Work by group, now."""
        now = asyncio.get_running_loop().time()
        found = {}
        for turn, replicas in self.groups.items():
            mine = [p for p in self.dispatchers if any(r in replicas for r in p.replicas)]
            oldest = min((p.oldest for p in mine if p.oldest is not None), default=now)
            found[turn] = Load(
                waiting=sum(p.waiting for p in mine),
                running=sum(len(r.inflight) for r in replicas),
                oldest_s=now - oldest,
            )
        return found

    async def run(self) -> None:
        """Rotate until cancelled."""
        try:
            await self._rotate()
        finally:
            self.lost.stop()

    async def _rotate(self) -> None:
        while True:
            target = self._choose()
            if target is not None and target != self.awake and self.awake is not None:
                mine = self.loads()[self.awake]
                if not mine.waiting and not mine.running:
                    await asyncio.sleep(SETTLE_S)
                    target = self._choose()
            if target is not None and target != self.awake:
                await self._swap(target)
                continue
            await self._change()

    async def _change(self) -> None:
        """Wait until something changes, or a second."""
        self._activity.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._activity.wait()

    def _choose(self) -> int | None:
        loads = self.loads()
        self._account(loads)
        target = choose(loads, self.awake, self._gate_passed(), self.patience_s)
        return self._first if target is None else target

    def _account(self, loads: dict[int, Load]) -> None:
        """Note what is lost from now on, while a group is awake."""
        if self.awake is None:
            return
        mine = loads[self.awake]
        self._rising = {r: n for r, n in self._rising.items() if not (r.ready or r.failed or r.deaths > n)}
        self._most = max(self._most, mine.running)
        if self._rising:
            self.lost.look()
        elif mine.waiting or not any(load.waiting for turn, load in loads.items() if turn != self.awake):
            self.lost.mark(self.awake, "dry_seconds", 0.0)
        else:
            self.lost.mark(self.awake, "dry_seconds", 1.0 - mine.running / max(1, self._most))

    def _gate_passed(self) -> bool:
        """Whether the awake group has been given the calls that waited when it was woken, once all its engines have
        started or tried to. Those of a model none of whose engines is ready then do not count: they may keep dying,
        and the other groups would wait for them."""
        if self.awake is None or self._rising:
            return self.awake is None
        ready = {r.place.model for r in self.groups[self.awake] if r.ready}
        return all(self._taken(self.awake, model) >= self._gate[model] for model in ready)

    def _taken(self, turn: int, model: str) -> int:
        return sum(r.taken for r in self.groups[turn] if r.place.model == model)

    async def _swap(self, target: int) -> None:
        """Drain and put to sleep the awake group, wake the target."""
        first = self.awake is None
        old = [] if self.awake is None else self.groups[self.awake]
        if self.awake is not None:
            self.lost.mark(self.awake, "drain_seconds")
        for dispatcher in self.dispatchers:
            dispatcher.open = False
        while any(r.inflight for r in old):
            await self._change()
        # The first waking is the start of the engines, counted there.
        self.lost.mark(target, "swap_seconds", 0.0 if first else 1.0)
        drained = time.monotonic()
        for replica in old:
            replica.want(False)
        for replica in old:
            await replica.down.wait()
        new = self.groups[target]
        self.awake, self._rising, self._most = target, {r: r.deaths for r in new}, 0
        models = {r.place.model for r in new}
        self._gate = {p.model: self._taken(target, p.model) + p.waiting for p in self.dispatchers if p.model in models}
        for replica in new:
            replica.want(True)
        while not any(r.ready for r in new) and not all(r.failed or r.deaths > n for r, n in self._rising.items()):
            await self._change()
        if not first:
            self.lost.turns[target].swaps += 1
            log.info("engines swapped: turn %d is awake after %.1f s", target, time.monotonic() - drained)
        for dispatcher in self.dispatchers:
            dispatcher.open = True
            dispatcher.pump()

    def report(self) -> dict[str, Any]:
        """Its statistics, JSON-able."""
        self.lost.look()
        return self.lost.report()
