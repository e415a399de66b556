"""What a block of GPUs can hold: every sensible sharing of 1, 2, 4, ... devices between models, with its rates.

A *pattern* gives each model nothing, or replicas of one tensor parallel size that cover the block evenly (fewer only
where the user pinned fewer). Devices are alike, so that a node's layout is how many blocks of each pattern it has
(`layouts.py` chooses).

Memory: what weights leave free on a device is divided between its engines: first the least each one starts with, the
rest by how much KV cache would fill its batch. So rates belong to patterns.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gra_hpc.engines.performance import Constants, Need, RateCurve, rate_curve

MAX_PATTERNS = 3000
"""Patterns of one width that are looked at, small ones first; beyond it the search is called incomplete."""


@dataclass(frozen=True)
class Slot:
    """Like engines of one model in a pattern."""

    need: Need
    tensor_parallel: int
    offsets: tuple[int, ...]
    """First device of each engine, within the block."""
    kv_bytes: float
    """KV cache per device."""
    samples_per_s: float
    """Of one engine, with its devices for itself."""

    @property
    def devices(self) -> frozenset[int]:
        return frozenset(d for o in self.offsets for d in range(o, o + self.tensor_parallel))


@dataclass(frozen=True)
class Pattern:
    """What one block of devices holds."""

    width: int
    slots: tuple[Slot, ...]
    """By model."""
    even: bool
    """Whether every device of the block holds the same."""
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


@dataclass(frozen=True)
class _Option:
    """A model in a block: its tensor parallel size, and what that costs on a device."""

    need: Need
    tensor_parallel: int
    count: int
    size: float
    """Bytes per device with the least KV cache."""
    least: float
    more: float
    """Bytes per device of KV cache that it would like beyond the least; 0 if pinned or none."""
    curve: RateCurve


def splits(need: Need, devices: int) -> list[int]:
    """Tensor parallel sizes a model may have on a node: powers of two and divisors that its heads allow; or the pin."""
    sizes = [t for t in range(1, devices + 1) if (t & (t - 1)) == 0 or devices % t == 0]
    if need.tensor_parallel:
        sizes = [need.tensor_parallel] if need.tensor_parallel <= devices else []
    return [t for t in sizes if need.facts.can_split(t)]


def usable_time(needs_by_device: Sequence[int], constants: Constants) -> tuple[float, ...]:
    """Part of each device's time left, given how many generating engines it has."""
    return tuple(max(0.1, 1 - constants.sharing_loss * max(0, c - 1)) for c in needs_by_device)


def divide_kv(
    devices: int, engines: Sequence[tuple[Need, int, int]], memory: float, constants: Constants
) -> list[float] | None:
    """KV cache bytes per device of each engine `(need, tensor parallel, first device)`; none if they do not fit."""
    left = [memory] * devices
    wanted = [0.0] * devices
    options = [_option(need, t, 1, constants) for need, t, _ in engines]
    for option, (_, t, first) in zip(options, engines, strict=True):
        for d in range(first, first + t):
            left[d] -= option.size
            wanted[d] += option.more
    if min(left) < 0:
        return None
    return [
        o.least + (min(left[d] * o.more / wanted[d] for d in range(first, first + t)) if o.more else 0.0)
        for o, (_, t, first) in zip(options, engines, strict=True)
    ]


def _option(need: Need, t: int, count: int, constants: Constants) -> _Option:
    least = need.kv_least(t)
    pinned = bool(need.kv_bytes) or not need.generates
    more = 0.0 if pinned else need.kv_full(t, constants) - least + 1.0
    return _Option(
        need, t, count, need.fixed_bytes(t, constants) + least, least, more, rate_curve(need, t, constants)
    )


def patterns(space: Space, width: int) -> tuple[list[Pattern], bool]:
    """Patterns of a width that cannot be cut into narrower blocks, and whether the search was complete.

    A block as wide as the node leaves no room for others, so that only patterns with every model count.
    """
    options: list[list[_Option]] = []
    for need in space.needs:
        own = [
            _option(need, t, min(width // t, need.replicas or width), space.constants)
            for t in splits(need, space.devices)
            if width % t == 0
        ]
        options.append(own)
    found: list[Pattern] = []
    for choice in _choices(options, space, width):
        pattern = _pattern(space, choice, width)
        if pattern:
            found.append(pattern)
        if len(found) >= MAX_PATTERNS:
            return found, False
    return found, True


def _choices(options: list[list[_Option]], space: Space, width: int) -> Iterator[tuple[_Option, ...]]:
    """Sets of models, small ones first, whose total memory fits, with one engine at least as wide as the block."""
    smallest = [
        min((o.size * o.tensor_parallel * o.count for o in own), default=float("inf")) for own in options
    ]
    total = space.memory * width
    sizes = [len(options)] if width == space.devices else range(1, len(options) + 1)
    for size in sizes:
        for members in itertools.combinations(range(len(options)), size):
            if sum(smallest[i] for i in members) > total:
                continue
            for choice in itertools.product(*(options[i] for i in members)):
                if max(o.tensor_parallel for o in choice) == width and (
                    sum(o.size * o.tensor_parallel * o.count for o in choice) <= total
                ):
                    yield choice


def _pattern(space: Space, choice: tuple[_Option, ...], width: int) -> Pattern | None:
    constants = space.constants
    if all(o.tensor_parallel * o.count == width for o in choice):
        left = space.memory - sum(o.size for o in choice)
        if left < 0:
            return None
        wanted = sum(o.more for o in choice)
        slots = []
        for o in choice:
            t, kv = o.tensor_parallel, o.least + (left * o.more / wanted if o.more else 0.0)
            slots.append(Slot(o.need, t, tuple(range(0, width, t)), kv, o.curve.samples_per_s(kv)))
        usable = usable_time([sum(o.need.generates for o in choice)] * width, constants)
        return Pattern(width, tuple(slots), True, usable)
    return _uneven(space, choice, width)


def _uneven(space: Space, choice: tuple[_Option, ...], width: int) -> Pattern | None:
    """Pinned replicas do not cover the block: each goes to the emptiest devices, large engines first."""
    used = [0.0] * width
    engines: list[tuple[Need, int, int]] = []
    for o in sorted(choice, key=lambda o: (-o.tensor_parallel * o.count, -o.size)):
        t = o.tensor_parallel
        starts = sorted(range(0, width, t), key=lambda s: (max(used[s : s + t]), s))
        for s in sorted(starts[: o.count]):
            engines.append((o.need, t, s))
            for d in range(s, s + t):
                used[d] += o.size
    kv = divide_kv(width, engines, space.memory, space.constants)
    if kv is None:
        return None
    slots = [
        Slot(need, t, (s,), k, rate_curve(need, t, space.constants).samples_per_s(k))
        for (need, t, s), k in zip(engines, kv, strict=True)
    ]
    on = [sum(s.need.generates and d in s.devices for s in slots) for d in range(width)]
    return Pattern(
        width,
        tuple(sorted(slots, key=lambda s: (s.need.name, s.offsets))),
        False,
        usable_time(on, space.constants),
    )


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
