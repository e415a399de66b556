"""The best layout of models that are awake together on a GPU node.

Three searches, each with the best layout so far as the one to beat:

- a climb from simple layouts (`neighbours.py`);
- the mixed-integer program over blocks that are filled evenly (`blocks.py`), for every division of the node into blocks
  (ten, for eight GPUs), best bound first, until no bound is better than the best layout: that is the proof;
- where the result falls short of the ideal, the same over nested blocks; these may be too many for a proof in the time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gra_hpc.placement.blocks import TOLERANCE, Division, divisions, few, solve_blocks, try_blocks
from gra_hpc.placement.deadline import Deadline
from gra_hpc.placement.hosts import Engines, Host, Space, explained
from gra_hpc.placement.neighbours import Value, filled, improve, starts, value
from gra_hpc.placement.patterns import Filter, Pattern, even, nested, undominated
from gra_hpc.placement.performance import Need

MOST_PATTERNS = 3000
"""Patterns of one width and kind that are looked at; beyond it the search is called incomplete."""
PATTERNS = 0.3
"""Part of the time left for finding patterns."""
CLIMB = 0.15
"""Part of the time limit for each climb."""
NEAR = 0.97
"""Layouts this near to the ideal are not searched further for."""
FEW = 2000
"""Up to so many ways to fill a division are tried one by one."""
FIRST_PATTERNS = 40
"""Patterns in the first, quick program of a division."""


@dataclass(frozen=True)
class Layout:
    """Engines that are awake together, and what they do."""

    hosts: tuple[Host, ...]
    samples_per_s: float
    bound: float
    """No layout of even blocks does more than this many samples a second."""
    ideal: float
    """No layout at all does more: all devices' time and all calls in flight divided at will, nothing lost."""
    proven: bool = True
    """Whether all even blocks were searched, and no layout of them is better (within the tolerance)."""


def best_layout(space: Space, deadline: Deadline) -> Layout | None:
    """The layout with the highest rate of the slowest model; none if the models do not fit the node together."""
    light = [n for n in space.needs if not n.generates and not n.replicas]
    if light and len(light) < len(space.needs):
        layout = _with_light(space, light, deadline)
        if layout:
            return layout
    return _search(space, deadline)


def _with_light(space: Space, light: list[Need], deadline: Deadline) -> Layout | None:
    """Embedding models need little of everything: the others are laid out first, with room left on every device."""
    room = sum(n.fixed_bytes(1, space.constants) for n in light)
    rest = tuple(n for n in space.needs if n not in light)
    inner = _search(Space(rest, space.devices, space.memory - room, space.constants, space.host_bytes), deadline)
    if inner is None:
        return None
    engines = [(h.need, h.tensor_parallel, h.first) for h in inner.hosts]
    for need in light:
        at_hand = Space((*rest, *light[: light.index(need) + 1]), space.devices, space.memory, space.constants)
        rates = [value(at_hand, [*engines, (need, 1, d)])[0] for d in range(space.devices)]
        engines.append((need, 1, max(range(space.devices), key=lambda d: (round(rates[d], 9), d))))
    rate, hosts = value(space, engines)
    return Layout(explained(space, hosts), rate, max(rate, inner.bound), inner.ideal, inner.proven)


def _search(space: Space, deadline: Deadline) -> Layout | None:
    """Climb; then the best layout of even blocks; then, if that falls short of the ideal, of nested ones too."""
    quick = Deadline(CLIMB * deadline.seconds)
    first = sorted((filled(space, s, quick) for s in starts(space)), key=lambda e: -value(space, e)[0])
    best = _climb(space, first, deadline)
    search = Search(space, deadline)
    regular = search.run(Filter(space, best[0]), nesting=False, floor=best[0])
    best = max(best, _climb(space, map(_engines, search.chosen()), deadline), key=lambda v: v[0])
    ideal = Filter(space, 0.0).ideal
    if best[0] and best[0] < NEAR * ideal and not deadline.passed:
        search.run(Filter(space, best[0]), nesting=True, floor=best[0])
        best = max(best, _climb(space, map(_engines, search.chosen()), deadline), key=lambda v: v[0])
    if not best[1]:
        return None
    bound = max(regular.bound, best[0])
    return Layout(explained(space, best[1]), best[0], bound, max(ideal, best[0]), regular.proven)


def _climb(space: Space, layouts: Iterable[Engines], deadline: Deadline) -> Value:
    """The best of what can be climbed to from some layouts."""
    budget = Deadline(CLIMB * deadline.seconds)
    return max((improve(space, engines, budget) for engines in layouts), key=lambda v: v[0], default=(0.0, ()))


