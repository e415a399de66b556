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

from gra_hpc.engines.hosts import Engines, Fit, Space, divide_kv
from gra_hpc.engines.performance import Need


@dataclass(frozen=True)
class Slot:
    """Like engines of one model in a pattern."""

    need: Need
    tensor_parallel: int
    offsets: tuple[int, ...]
    """First device of each engine, within the block."""
    samples_per_s: float
    """Of one engine, with its devices for itself."""

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
    usable: tuple[float, ...]
    """Part of each device's time that is not lost to sharing."""

    @functools.cached_property
    def rates(self) -> dict[str, float]:
        """Samples a second of each model, if it had all the block's time."""
        rates: dict[str, float] = {}
        for s in self.slots:
            rates[s.need.name] = rates.get(s.need.name, 0.0) + s.samples_per_s * len(s.offsets)
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

    def lone_rate(self) -> float:
        """Rate of the slowest model if there were only this block, which must be even."""
        return self.usable[0] / sum(1 / r for r in self.rates.values())


class Filter:
    """Keeps patterns that some layout better than a known one may use.

    With prices mu of the models' samples that add up to 1, a device is worth at most `max mu_m rate_m`, and a layout at
    most the sum over its devices. The prices are those of the ideal: every model at its best on all devices in turn.
    """

    def __init__(self, space: Space, floor: float) -> None:
        best = {
            n.name: max((space.fit(n, t).best for t in space.splits(n)), default=0.0) for n in space.needs
        }
        total = sum(1 / b for b in best.values() if b)
        self.space = space
        self.device = 1 / total if total else 0.0
        """Samples a second that one device is worth at most."""
        self.ideal = space.devices * self.device
        """No layout does more."""
        self.allowance = self.ideal - floor
        self.price = {name: 1 / b / total for name, b in best.items() if b}

    def worth(self, fit: Fit) -> float:
        """What a device with this model is worth at most."""
        return self.price.get(fit.need.name, 0.0) * fit.best

    def least_loss(self, models: int) -> float:
        """What a device with so many models falls short of the ideal at least."""
        light = sum(not n.generates for n in self.space.needs)
        return self.device * (1 - self.space.usable(models - light))

    def loss(self, fits: list[Fit]) -> float:
        """What a device falls short of the ideal when it holds these engines."""
        usable = self.space.usable(sum(f.need.generates for f in fits))
        return self.device - usable * max((self.worth(f) for f in fits), default=0.0)


def even(space: Space, width: int, keep: Filter) -> Iterator[Pattern]:
    """Models that cover the block; small sets first. A block as wide as the node must hold them all."""
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
                if max(f.tensor_parallel for f in fits) != width:
                    continue
                if keep.loss(list(fits)) * width > keep.allowance:
                    continue
                covers = all(width // f.tensor_parallel <= counts[f.need.name] for f in fits)
                pattern = _covering(space, fits, width) if covers else _pinned(space, fits, width)
                if pattern:
                    yield pattern


def _covering(space: Space, fits: tuple[Fit, ...], width: int) -> Pattern | None:
    left = space.memory - sum(f.size for f in fits)
    if left < 0:
        return None
    wanted = sum(f.more for f in fits)
    slots = []
    for f in fits:
        kv = f.least + (left * f.more / wanted if f.more else 0.0)
        offsets = tuple(range(0, width, f.tensor_parallel))
        slots.append(Slot(f.need, f.tensor_parallel, offsets, f.curve.samples_per_s(kv)))
    usable = space.usable(sum(f.need.generates for f in fits))
    return Pattern(width, tuple(slots), True, (usable,) * width)


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


def nested(space: Space, width: int, keep: Filter) -> Iterator[Pattern]:
    """Some models as wide as the block, and on each of its parts one more model or none."""
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
    slots = [
        Slot(need, t, (s,), space.fit(need, t).curve.samples_per_s(k))
        for (need, t, s), k in zip(engines, kv, strict=True)
    ]
    on = [sum(s.need.generates and d in s.devices for s in slots) for d in range(width)]
    return Pattern(width, tuple(slots), False, tuple(space.usable(n) for n in on))


def undominated(found: list[Pattern]) -> list[Pattern]:
    """Without even patterns beaten, for every model they hold, by another one (or by narrower ones in its place).

    Patterns with pinned replicas stay: their number of engines matters.
    """
    import numpy as np

    kept = [p for p in found if not p.even or any(s.need.replicas for s in p.slots)]
    groups: dict[frozenset[str], list[Pattern]] = {}
    for p in found:
        if p.even and not any(s.need.replicas for s in p.slots):
            groups.setdefault(frozenset(p.rates), []).append(p)
    for group in groups.values():
        names = sorted(group[0].rates)
        front: dict[int, Any] = {}  # by width: rates of the patterns kept, one per row
        for p in sorted(group, key=lambda p: (p.width, -sum(p.rates.values()))):
            rates = np.array([p.rates[n] for n in names])
            beaten = any(
                p.width % w == 0 and (better * (p.width // w) >= rates * (1 - 1e-9)).all(axis=1).any()
                for w, better in front.items()
            )
            if not beaten:
                front[p.width] = np.vstack([front[p.width], rates]) if p.width in front else rates[None, :]
                kept.append(p)
    return kept
