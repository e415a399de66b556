"""What a block of 1, 2, 4, ... GPUs can hold, with the rates of its engines.

Devices are alike, so that a node's layout is how many blocks of each pattern it has (`blocks.py` chooses). Patterns are

- even: each model has nothing, or replicas of one tensor parallel size that cover the block (fewer if pinned so);
- nested: engines as wide as the block, and narrower ones of different models beside each other on top of them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gra_hpc.placement.call_shares import Gains, Prices, divide
from gra_hpc.placement.deadline import Deadline
from gra_hpc.placement.hosts import Engines, Fit, Space, divide_kv
from gra_hpc.placement.performance import Need


@dataclass(frozen=True)
class Slot:
    """Like engines of one model in a pattern."""

    need: Need
    tensor_parallel: int
    offsets: tuple[int, ...]
    """First device of each engine, within the block."""
    time: float
    """Part of its devices' time that each engine gets."""
    gains: Gains
    """Of one engine, with its devices for itself."""

    @property
    def most(self) -> float:
        """Samples a second of all these engines, with as many calls as they hold."""
        return self.time * self.gains.most * len(self.offsets)

    @functools.cached_property
    def devices(self) -> frozenset[int]:
        return frozenset(d for o in self.offsets for d in range(o, o + self.tensor_parallel))


@dataclass(frozen=True)
class Pattern:
    """What one block of devices holds."""

    width: int
    slots: tuple[Slot, ...]
    even: bool
    """Whether every device of the block holds the same; then a slot is all engines of a model."""

    @functools.cached_property
    def rates(self) -> dict[str, float]:
        """Samples a second of each model, with as many calls as its engines hold."""
        rates: dict[str, float] = {}
        for s in self.slots:
            rates[s.need.name] = rates.get(s.need.name, 0.0) + s.most
        return rates

    @functools.cached_property
    def counts(self) -> dict[str, int]:
        """Engines of each model."""
        counts: dict[str, int] = {}
        for s in self.slots:
            counts[s.need.name] = counts.get(s.need.name, 0) + len(s.offsets)
        return counts

    @property
    def weight_bytes(self) -> int:
        return sum(s.need.facts.weight_bytes * len(s.offsets) for s in self.slots)

    def lone_rate(self, calls: float) -> float:
        """Rate of the slowest of its models if there were only this block, with so many calls in flight."""
        each = [(s.need.name, s.time, s.gains) for s in self.slots for _ in s.offsets]
        return divide(each, calls).samples_per_s


class Filter:
    """Keeps patterns that some layout better than a known one may use.

    At any prices of the models' samples and of a call in flight, a layout does at most what its devices are worth, and
    the calls. The prices are those of the ideal: all devices' time divided at will, every model at its best size.
    """

    def __init__(self, space: Space, floor: float) -> None:
        self.space = space
        options = [Option(n.name, 1 / t, space.fit(n, t).gains, 0) for n in space.needs for t in space.splits(n)]
        self.prices, worth, most = ideal(options, [space.devices], space.constants.calls_in_flight)
        self.device = worth[0]
        """Samples a second that one device is worth at most."""
        self.ideal = most
        """No layout does more."""
        self.allowance = most - floor
        self._worth: dict[tuple[str, int, float], float] = {}

    def least_loss(self, models: int) -> float:
        """What a device with so many models falls short of the ideal at least: sharing loses time, but no calls."""
        light = sum(not n.generates for n in self.space.needs)
        return self.device * (1 - self.space.usable(models - light))

    def loss(self, fits: list[Fit]) -> float:
        """What a device falls short of the ideal when it holds these engines."""
        time = self.space.share(sum(f.need.generates for f in fits))
        return self.device - sum(self.worth(f, time) for f in fits)

    def worth(self, fit: Fit, time: float) -> float:
        """What an engine with this part of its devices' time is worth on each of them."""
        key = fit.need.name, fit.tensor_parallel, time
        if key not in self._worth:
            sample = self.prices.samples.get(fit.need.name, 0.0) * time
            self._worth[key] = fit.gains.worth(sample, self.prices.call) / fit.tensor_parallel
        return self._worth[key]


