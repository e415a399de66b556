"""Engines on the devices of one node: who fits, what memory each gets, and how they share time.

`share_time` is the yardstick for every layout, whoever made it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gra_hpc.engines.performance import Constants, Need, Rate, RateCurve, rate_curve


@dataclass(frozen=True)
class Fit:
    """A model split over so many devices: what it costs on each of them, and what it does there."""

    need: Need
    tensor_parallel: int
    size: float
    """Bytes per device with the least KV cache."""
    least: float
    """Bytes per device of KV cache without which it does not start."""
    more: float
    """Bytes per device of KV cache that it would like beyond the least; 0 if pinned, or without a cache."""
    curve: RateCurve
    best: float
    """Samples a second per device with a full KV cache."""


@dataclass(frozen=True)
class Space:
    """Where layouts are searched: the models, the devices, and what of their memory engines may take."""

    needs: tuple[Need, ...]
    devices: int
    memory: float
    """Bytes of a device that engines may take."""
    constants: Constants
    host_bytes: float = float("inf")
    """Host memory for weights that sleep."""
    _fits: dict[tuple[str, int], Fit] = field(default_factory=dict, compare=False, repr=False)

    def fit(self, need: Need, t: int) -> Fit:
        """The model split over `t` devices."""
        key = need.name, t
        if key not in self._fits:
            least = need.kv_least(t)
            free = need.generates and not need.kv_bytes
            more = need.kv_full(t, self.constants) - least + 1.0 if free else 0.0
            curve = rate_curve(need, t, self.constants)
            best = curve.samples_per_s(least + more) / t
            size = need.fixed_bytes(t, self.constants) + least
            self._fits[key] = Fit(need, t, size, least, more, curve, best)
        return self._fits[key]

    def splits(self, need: Need) -> list[int]:
        """Tensor parallel sizes a model may have here: powers of two and divisors that its heads allow; or the pin."""
        sizes = [t for t in range(1, self.devices + 1) if (t & (t - 1)) == 0 or self.devices % t == 0]
        if need.tensor_parallel:
            sizes = [need.tensor_parallel] if need.tensor_parallel <= self.devices else []
        return [t for t in sizes if need.facts.can_split(t)]

    def usable(self, generating: int) -> float:
        """Part of a device's time that is left when so many generating engines share it."""
        return max(0.1, 1 - self.constants.sharing_loss * max(0, generating - 1))


@dataclass(frozen=True)
class Host:
    """One engine on its devices."""

    need: Need
    tensor_parallel: int
    first: int
    """Its devices are `first` to `first + tensor_parallel - 1`."""
    kv_bytes: float
    """KV cache per device."""
    samples_per_s: float
    """With its devices for itself."""
    rate: Rate = Rate(0.0, 0.0, 0.0, "")
    """The same with its reasons; set once a layout is final."""
    time: float = 0.0
    """Part of its devices' time that it gets."""

    @property
    def devices(self) -> tuple[int, ...]:
        return tuple(range(self.first, self.first + self.tensor_parallel))


Engines = Sequence[tuple[Need, int, int]]
"""Engines as `(need, tensor parallel, first device)`."""


def divide_kv(space: Space, devices: int, engines: Engines) -> list[float] | None:
    """KV cache bytes per device of each engine; none if they do not fit.

    What weights leave free on a device is divided between its engines: first the least each one starts with, the rest
    by how much KV cache would fill its batch. An engine on several devices has on all what it gets on the fullest.
    """
    left = [space.memory] * devices
    wanted = [0.0] * devices
    fits = [space.fit(need, t) for need, t, _ in engines]
    for fit, (_, t, first) in zip(fits, engines, strict=True):
        for d in range(first, first + t):
            left[d] -= fit.size
            wanted[d] += fit.more
    if min(left) < 0:
        return None
    return [
        f.least + (min(left[d] * f.more / wanted[d] for d in range(first, first + t)) if f.more else 0.0)
        for f, (_, t, first) in zip(fits, engines, strict=True)
    ]


