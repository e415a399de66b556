"""Engines on a CPU node: a core serves one engine while there are enough cores; slow models get more of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gra_hpc.placement.performance import GB, Constants, Need, Rate, rate_curve


@dataclass(frozen=True)
class Seat:
    """One engine on its cores."""

    need: Need
    devices: tuple[int, ...]
    """Cores."""
    tensor_parallel: int
    kv_bytes: float
    """Of one process."""
    rate: Rate
    """With its cores for itself."""
    time: float = 1.0
    """Part of its cores' time that it gets."""
    calls: float = 1.0
    """Calls in flight that it gets, against other replicas of its model: as many as they."""

    def batch(self, constants: Constants) -> float:
        """Calls that its KV cache holds, and that it may run at once."""
        return rate_curve(self.need, self.tensor_parallel, constants, len(self.devices)).batch(self.kv_bytes)

    @property
    def host_bytes(self) -> float:
        """Host memory, beside what every engine takes."""
        return self.need.facts.weight_bytes + self.kv_bytes * self.tensor_parallel


def kv_bytes(need: Need, constants: Constants) -> float:
    """KV cache of one process: the pinned size, else the default, but no less than one call of the longest length."""
    t = max(1, need.tensor_parallel)
    if need.kv_bytes or not need.generates:
        return need.kv_bytes / t
    return max(constants.cpu_kv_gb * GB / t, need.kv_least(t))


def host_bytes(needs: Sequence[Need], constants: Constants) -> float:
    """Host memory of these models' engines, all awake."""
    return sum(
        max(1, n.replicas)
        * (n.facts.weight_bytes + kv_bytes(n, constants) * max(1, n.tensor_parallel) + constants.cpu_engine_gb * GB)
        for n in needs
    )


def seat(needs: Sequence[Need], cores: int, constants: Constants) -> tuple[float, tuple[Seat, ...]]:
    """Divide the cores: rate of the slowest model, and the engines.

    An engine with pinned tensor parallelism takes one core per process. The other cores go, one by one, to the model
    that is slowest; more engines than cores share them round robin. This is the best division, since a model's rate
    only grows with its cores. Each engine runs its even part of the calls that the window keeps in flight, at most.
    """
    engines = [(n, max(1, n.tensor_parallel)) for n in needs for _ in range(max(1, n.replicas))]
    each = int(constants.calls_in_flight / max(1, sum(n.generates for n, _ in engines)))
    constants = replace(constants, max_running=max(1, min(constants.max_running, each)))
    sizes = [t for _, t in engines]
    free = cores - sum(sizes)
    growing = [k for k, (_, t) in enumerate(engines) if t == 1]
    while free > 0 and growing:
        rates = _rates(engines, sizes, constants)
        worst = min(growing, key=lambda k: (rates[engines[k][0].name], sizes[k], k))
        sizes[worst] += 1
        free -= 1
    taken: list[tuple[int, ...]] = []
    first = 0
    for size in sizes:
        taken.append(tuple((first + i) % cores for i in range(size)))
        first += size
    on = [sum(c in own for own in taken) for c in range(cores)]
    seats = []
    for (need, t), size, own in zip(engines, sizes, taken, strict=True):
        kv = kv_bytes(need, constants)
        time = min(1 / on[c] for c in own)
        seats.append(Seat(need, own, t, kv, rate_curve(need, t, constants, size).rate(kv), time))
    rate = min(sum(s.rate.samples_per_s * s.time for s in seats if s.need.name == n.name) for n in needs)
    return rate, tuple(seats)


def _rates(engines: Sequence[tuple[Need, int]], sizes: Sequence[int], constants: Constants) -> dict[str, float]:
    """Samples a second of each model, every engine with its own cores."""
    rates: dict[str, float] = {}
    for (need, t), size in zip(engines, sizes, strict=True):
        curve = rate_curve(need, t, constants, size)
        rates[need.name] = rates.get(need.name, 0.0) + curve.samples_per_s(kv_bytes(need, constants))
    return rates
