"""Calls in flight: what an engine makes of them, and how engines divide those that a shard's window keeps going.

An engine's rate grows with the calls that it runs at once, each more bringing less than the one before; here the rate
is linear between `LEVELS` of them. A window gives a number of calls in all. The rate of a layout's slowest model is

    max X    sum of rate_e(b_e) over the engines e of model m >= X   for every model m
             sum of b_e over all engines <= calls in flight

solved exactly: each model takes its engines' best next calls first, and all models reach the same rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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

    @property
    def most(self) -> float:
        """Samples a second with as many calls as it holds."""
        return float(self.rates[-1])

    def worth(self, sample: float, call: float) -> float:
        """The most that is left of the worth of its samples when its calls are paid for."""
        return max(0.0, float((sample * self.rates - call * self.calls).max()))


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


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
    import numpy as np

    owners: dict[str, list[int]] = {}
    for k, (name, _, _) in enumerate(engines):
        owners.setdefault(name, []).append(k)
    ladders: dict[str, tuple[Any, Any, Any, Any, Any]] = {}
    for name, own in owners.items():
        width = np.concatenate([np.diff(engines[k][2].calls, prepend=0.0) for k in own])
        gain = np.concatenate([engines[k][1] * np.diff(engines[k][2].rates, prepend=0.0) for k in own])
        owner = np.repeat(own, [len(engines[k][2].calls) for k in own])
        order = np.argsort(-gain / width, kind="stable")
        width, gain = width[order], gain[order]
        ladders[name] = (
            np.append(0.0, np.cumsum(gain)),
            np.append(0.0, np.cumsum(width)),
            gain / width,
            width,
            owner[order],
        )
    most = min(float(rates[-1]) for rates, *_ in ladders.values())
    steps = np.unique(np.concatenate([rates for rates, *_ in ladders.values()]))
    steps = np.append(steps[steps < most], most)
    needed = sum(np.interp(steps, rates, calls) for rates, calls, *_ in ladders.values())
    scarce = bool(needed[-1] > total)
    rate = float(np.interp(total, needed, steps)) if scarce else most
    taken = np.zeros(len(engines))
    slopes: dict[str, float] = {}
    for name, (rates, _, slope, width, owner) in ladders.items():
        k = max(0, int(np.searchsorted(rates, rate * (1 - 1e-12))) - 1)
        slopes[name] = float(slope[k])
        better, same = slope > slope[k] * (1 + 1e-9), np.abs(slope / slope[k] - 1) <= 1e-9
        part = (rate - float(slope[better] @ width[better])) / float(slope[same] @ width[same])
        filled = width * (better + same * min(1.0, max(0.0, part)))
        taken += np.bincount(owner, filled, len(engines))
    if not scarce:  # what nobody needs is in flight all the same
        room = np.array([float(g.calls[-1]) for _, _, g in engines]) - taken
        taken += room * min(1.0, max(0.0, total - taken.sum()) / max(1e-9, room.sum()))
    return Shares(rate, taken.tolist(), _prices(ladders, slopes, most, scarce))


def _prices(ladders: dict[str, Any], slopes: dict[str, float], most: float, scarce: bool) -> Prices:
    if not scarce:
        slowest = [name for name, (rates, *_) in ladders.items() if rates[-1] <= most * (1 + 1e-9)]
        return Prices({name: (name in slowest) / len(slowest) for name in ladders}, 0.0)
    total = sum(1 / s for s in slopes.values())
    return Prices({name: 1 / s / total for name, s in slopes.items()}, 1 / total)