def place(space: Space, engines: Engines) -> tuple[Host, ...]:
    """Engines with their memory and rates; empty if they do not fit."""
    if sum(need.facts.weight_bytes for need, _, _ in engines) > space.host_bytes:
        return ()
    kv = divide_kv(space, space.devices, engines)
    if kv is None:
        return ()
    return tuple(
        Host(need, t, first, k, space.fit(need, t).curve.samples_per_s(k))
        for (need, t, first), k in zip(engines, kv, strict=True)
    )


def _usable_by_device(space: Space, hosts: Sequence[Host]) -> list[float]:
    on = [0] * space.devices
    for h in hosts:
        if h.need.generates:
            for d in h.devices:
                on[d] += 1
    return [space.usable(n) for n in on]


def _time_program(space: Space, hosts: Sequence[Host]) -> tuple[Any, Any, Any, float]:
    """`max X` over parts of time: matrix (devices' rows, then models'), right-hand side, costs, and X's unit."""
    import numpy as np

    scale = min(h.samples_per_s for h in hosts)
    n = len(hosts)
    a = np.zeros((space.devices + len(space.needs), n + 1))
    b = np.zeros(space.devices + len(space.needs))
    b[: space.devices] = _usable_by_device(space, hosts)
    rows = {need.name: space.devices + j for j, need in enumerate(space.needs)}
    for k, h in enumerate(hosts):
        a[list(h.devices), k] = 1.0
        a[rows[h.need.name], k] = -min(h.samples_per_s / scale, 1e4)
        a[rows[h.need.name], n] = 1.0
    cost = np.full(n + 1, 1e-6)  # no time for nothing
    cost[n] = -1.0
    return a, b, cost, scale


def share_time(space: Space, hosts: Sequence[Host]) -> tuple[float, tuple[Host, ...]]:
    """Rate of the slowest model when the devices' time is divided best, and the engines with their part of it.

    The rate is 0 where a model has no engine.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    if {h.need.name for h in hosts} != {n.name for n in space.needs}:
        return 0.0, tuple(hosts)
    a, b, cost, scale = _time_program(space, hosts)
    # `milp` without integers is a linear program with a third of the overhead of `linprog`.
    result = milp(
        cost,
        constraints=LinearConstraint(a, -np.inf, b),
        bounds=Bounds(0, np.inf),
        options={"presolve": False},
    )
    times = result.x[: len(hosts)]
    return float(result.x[-1]) * scale, tuple(
        replace(h, time=float(t)) for h, t in zip(hosts, times, strict=True)
    )


@dataclass(frozen=True)
class Prices:
    """What a model's samples and a device's time are worth in a layout: bounds what its neighbours can do."""

    samples: dict[str, float]
    """By model; they add up to 1."""
    devices: list[float]
    """Samples a second that a device's whole time is worth."""


def prices(space: Space, hosts: Sequence[Host]) -> Prices:
    """The dual of sharing time: prices at which no other division of the time is worth more."""
    from scipy.optimize import linprog

    a, b, cost, scale = _time_program(space, hosts)
    dual = -linprog(cost, A_ub=a, b_ub=b, method="highs").ineqlin.marginals
    names = [n.name for n in space.needs]
    total = sum(dual[space.devices :]) or 1.0
    samples = {n: float(v) / total for n, v in zip(names, dual[space.devices :], strict=True)}
    return Prices(samples, [float(v) * scale for v in dual[: space.devices]])


def reach(space: Space, hosts: Sequence[Host], at: Prices) -> float:
    """No division of these engines' time gives more than this rate: any prices bound it (weak duality)."""
    best = [0.0] * space.devices
    for h in hosts:
        worth = at.samples[h.need.name] * h.samples_per_s
        total = sum(at.devices[d] for d in h.devices)
        for d in h.devices:
            part = at.devices[d] / total if total > 0 else 1 / h.tensor_parallel
            best[d] = max(best[d], worth * part)
    return sum(u * v for u, v in zip(_usable_by_device(space, hosts), best, strict=True))


def explained(space: Space, hosts: Sequence[Host]) -> tuple[Host, ...]:
    """The same engines, their rates with reasons."""
    return tuple(replace(h, rate=space.fit(h.need, h.tensor_parallel).curve.rate(h.kv_bytes)) for h in hosts)
