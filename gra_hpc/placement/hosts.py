"""Engines on the devices of one node: who fits, what memory each gets, and how they share time and calls.

`share_time` is the yardstick for every layout, whoever made it. A device goes round among the engines that have work,
and all generating engines have some as long as the window is full: n of them get an n-th of its time each, less what
sharing costs. Nobody can be given more: an engine with few calls takes turns as long as one with many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gra_hpc.placement.call_shares import Gains, Prices, Shares, divide
from gra_hpc.placement.performance import Constants, Need, Rate, RateCurve, rate_curve


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
    gains: Gains
    """What it does with its devices for itself, by the calls that it runs."""


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
            size = need.fixed_bytes(t, self.constants) + least
            self._fits[key] = Fit(need, t, size, least, more, curve, Gains.of(curve))
        return self._fits[key]

    def splits(self, need: Need) -> list[int]:
        """Tensor parallel sizes a model may have here: powers of two and divisors that its heads allow; or the pin.

        A pinned KV cache must hold the longest call on each device, and pinned replicas have devices of their own.
        """
        sizes = [t for t in range(1, self.devices + 1) if (t & (t - 1)) == 0 or self.devices % t == 0]
        if need.tensor_parallel:
            sizes = [need.tensor_parallel] if need.tensor_parallel <= self.devices else []
        widest = self.devices // max(1, need.replicas)
        return [t for t in sizes if t <= widest and need.facts.can_split(t) and need.starts(t)]

    def usable(self, generating: int) -> float:
        """Part of a device's time that is left when so many generating engines share it."""
        return max(0.1, 1 - self.constants.sharing_loss * max(0, generating - 1))

    def share(self, generating: int) -> float:
        """Part of a device's time that each of so many engines at work gets."""
        return self.usable(generating) / max(1, generating)

    def gains(self, host: Host) -> Gains:
        """What an engine does with its devices for itself, by the calls that it runs."""
        fit = self.fit(host.need, host.tensor_parallel)
        return fit.gains.up_to(fit.curve.batch(host.kv_bytes))


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
    """With its devices for itself, and as many calls as its KV cache holds."""
    rate: Rate = Rate(0.0, 0.0, 0.0, "")
    """With its devices for itself and the calls it gets, and the reasons; set once a layout is final."""
    time: float = 0.0
    """Part of its devices' time that it gets."""
    calls: float = 0.0
    """Calls in flight that it gets."""

    @property
    def devices(self) -> tuple[int, ...]:
        return tuple(range(self.first, self.first + self.tensor_parallel))

    def batch(self, constants: Constants) -> float:
        """Calls that its KV cache holds, and that it may run at once."""
        return rate_curve(self.need, self.tensor_parallel, constants).batch(self.kv_bytes)


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
    """Engines with their memory and rates; empty if they do not fit, or if a model is on a device twice.

    A second engine would give its model a second part of the device's time, for weights that are there already.
    """
    on = [(need.name, d) for need, t, first in engines for d in range(first, first + t)]
    if len(set(on)) < len(on):
        return ()
    if sum(need.facts.weight_bytes for need, _, _ in engines) > space.host_bytes:
        return ()
    kv = divide_kv(space, space.devices, engines)
    if kv is None:
        return ()
    return tuple(
        Host(need, t, first, k, space.fit(need, t).curve.samples_per_s(k))
        for (need, t, first), k in zip(engines, kv, strict=True)
    )


def share_time(space: Space, hosts: Sequence[Host]) -> tuple[float, tuple[Host, ...]]:
    """Rate of the slowest model, and the engines with their parts of the devices' time and of the calls in flight.

    The rate is 0 where a model has no engine.
    """
    if {h.need.name for h in hosts} != {n.name for n in space.needs}:
        return 0.0, tuple(hosts)
    shares, times = _shares(space, hosts)
    return shares.samples_per_s, tuple(
        replace(h, time=t, calls=c) for h, t, c in zip(hosts, times, shares.calls, strict=True)
    )


