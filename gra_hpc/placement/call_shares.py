"""Calls in flight: what an engine makes of them, and how engines divide those that a shard's window keeps going.

An engine's rate grows with the calls that it runs at once, each more bringing less than the one before; here the rate
is linear between `LEVELS` of them. A window gives a number of calls in all. The rate of a layout's slowest model is

    max X    sum of rate_e(b_e) over the engines e of model m >= X   for every model m
             sum of b_e over all engines <= calls in flight

solved exactly: each model takes its engines' best next calls first, and all models reach the same rate.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gra_hpc.placement.performance import RateCurve

LEVELS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Calls at once between which rates are linear: within 1% of the model's own."""
NO_CALLS = 1e-6
"""Calls that an embedding model's whole rate counts for: its calls wait for nobody's answer tokens."""


@dataclass(frozen=True)
class Gains:
    """An engine's rate by the calls it runs at once: concave, linear between points."""

    calls: Any
    """Array of numbers of calls, growing, without 0."""
    rates: Any
    """Samples a second with so many calls, with the devices for itself."""

    @classmethod
    def of(cls, curve: RateCurve) -> Gains:
        """With KV cache for as many calls as may run."""
        import numpy as np

        if not curve.answer_tokens:
            return cls(np.array([NO_CALLS]), np.array([1 / curve.fixed_s]))
        calls = [float(b) for b in LEVELS if b < curve.max_running] + [curve.max_running]
        points = [(0.0, 0.0)]
        for b in calls:
            rate = b / (curve.answer_tokens * curve.step(b))
            # A mixture of experts may gain more from later calls than from earlier ones: the envelope is kept.
            while len(points) > 1 and _slope(points[-2], points[-1]) <= _slope(points[-1], (b, rate)):
                points.pop()
            if rate > points[-1][1]:
                points.append((b, rate))
        return cls(np.array([b for b, _ in points[1:]]), np.array([r for _, r in points[1:]]))

    def up_to(self, most: float) -> Gains:
        """The same with KV cache for no more than so many calls."""
        import numpy as np

        if most >= self.calls[-1]:
            return self
        k = int(np.searchsorted(self.calls, most))
        low, rate = (self.calls[k - 1], self.rates[k - 1]) if k else (0.0, 0.0)
        last = rate + (self.rates[k] - rate) * (most - low) / (self.calls[k] - low)
        return Gains(np.append(self.calls[:k], most), np.append(self.rates[:k], last))

    def at(self, calls: Any) -> Any:
        """Samples a second with so many calls: a number or an array."""
        import numpy as np

        return np.interp(calls, np.append(0.0, self.calls), np.append(0.0, self.rates))

    @functools.cached_property
    def points(self) -> list[tuple[float, float]]:
        """Numbers of calls and rates, as plain numbers."""
        return list(zip(self.calls.tolist(), self.rates.tolist(), strict=True))

    def rungs(self, time: float, most: float = math.inf) -> list[tuple[float, float]]:
        """Its pieces, with a part of its devices' time and up to so many calls: calls for one more sample a second, and
        how many calls; cheap ones first."""
        out = []
        low = rate = 0.0
        for calls, gained in self.points:
            out.append(((calls - low) / (time * (gained - rate)), min(calls, most) - low))
            if calls >= most:
                break
            low, rate = calls, gained
        return out

    @property
    def most(self) -> float:
        """Samples a second with as many calls as it holds."""
        return float(self.rates[-1])

    def worth(self, sample: float, call: float) -> float:
        """The most that is left of the worth of its samples when its calls are paid for."""
        return max(0.0, float((sample * self.rates - call * self.calls).max()))


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