@dataclass(frozen=True)
class Option:
    """A way to use one part of a node, all of it, for one model."""

    model: str
    times: float
    """Engines that the part holds: below 1 for a device of an engine on several."""
    gains: Gains
    part: int
    """Which kind of part."""


def ideal(options: list[Option], parts: list[float], calls: float) -> tuple[Prices, list[float], float]:
    """Prices at which the node's parts and calls are worth least: what no division of their time exceeds.

    min sum_p parts_p z_p + calls l    over z, l >= 0, prices m of the models' samples that add up to 1
    z_p >= times (m rate_k - l calls_k)    for every option and number of calls

    Args:
        options: what there may be in the parts.
        parts: how many parts of each kind the node has.
        calls: in flight.

    Returns:
        The prices, what one part of each kind is worth (z), and the minimum.
    """
    import numpy as np
    from scipy.optimize import linprog

    names = list(dict.fromkeys(o.model for o in options))
    if not names:
        return Prices({}, 0.0), [0.0] * len(parts), 0.0
    scale = max(o.gains.most for o in options)
    width = len(names) + 1 + len(parts)
    rows = []
    for o in options:
        block = np.zeros((len(o.gains.rates), width))
        block[:, names.index(o.model)] = o.times * np.minimum(o.gains.rates / scale, 1e4)
        block[:, len(names)] = -o.times * o.gains.calls
        block[:, len(names) + 1 + o.part] = -1.0
        rows.append(block)
    matrix = np.vstack(rows)
    cost = np.array([*(0.0 for _ in names), calls, *parts])
    total = np.array([[float(k < len(names)) for k in range(width)]])
    result = linprog(cost, A_ub=matrix, b_ub=np.zeros(len(matrix)), A_eq=total, b_eq=[1.0], method="highs")
    samples = [float(v) for v in result.x[: len(names)]]
    at = Prices(dict(zip(names, samples, strict=True)), float(result.x[len(names)]) * scale)
    return at, [float(v) * scale for v in result.x[len(names) + 1 :]], float(result.fun) * scale


