"""Engines on their devices, and how they share time: the yardstick for every layout, whoever made it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gra_hpc.engines.patterns import Space, divide_kv, usable_time
from gra_hpc.engines.performance import Need, Rate, rate_curve


@dataclass(frozen=True)
class Host:
    """One engine on its devices."""

    need: Need
    tensor_parallel: int
    first: int
    """Its devices are `first` to `first + tensor_parallel - 1`."""
    kv_bytes: float
    """KV cache per device."""
    rate: Rate
    """With its devices for itself."""
    time: float = 0.0
    """Part of its devices' time that it gets."""

    @property
    def devices(self) -> tuple[int, ...]:
        return tuple(range(self.first, self.first + self.tensor_parallel))


def place(space: Space, engines: Sequence[tuple[Need, int, int]]) -> tuple[Host, ...]:
    """Engines `(need, tensor parallel, first device)` with their memory and rates; empty if they do not fit."""
    kv = divide_kv(space.devices, engines, space.memory, space.constants)
    if kv is None:
        return ()
    return tuple(
        Host(need, t, first, k, rate_curve(need, t, space.constants).rate(k))
        for (need, t, first), k in zip(engines, kv, strict=True)
    )


def share_time(space: Space, hosts: Sequence[Host]) -> tuple[float, tuple[Host, ...]]:
    """Rate of the slowest model when the devices' time is divided best, and the engines with their part of it.

    The rate is 0 where a model has no engine.
    """
    import numpy as np
    from scipy.optimize import linprog

    if {h.need.name for h in hosts} != {n.name for n in space.needs}:
        return 0.0, tuple(hosts)
    scale = min(h.rate.samples_per_s for h in hosts)
    on = [sum(h.need.generates and d in h.devices for h in hosts) for d in range(space.devices)]
    n = len(hosts)
    a = np.zeros((space.devices + len(space.needs), n + 1))
    b = np.zeros(space.devices + len(space.needs))
    b[: space.devices] = usable_time(on, space.constants)
    rows = {need.name: space.devices + j for j, need in enumerate(space.needs)}
    for k, h in enumerate(hosts):
        a[list(h.devices), k] = 1.0
        a[rows[h.need.name], k] = -min(h.rate.samples_per_s / scale, 1e4)
        a[rows[h.need.name], n] = 1.0
    cost = np.full(n + 1, 1e-6)  # no time for nothing
    cost[n] = -1.0
    result = linprog(cost, A_ub=a, b_ub=b, method="highs")
    shared = tuple(replace(h, time=float(t)) for h, t in zip(hosts, result.x[:n], strict=True))
    return float(result.x[n]) * scale, shared
