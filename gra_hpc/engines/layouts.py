"""The best layout of models that are awake together on a GPU node, by mixed-integer programming.

A layout is how many blocks there are of each pattern (`patterns.py`), and the time each pattern gives to its models.
Maximised is the rate of the slowest model:

    max X   over integers n_p >= 0 and times s_pm >= 0
    sum_m s_pm <= usable_p n_p                    for every pattern p (for each of its devices, where they differ)
    sum_p rate_pm s_pm >= X                       for every model m
    sum_(p of width w) n_p <= N_w                 for a division of the node into N_w blocks of width w

The program is solved for every division of the node (ten, for eight GPUs), most promising bound first. The bound is the
program's linear relaxation, by its dual: with any weights mu_m >= 0 of sum 1, no block of width w is worth more than
z_w = max_(p, m) usable_p mu_m rate_pm, and X <= sum_w N_w z_w. It keeps the search fast and cuts off nothing better:
divisions whose bound is below the best layout so far are skipped, and so is a pattern whose worth falls short of z_w by
more than the distance between the two.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gra_hpc.engines.deadline import Deadline
from gra_hpc.engines.hosts import Host, place, share_time
from gra_hpc.engines.patterns import Pattern, Space, patterns, splits, undominated
from gra_hpc.engines.performance import GB, Need

TOLERANCE = 1e-3
"""A layout within this share of the bound counts as optimal."""
POURS = 40
"""Orders of models and blocks that are tried for a layout to start from, per division of the node."""
FIRST_PATTERNS = 40
"""Patterns in the first, quick program of a division."""


@dataclass(frozen=True)
class Layout:
    """Engines that are awake together, and what they do."""

    hosts: tuple[Host, ...]
    samples_per_s: float
    bound: float
    """No layout of patterns does more than this many samples a second."""
    proven: bool = True
    """Whether all patterns were searched, and the layout is the best of them within the tolerance."""


@dataclass(frozen=True)
class Division:
    """A way to cut the node into blocks, and what is known of it before the program is solved."""

    blocks: dict[int, int]
    """Number of blocks by width."""
    columns: list[Pattern]
    bound: float
    slack: list[float]
    """By pattern: how much of the bound is lost by using it once."""


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
    inner = _search(replace(space, needs=rest, memory=space.memory - room), deadline)
    if inner is None:
        return None
    engines = [(h.need, h.tensor_parallel, h.first) for h in inner.hosts]
    for need in light:
        at_hand = replace(space, needs=(*{e[0].name: e[0] for e in engines}.values(), need))
        rates = [_rate(at_hand, [*engines, (need, 1, d)]) for d in range(space.devices)]
        engines.append((need, 1, max(range(space.devices), key=lambda d: (round(rates[d], 9), d))))
    rate, hosts = _shared(space, engines)
    return Layout(hosts, rate, inner.bound, inner.proven)


def _search(space: Space, deadline: Deadline) -> Layout | None:
    widths = sorted({t for need in space.needs for t in splits(need, space.devices)})
    columns: list[Pattern] = []
    complete = True
    for width in widths:
        own, whole = patterns(space, width)
        complete &= whole
        if width == space.devices:  # one block is the whole node: its rate is known, only the best one counts
            even = [p for p in own if p.even and _pins_met(space, [p])]
            own = [p for p in own if not p.even] + sorted(even, key=_lone_rate)[-1:]
        columns += own
    columns = undominated(columns)
    divisions = _divisions(space, columns, widths)
    candidates = _wrapped(space, divisions)
    rate = max((r for r, _ in candidates), default=0.0)
    bound = rate
    for division in divisions:
        if division.bound <= rate * (1 + TOLERANCE):
            break
        if candidates and deadline.passed:
            bound = max(bound, division.bound)
            break
        chosen, found, proven = _solve(space, division, rate, deadline)
        if chosen:
            candidates.append((found, chosen))
            rate = max(rate, found)
        bound = max(bound, proven)
    if not candidates:
        return None
    # Engines are dropped from the best few: a layout that leaves blocks uneven may do more than any even one.
    best, hosts = 0.0, tuple[Host, ...]()
    for _, chosen in sorted(candidates, key=lambda c: -c[0])[:3]:
        best, hosts = max((best, hosts), _without_surplus(space, _engines(chosen)), key=lambda r: r[0])
    bound = max(bound, rate)
    return Layout(hosts, best, max(bound, best), complete and max(best, rate) >= bound * (1 - 2 * TOLERANCE))


def _engines(chosen: Sequence[Pattern]) -> list[tuple[Need, int, int]]:
    """Give blocks their devices, wide ones first: `(need, tensor parallel, first device)` of every engine."""
    engines: list[tuple[Need, int, int]] = []
    first = 0
    for p in sorted(chosen, key=lambda p: -p.width):
        engines += [(s.need, s.tensor_parallel, first + o) for s in p.slots for o in s.offsets]
        first += p.width
    return engines


def _pins_met(space: Space, chosen: Sequence[Pattern]) -> bool:
    return all(
        not n.replicas or sum(p.counts.get(n.name, 0) for p in chosen) == n.replicas for n in space.needs
    )


def _lone_rate(pattern: Pattern) -> float:
    """Rate of the slowest model if there were only this block."""
    return pattern.usable[0] / sum(1 / r for r in pattern.rates.values())


def _packings(devices: int, widths: Sequence[int]) -> Iterator[dict[int, int]]:
    """Numbers of blocks by width (widest first), such that no further block fits."""
    if not widths:
        yield {}
        return
    for k in range(devices // widths[0], -1, -1):
        for rest in _packings(devices - k * widths[0], widths[1:]):
            if devices - k * widths[0] - sum(w * c for w, c in rest.items()) < widths[-1]:
                yield {widths[0]: k, **rest}


def _divisions(space: Space, columns: list[Pattern], widths: list[int]) -> list[Division]:
    """Divisions of the node whose blocks can hold all models, best bound first."""
    import numpy as np

    names = [n.name for n in space.needs]
    # What a block of each pattern is worth for each model at most; devices of an uneven one may all be used.
    worth = np.array(
        [[(p.usable[0] if p.even else 1.0) * p.rates.get(n, 0.0) for n in names] for p in columns]
    )
    width = np.array([p.width for p in columns])
    even = np.array([p.even for p in columns])
    found = []
    for packing in _packings(space.devices, [w for w in reversed(widths) if (width == w).any()]):
        blocks = {w: k for w, k in packing.items() if k}
        use = np.flatnonzero(np.isin(width, list(blocks)))
        if len(use) and (worth[use] > 0).any(axis=0).all():
            bound, slack = _bound(blocks, worth[use], width[use], even[use])
            found.append(Division(blocks, [columns[i] for i in use], bound, slack))
    return sorted(found, key=lambda d: -d.bound)


def _bound(blocks: dict[int, int], worth: Any, width: Any, even: Any) -> tuple[float, list[float]]:
    """The dual of a division's linear relaxation: min sum N_w z_w over weights mu of sum 1 (see the module's text).

    Args:
        blocks: number of blocks by width.
        worth: samples a second of each model in each pattern; patterns x models.
        width: of each pattern.
        even: of each pattern.

    Returns:
        The bound in samples a second, and each pattern's distance to the best price of its width.
    """
    import numpy as np
    from scipy.optimize import linprog

    models, widths = worth.shape[1], list(blocks)
    scale = worth.max()
    rows = []
    for k, w in enumerate(widths):
        price = np.zeros(len(widths))
        price[k] = -1.0
        best = np.diag(worth[even & (width == w)].max(axis=0, initial=0.0) / scale)
        rows.append(np.hstack([best, np.tile(price, (models, 1))]))
        uneven = worth[~even & (width == w)] / scale
        rows.append(np.hstack([uneven, np.tile(price, (len(uneven), 1))]))
    matrix = np.vstack(rows)
    cost = np.array([0.0] * models + [float(blocks[w]) for w in widths])
    total = np.array([[1.0] * models + [0.0] * len(widths)])
    result = linprog(cost, A_ub=matrix, b_ub=np.zeros(len(matrix)), A_eq=total, b_eq=[1.0], method="highs")
    valued = worth * result.x[:models]
    price_of = dict(zip(widths, result.x[models:] * scale, strict=True))
    prices = np.array([price_of[w] for w in width])
    slack = np.maximum(0.0, prices - np.where(even, valued.max(axis=1), valued.sum(axis=1)))
    return float(result.fun * scale), slack.tolist()


def _wrapped(space: Space, divisions: list[Division]) -> list[tuple[float, list[Pattern]]]:
    """Good layouts to start from, one per division: models in a row are poured into the blocks, one after another.

    McNaughton's wrap-around rule, at the highest rate at which the last model still fits, for several orders.
    """
    if any(n.replicas for n in space.needs) or space.host_bytes < float("inf"):
        return []
    names = [n.name for n in space.needs]
    rng = random.Random(0)
    found: list[tuple[float, list[Pattern]]] = []
    for division in divisions:
        by_set: dict[tuple[int, frozenset[str]], Pattern] = {}
        for p in division.columns:
            key = (p.width, frozenset(p.rates))
            if key not in by_set or _lone_rate(p) > _lone_rate(by_set[key]):
                by_set[key] = p
        widths = [w for w, k in sorted(division.blocks.items()) for _ in range(k)]
        best: list[Pattern] = []
        low = 0.0
        for trial in range(POURS):
            order = rng.sample(names, len(names)) if trial else names
            row = rng.sample(widths, len(widths)) if trial else widths
            high = division.bound
            rate = (
                low * (1 + TOLERANCE) or high / 2
            )  # an order that cannot do better than the best one is left at once
            while high - low > TOLERANCE * division.bound:
                chosen = _pour(order, rate, row, by_set)
                if chosen:
                    low, best = rate, chosen
                elif best and rate == low * (1 + TOLERANCE):
                    break
                else:
                    high = rate
                rate = (low + high) / 2
        if best:
            found.append((low, best))
    return found


def _pour(
    order: list[str], rate: float, widths: list[int], by_set: dict[tuple[int, frozenset[str]], Pattern]
) -> list[Pattern]:
    """Blocks that give every model this rate, filled in order; none if the node is full before the last model."""
    chosen: list[Pattern] = []
    at, part = 0, 1.0  # the next model, and the part of its work still to place
    for width in widths:
        held: list[tuple[str, float]] = []
        pattern: Pattern | None = None
        while at < len(order):
            trial = by_set.get((width, frozenset([*(n for n, _ in held), order[at]])))
            if trial is None:
                break
            left = trial.usable[0] - sum(p * rate / trial.rates[n] for n, p in held)
            if left <= 1e-9:
                break
            taken = min(part, left * trial.rates[order[at]] / rate)
            held.append((order[at], taken))
            pattern = trial
            part -= taken
            if part > 1e-9:
                break
            at, part = at + 1, 1.0
        if pattern:
            chosen.append(pattern)
    return chosen if at == len(order) else []


def _solve(
    space: Space, division: Division, floor: float, deadline: Deadline
) -> tuple[list[Pattern], float, float]:
    """The best blocks for one division above a floor: patterns (none: nothing better), rate, and proven bound."""

    def still_open(rate: float) -> list[int]:
        order = sorted(range(len(division.columns)), key=lambda i: division.slack[i])
        return [i for i in order if division.slack[i] <= division.bound - rate + 1e-9]

    best: list[Pattern] = []
    rate = floor
    order = still_open(rate)
    if (
        len(order) > FIRST_PATTERNS
    ):  # the most promising patterns first: a better layout closes most of the others
        chosen, found, _ = _program(space, division, order[:FIRST_PATTERNS], rate, deadline.wall_left(0.3))
        if chosen:
            best, rate = chosen, found
        order = still_open(rate)
    if not order or deadline.passed:
        return best, rate, division.bound if order else rate
    chosen, found, proven = _program(space, division, order, rate, deadline.wall_left())
    if chosen and found >= rate:
        best, rate = chosen, found
    return best, rate, min(division.bound, max(rate, proven))


def _program(
    space: Space, division: Division, use: list[int], floor: float, seconds: float
) -> tuple[list[Pattern], float, float]:
    """Solve the program with the patterns in `use`: patterns (none: nothing above the floor), rate, proven bound."""
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    columns = [division.columns[i] for i in use]
    scale = division.bound
    slots = [(i, s) for i, p in enumerate(columns) for s in p.slots]
    n, total = len(columns), len(columns) + len(slots) + 1
    rows: list[tuple[list[int], list[float], float, float]] = []
    for width, count in division.blocks.items():
        own = [i for i, p in enumerate(columns) if p.width == width]
        rows.append((own, [1.0] * len(own), -np.inf, float(count)))
    for need in space.needs:
        own = [k for k, (_, s) in enumerate(slots) if s.need.name == need.name]
        values = [min(slots[k][1].samples_per_s * len(slots[k][1].offsets) / scale, 1e4) for k in own]
        rows.append(([*(n + k for k in own), total - 1], [*values, -1.0], 0.0, np.inf))
        if need.replicas:
            counts = [float(p.counts.get(need.name, 0)) for p in columns]
            rows.append((list(range(n)), counts, float(need.replicas), float(need.replicas)))
        else:  # every model has an engine, also one with hardly any work
            own = [i for i, p in enumerate(columns) if need.name in p.rates]
            rows.append((own, [1.0] * len(own), 1.0, np.inf))
    if space.host_bytes < float("inf"):
        rows.append((list(range(n)), [p.weight_bytes / GB for p in columns], -np.inf, space.host_bytes / GB))
    for i, p in enumerate(columns):
        mine = [k for k, (j, _) in enumerate(slots) if j == i]
        for d in range(1 if p.even else p.width):
            on = [k for k in mine if p.even or d in slots[k][1].devices]
            if on:
                rows.append(([i, *(n + k for k in on)], [-p.usable[d], *(1.0 for _ in on)], -np.inf, 0.0))
    starts = np.cumsum([0] + [len(r[0]) for r in rows])
    entries = (np.concatenate([r[1] for r in rows]), np.concatenate([r[0] for r in rows]), starts)
    matrix = csr_array(entries, shape=(len(rows), total))
    cost, low, high = np.zeros(total), np.zeros(total), np.full(total, np.inf)
    cost[-1] = -1.0
    low[-1] = floor / scale * (1 + TOLERANCE / 10)
    high[:n] = [division.blocks[p.width] for p in columns]
    result = milp(
        cost,
        constraints=LinearConstraint(matrix, [r[2] for r in rows], [r[3] for r in rows]),
        integrality=np.r_[np.ones(n), np.zeros(total - n)],
        bounds=Bounds(low, high),
        options={"time_limit": seconds, "mip_rel_gap": TOLERANCE},
    )
    if result.status == 2:  # infeasible: nothing above the floor
        return [], 0.0, floor
    dual = result.mip_dual_bound
    proven = division.bound if dual is None or not np.isfinite(dual) else float(-dual) * scale
    if result.x is None:
        return [], 0.0, proven
    chosen = [p for p, v in zip(columns, result.x[:n], strict=True) for _ in range(round(v))]
    return chosen, float(result.x[-1]) * scale, proven


def _shared(space: Space, engines: Sequence[tuple[Need, int, int]]) -> tuple[float, tuple[Host, ...]]:
    """Rate of the slowest model, and the engines with memory and time; 0 and none if they do not fit."""
    return share_time(space, place(space, engines))


def _rate(space: Space, engines: Sequence[tuple[Need, int, int]]) -> float:
    return _shared(space, engines)[0]


def _without_surplus(
    space: Space, engines: Sequence[tuple[Need, int, int]]
) -> tuple[float, tuple[Host, ...]]:
    """Drop engines that bring less than their start costs; with their memory and time the others may even do more."""
    rate, hosts = _shared(space, engines)
    while True:
        counts: dict[str, int] = {}
        for h in hosts:
            counts[h.need.name] = counts.get(h.need.name, 0) + 1
        spare = [h for h in hosts if counts[h.need.name] > 1 and not h.need.replicas]
        trials = []
        for h in sorted(spare, key=lambda h: h.time * h.tensor_parallel)[:6]:
            trials.append(_shared(space, [(o.need, o.tensor_parallel, o.first) for o in hosts if o is not h]))
        if not trials or max(t[0] for t in trials) < rate * (1 - space.constants.engine_cost):
            return rate, hosts
        rate, hosts = max(trials, key=lambda t: t[0])