def value(space: Space, engines: Engines) -> tuple[float, tuple[Host, ...]]:
    """What engines do together: the rate of the slowest model, and each with memory and time; 0 if they do not fit."""
    hosts = place(space, engines)
    return share_time(space, hosts) if hosts else (0.0, ())


def prices(space: Space, hosts: Sequence[Host]) -> Prices:
    """Prices at which no other division of the calls is worth more."""
    return _shares(space, hosts)[0].prices


def reach(space: Space, hosts: Sequence[Host], at: Prices) -> float:
    """No division of the calls among these engines gives more than this rate: any prices bound it (weak duality)."""
    worth = space.constants.calls_in_flight * at.call
    for h, time in zip(hosts, times(space, hosts), strict=True):
        worth += space.gains(h).worth(at.samples[h.need.name] * time, at.call)
    return worth


def _shares(space: Space, hosts: Sequence[Host]) -> tuple[Shares, list[float]]:
    """How the engines divide calls and time."""
    parts = times(space, hosts)
    total = space.constants.calls_in_flight
    names, gains = [h.need.name for h in hosts], [space.gains(h) for h in hosts]
    shares = divide(list(zip(names, parts, gains, strict=True)), total)
    if all(h.need.generates for h in hosts):
        return shares, parts
    # An embedding model is at work for as long as its calls take, and its neighbours have the rest.
    taken = [0.0] * space.devices
    for k, h in enumerate(hosts):
        if not h.need.generates:
            done = names.count(h.need.name) * h.samples_per_s
            parts[k] = min(parts[k], shares.samples_per_s / done)
            for d in h.devices:
                taken[d] += parts[k]
    for k, h in enumerate(hosts):
        if h.need.generates:
            parts[k] *= max(0.1, 1 - max(taken[d] for d in h.devices))
    speed = [t if h.need.generates else 1.0 for h, t in zip(hosts, parts, strict=True)]
    return divide(list(zip(names, speed, gains, strict=True)), total), parts


def times(space: Space, hosts: Sequence[Host]) -> list[float]:
    """Part of its devices' time that each engine gets: that of the most crowded one."""
    on = [0] * space.devices
    for h in hosts:
        if h.need.generates:
            for d in h.devices:
                on[d] += 1
    return [space.share(max(on[d] for d in h.devices) + (not h.need.generates)) for h in hosts]


def explained(space: Space, hosts: Sequence[Host]) -> tuple[Host, ...]:
    """The same engines, their rates with reasons."""
    return tuple(
        replace(h, rate=space.fit(h.need, h.tensor_parallel).curve.rate(h.kv_bytes, max(1.0, h.calls))) for h in hosts
    )


def ideal(space: Space) -> tuple[Prices, float]:
    """Prices at which the node's time and calls are worth least, and the rate that no layout exceeds.

    All devices' time and all calls in flight are divided at will, nothing is lost, every model has its best size. With
    z and l the prices of a device's time and of a call in flight, the rate is the least of

        (devices z + calls l) / sum over models of min over options (z + l calls per device) / (rate per device)

    Any prices give a bound; the quotient falls and then rises along their ratio.
    """
    devices, calls = space.devices, space.constants.calls_in_flight
    options = [[(c / t, r / t) for t in space.splits(n) for c, r in space.fit(n, t).gains.points] for n in space.needs]

    def costs(part: float) -> list[float]:
        """Of one sample a second of each model, if this part of the node's worth is that of its calls."""
        z, call = (1 - part) / devices, part / calls
        return [min((z + call * c) / r for c, r in own) for own in options]

    low, high = 0.0, 1.0
    for _ in range(25):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if sum(costs(left)) >= sum(costs(right)) else (left, high)
    samples = costs(low)
    rate = 1 / sum(samples)
    return Prices({n.name: s * rate for n, s in zip(space.needs, samples, strict=True)}, low / calls * rate), rate