class Ladder(NamedTuple):
    """A model's engines together: calls go first where they bring most."""

    rates: list[float]
    """Samples a second after so many rungs, beginning with none."""
    calls: list[float]
    """The calls that they take."""
    costs: list[float]
    """Calls for one more sample a second on each rung; growing."""

    @classmethod
    def of(cls, rungs: Sequence[tuple[float, float]]) -> Ladder:
        """From the rungs of all engines, `(cost, calls)`, cheap ones first."""
        rates, calls = [0.0], [0.0]
        for cost, width in rungs:
            rates.append(rates[-1] + width / cost)
            calls.append(calls[-1] + width)
        return cls(rates, calls, [cost for cost, _ in rungs])

    def rung(self, rate: float) -> int:
        """The rung on which a rate is reached."""
        return bisect_left(self.rates, rate, 1, len(self.rates) - 1) - 1

    def needed(self, rate: float) -> float:
        """Calls that a rate takes."""
        k = self.rung(rate)
        return self.calls[k + 1] - (self.rates[k + 1] - rate) * self.costs[k]


def common_rate(ladders: Collection[Ladder], total: float) -> float:
    """The highest rate that every model reaches with so many calls, all together.

    By Newton's method from above: what a rate takes is convex and linear between rungs, so that it ends at the rate.
    """
    rate = min(ladder.rates[-1] for ladder in ladders)
    while (over := sum(ladder.needed(rate) for ladder in ladders) - total) > 1e-9 * total:
        rate -= over / sum(ladder.costs[ladder.rung(rate)] for ladder in ladders)
    return rate


@dataclass(frozen=True)
class Prices:
    """What a model's samples and a call in flight are worth in a layout: bounds what its neighbours can do.

    With any prices, no division of the calls gives more than the worth of all engines' samples less that of their
    calls, plus that of all calls in flight (weak duality).
    """

    samples: dict[str, float]
    """By model; they add up to 1."""
    call: float
    """Samples a second that one more call in flight brings."""


@dataclass(frozen=True)
class Shares:
    """How engines divide the calls in flight."""

    samples_per_s: float
    """Rate of the slowest model."""
    calls: list[float]
    """By engine."""
    prices: Prices


def divide(engines: Sequence[tuple[str, float, Gains]], total: float) -> Shares:
    """Divide calls such that the slowest model is as fast as it can be.

    Args:
        engines: model, part of its devices' time and gains of each.
        total: calls in flight, all together.
    """
    rungs: dict[str, list[tuple[float, float, int]]] = {}
    for k, (name, time, gains) in enumerate(engines):
        rungs.setdefault(name, []).extend((*rung, k) for rung in gains.rungs(time))
    ladders = {name: Ladder.of([(cost, width) for cost, width, _ in sorted(own)]) for name, own in rungs.items()}
    most = min(ladder.rates[-1] for ladder in ladders.values())
    rate = common_rate(ladders.values(), total)
    scarce = rate < most
    taken = [0.0] * len(engines)
    last: dict[str, float] = {}
    for name, ladder in ladders.items():
        cost = last[name] = ladder.costs[ladder.rung(rate * (1 - 1e-12))]
        better = [r for r in rungs[name] if r[0] < cost * (1 - 1e-9)]
        same = [r for r in rungs[name] if abs(r[0] / cost - 1) <= 1e-9]
        part = (rate - sum(width / c for c, width, _ in better)) / sum(width / c for c, width, _ in same)
        for _, width, k in better:
            taken[k] += width
        for _, width, k in same:
            taken[k] += width * min(1.0, max(0.0, part))
    if not scarce:  # what nobody needs is in flight all the same
        room = [float(gains.calls[-1]) - calls for (_, _, gains), calls in zip(engines, taken, strict=True)]
        part = min(1.0, max(0.0, total - sum(taken)) / max(1e-9, sum(room)))
        taken = [calls + part * more for calls, more in zip(taken, room, strict=True)]
    return Shares(rate, taken, _prices(ladders, last, most, scarce))


def _prices(ladders: dict[str, Ladder], costs: dict[str, float], most: float, scarce: bool) -> Prices:
    if not scarce:
        slowest = [name for name, ladder in ladders.items() if ladder.rates[-1] <= most * (1 + 1e-9)]
        return Prices({name: (name in slowest) / len(slowest) for name in ladders}, 0.0)
    total = sum(costs.values())
    return Prices({name: cost / total for name, cost in costs.items()}, 1 / total)