def even(space: Space, width: int, keep: Filter, deadline: Deadline | None = None) -> Iterator[Pattern]:
    """Models that cover the block; small sets first. A block as wide as the node must hold them all.

    Ends early when the deadline has passed.
    """
    options = [[space.fit(n, t) for t in space.splits(n) if width % t == 0] for n in space.needs]
    counts = {n.name: n.replicas or width for n in space.needs}
    smallest = [
        min(
            (f.size * f.tensor_parallel * min(width // f.tensor_parallel, counts[f.need.name]) for f in own),
            default=float("inf"),
        )
        for own in options
    ]
    sizes = [len(options)] if width == space.devices else range(1, len(options) + 1)
    for size in sizes:
        if keep.least_loss(size) * width > keep.allowance:
            return
        for members in itertools.combinations(range(len(options)), size):
            if sum(smallest[i] for i in members) > space.memory * width:
                continue
            for fits in itertools.product(*(options[i] for i in members)):
                if deadline and deadline.passed:
                    return
                if max(f.tensor_parallel for f in fits) != width:
                    continue
                covers = all(width // f.tensor_parallel <= counts[f.need.name] for f in fits)
                if covers and keep.loss(list(fits)) * width > keep.allowance:
                    continue
                pattern = _covering(space, fits, width) if covers else _pinned(space, fits, width)
                if pattern:
                    yield pattern


def _covering(space: Space, fits: tuple[Fit, ...], width: int) -> Pattern | None:
    left = space.memory - sum(f.size for f in fits)
    if left < 0:
        return None
    wanted = sum(f.more for f in fits)
    generating = sum(f.need.generates for f in fits)
    slots = []
    for f in fits:
        kv = f.least + (left * f.more / wanted if f.more else 0.0)
        offsets = tuple(range(0, width, f.tensor_parallel))
        time = space.share(generating + (not f.need.generates))
        slots.append(Slot(f.need, f.tensor_parallel, offsets, time, f.gains.up_to(f.curve.batch(kv))))
    return Pattern(width, tuple(slots), True)


def _pinned(space: Space, fits: tuple[Fit, ...], width: int) -> Pattern | None:
    """Pinned replicas do not cover the block: each goes to the emptiest devices, large engines first."""
    used = [0.0] * width
    engines: list[tuple[Need, int, int]] = []
    for f in sorted(fits, key=lambda f: (-f.tensor_parallel, -f.size)):
        t = f.tensor_parallel
        spots = sorted((max(used[s : s + t]), s) for s in range(0, width, t))
        for _, s in spots[: f.need.replicas or len(spots)]:
            engines.append((f.need, t, s))
            for d in range(s, s + t):
                used[d] += f.size
    return _uneven(space, engines, width)


def nested(space: Space, width: int, keep: Filter, deadline: Deadline | None = None) -> Iterator[Pattern]:
    """Some models as wide as the block, and on each of its parts one more model or none; ends as `even` does."""
    wide = [n for n in space.needs if n.generates and width in space.splits(n)] if width > 1 else []
    for size in range(1, len(wide) + 1):
        for roots in itertools.combinations(wide, size):
            base = [space.fit(n, width) for n in roots]
            left = space.memory - sum(f.size for f in base)
            if left < 0 or keep.least_loss(size) * width > keep.allowance:
                continue
            rest = [n for n in space.needs if n.generates and n not in roots]
            for t in sorted({t for n in rest for t in space.splits(n) if t < width and width % t == 0}):
                parts = [space.fit(n, t) for n in rest if t in space.splits(n)]
                parts = [f for f in parts if f.size <= left]
                lost = [t * keep.loss([*base, f]) for f in parts] + [t * keep.loss(base)]
                for leaves in itertools.combinations_with_replacement(range(len(parts) + 1), width // t):
                    if deadline and deadline.passed:
                        return
                    if leaves[0] == leaves[-1] or sum(lost[i] for i in leaves) > keep.allowance:
                        continue  # the same everywhere is even
                    engines = [(n, width, 0) for n in roots]
                    engines += [(parts[i].need, t, k * t) for k, i in enumerate(leaves) if i < len(parts)]
                    pattern = _uneven(space, engines, width)
                    if pattern and all(
                        not n.replicas or pattern.counts.get(n.name, 0) <= n.replicas for n in space.needs
                    ):
                        yield pattern


def _uneven(space: Space, engines: Engines, width: int) -> Pattern | None:
    kv = divide_kv(space, width, engines)
    if kv is None:
        return None
    on = [sum(n.generates and f <= d < f + t for n, t, f in engines) for d in range(width)]
    slots = []
    for (need, t, first), k in zip(engines, kv, strict=True):
        fit = space.fit(need, t)
        time = space.share(max(on[first : first + t]) + (not need.generates))
        slots.append(Slot(need, t, (first,), time, fit.gains.up_to(fit.curve.batch(k))))
    return Pattern(width, tuple(slots), False)


COMPARED = (2.0, 8.0, 24.0, 64.0, 160.0, 1e9)
"""Calls per device and model at which patterns are compared."""


def undominated(found: list[Pattern]) -> list[Pattern]:
    """Without even patterns beaten, for every model they hold, by another one (or by narrower ones in its place).

    Patterns with pinned replicas stay: their number of engines matters.
    """
    import numpy as np

    kept = [p for p in found if not p.even or any(s.need.replicas for s in p.slots)]
    groups: dict[frozenset[str], list[tuple[Pattern, Any]]] = {}
    for p in found:
        if p.even and not any(s.need.replicas for s in p.slots):
            slots = sorted(p.slots, key=lambda s: s.need.name)
            rates = [s.time * len(s.offsets) * s.gains.at(np.array(COMPARED) * p.width / len(s.offsets)) for s in slots]
            groups.setdefault(frozenset(p.rates), []).append((p, np.concatenate(rates)))
    for group in groups.values():
        front: dict[int, Any] = {}  # by width: rates of the patterns kept, one per row
        for p, rates in sorted(group, key=lambda g: (g[0].width, -sum(g[0].rates.values()))):
            beaten = any(
                p.width % w == 0 and (better * (p.width // w) >= rates * (1 - 1e-9)).all(axis=1).any()
                for w, better in front.items()
            )
            if not beaten:
                front[p.width] = np.vstack([front[p.width], rates]) if p.width in front else rates[None, :]
                kept.append(p)
    return kept