@dataclass(frozen=True)
class Proof:
    """What a search has shown."""

    bound: float
    """No layout of the patterns does more, or than the floor of the search."""
    proven: bool
    """Whether the best layout found reaches the bound."""


class Search:
    """Solves the program for the divisions of a node, and keeps the layouts that were better than those before."""

    def __init__(self, space: Space, deadline: Deadline) -> None:
        self.space, self.deadline = space, deadline
        self.found: list[tuple[float, list[Pattern]]] = []

    def chosen(self) -> list[list[Pattern]]:
        """The best layouts found."""
        return [blocks for _, blocks in sorted(self.found, key=lambda c: -c[0])[:2]]

    def run(self, keep: Filter, nesting: bool, floor: float) -> Proof:
        """Search layouts that do more than the floor."""
        columns, complete = self._columns(keep, nesting)
        cuts = divisions(self.space, columns)
        rate = max([floor, *(r for r, _ in self.found)])
        bound = rate
        for division in cuts:
            if division.bound <= rate * (1 + TOLERANCE):
                break
            if rate and self.deadline.passed:
                bound = max(bound, division.bound)
                break
            chosen, better, proven = _solve(self.space, division, rate, self.deadline)
            if chosen:
                self.found.append((better, chosen))
                rate = max(rate, better)
            bound = max(bound, proven)
        bound = min(bound, keep.ideal)
        return Proof(bound, complete and rate >= bound * (1 - 2 * TOLERANCE))

    def _columns(self, keep: Filter, nesting: bool) -> tuple[list[Pattern], bool]:
        """Patterns of all widths that a better layout may use, and whether these are all."""
        space, calls = self.space, self.space.constants.calls_in_flight
        budget = Deadline(max(0.1, PATTERNS * self.deadline.left))
        columns: list[Pattern] = []
        complete = True
        for width in sorted({t for n in space.needs for t in space.splits(n)}):
            own, whole = self._some(even(space, width, keep, budget), budget)
            complete &= whole
            if width == space.devices:  # one block is the whole node: the rate of an even one is known, the best counts
                known = [p for p in own if p.even and _pins_met(space, [p])]
                own = [p for p in own if not p.even] + sorted(known, key=lambda p: p.lone_rate(calls))[-1:]
            columns += own
            if nesting:
                own, whole = self._some(nested(space, width, keep, budget), budget)
                columns, complete = columns + own, complete and whole
        return undominated(columns), complete

    def _some(self, patterns: Iterator[Pattern], budget: Deadline) -> tuple[list[Pattern], bool]:
        """Patterns, small ones first, up to a number and while there is time; and whether these are all."""
        own = list(itertools.islice(patterns, MOST_PATTERNS))
        return own, len(own) < MOST_PATTERNS and not budget.passed


def _engines(chosen: Sequence[Pattern]) -> list[tuple[Need, int, int]]:
    """Give blocks their devices, wide ones first: `(need, tensor parallel, first device)` of every engine."""
    engines: list[tuple[Need, int, int]] = []
    first = 0
    for p in sorted(chosen, key=lambda p: -p.width):
        engines += [(s.need, s.tensor_parallel, first + o) for s in p.slots for o in s.offsets]
        first += p.width
    return engines


def _pins_met(space: Space, chosen: Sequence[Pattern]) -> bool:
    return all(not n.replicas or sum(p.counts.get(n.name, 0) for p in chosen) == n.replicas for n in space.needs)


def _solve(space: Space, division: Division, floor: float, deadline: Deadline) -> tuple[list[Pattern], float, float]:
    """The best blocks for one division above a floor: patterns (none: nothing better), rate, and proven bound."""

    def still_open(rate: float) -> list[int]:
        order = sorted(range(len(division.columns)), key=lambda i: division.slack[i])
        return [i for i in order if division.slack[i] <= division.bound - rate + 1e-9]

    best: list[Pattern] = []
    rate = floor
    order = still_open(rate)
    if few(division, order, FEW):
        return try_blocks(space, division, order, rate, deadline)
    if len(order) > FIRST_PATTERNS:  # the most promising patterns first: a better layout closes most of the others
        chosen, found, _ = solve_blocks(space, division, order[:FIRST_PATTERNS], rate, deadline.wall_left(0.3))
        if chosen:
            best, rate = chosen, found
        order = still_open(rate)
    if not order or deadline.passed:
        return best, rate, division.bound if order else rate
    chosen, found, proven = solve_blocks(space, division, order, rate, deadline.wall_left())
    if chosen and found >= rate:
        best, rate = chosen, found
    return best, rate, min(division.bound, max(rate, proven))
