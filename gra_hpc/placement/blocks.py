"""How many blocks of each pattern: the mixed-integer program behind a layout.

Maximised is the rate of the slowest model. A slot s of a pattern p is like engines of one model; they may run b_k calls
each (k: `calls.LEVELS`) and then do rate_sk samples a second in their part of the time:

    max X   over integers n_p >= 0 and parts v_sk >= 0
    sum_k v_sk <= n_p                             for every slot s of pattern p
    sum_s sum_k rate_sk v_sk >= X                 for every model m, over its slots
    sum_s sum_k b_sk v_sk <= calls in flight      over all slots
    sum_(p of width w) n_p <= N_w                 for a division of the node into N_w blocks of width w

A division's bound is the program's linear relaxation, by its dual: at any prices mu_m >= 0 of the models' samples, of
sum 1, and l >= 0 of a call, a block of width w is worth no more than z_w = max_p sum_s max_k (mu_m rate_sk - l b_sk),
and X <= sum_w N_w z_w + l calls. A pattern whose worth falls short of z_w by more than the bound exceeds a known layout
(its *slack*) is in no better one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Any

from gra_hpc.placement.call_shares import Gains, Prices, divide
from gra_hpc.placement.deadline import Deadline
from gra_hpc.placement.hosts import Space
from gra_hpc.placement.patterns import Option, Pattern, Slot, ideal
from gra_hpc.placement.performance import GB

TOLERANCE = 1e-3
"""A layout within this share of the bound counts as optimal."""


ENGINE_COST = 2.5e-4
"""Part of the throughput that one more engine must bring here: of layouts alike, that with fewer engines is chosen."""


@dataclass(frozen=True)
class Division:
    """A way to cut the node into blocks, and what is known of it before the program is solved."""

    blocks: dict[int, int]
    """Number of blocks by width."""
    columns: list[Pattern]
    bound: float
    slack: list[float]
    """By pattern: how much of the bound is lost by using it once."""


def _packings(devices: int, widths: Sequence[int]) -> Iterator[dict[int, int]]:
    """Numbers of blocks by width (widest first), such that no further block fits."""
    if not widths:
        yield {}
        return
    for k in range(devices // widths[0], -1, -1):
        for rest in _packings(devices - k * widths[0], widths[1:]):
            if devices - k * widths[0] - sum(w * c for w, c in rest.items()) < widths[-1]:
                yield {widths[0]: k, **rest}


def divisions(space: Space, columns: list[Pattern]) -> list[Division]:
    """Divisions of the node whose blocks can hold all models, best bound first."""
    import numpy as np

    if not columns:
        return []
    names = {n.name for n in space.needs}
    table = _Worths(space, columns)
    width = np.array([p.width for p in columns])
    held = {int(w): {n for p in columns if p.width == w for n in p.counts} for w in set(width)}
    found = []
    for packing in _packings(space.devices, sorted(held, reverse=True)):
        blocks = {w: k for w, k in packing.items() if k}
        if blocks and set().union(*(held[w] for w in blocks)) == names:
            use = np.flatnonzero(np.isin(width, list(blocks)))
            bound, slack = table.bound(blocks, width, use)
            found.append(Division(blocks, [columns[i] for i in use], bound, slack))
    return sorted(found, key=lambda d: -d.bound)


class _Worths:
    """What all patterns are worth at given prices, at once."""

    def __init__(self, space: Space, columns: list[Pattern]) -> None:
        import numpy as np

        self.space, self.columns = space, columns
        names = [n.name for n in space.needs]
        slots = [(i, s) for i, p in enumerate(columns) for s in p.slots]
        levels = max(len(s.gains.calls) for _, s in slots)
        self.owner = np.array([i for i, _ in slots])
        self.model = np.array([names.index(s.need.name) for _, s in slots])
        self.rates, self.calls = np.zeros((len(slots), levels)), np.zeros((len(slots), levels))
        for k, (_, s) in enumerate(slots):
            many = len(s.offsets)
            self.rates[k, : len(s.gains.rates)] = many * s.time * s.gains.rates
            self.calls[k, : len(s.gains.calls)] = many * s.gains.calls
        best: dict[tuple[int, str, int], Option] = {}
        for i, s in slots:
            key = columns[i].width, s.need.name, s.tensor_parallel
            gains = Gains(s.gains.calls, s.time * s.gains.rates)
            if key not in best or gains.most > best[key].gains.most:
                best[key] = Option(s.need.name, len(s.offsets), gains, columns[i].width)
        self.options = list(best.values())

    def at(self, prices: Prices) -> Any:
        """By pattern, in samples a second."""
        import numpy as np

        samples = np.array([prices.samples.get(n.name, 0.0) for n in self.space.needs])
        worth = (samples[self.model, None] * self.rates - prices.call * self.calls).max(axis=1)
        return np.bincount(self.owner, np.maximum(worth, 0.0), len(self.columns))

    def bound(self, blocks: dict[int, int], width: Any, use: Any) -> tuple[float, list[float]]:
        """The dual of a division's linear relaxation (module's text), at the best prices for models alone in blocks.

        Args:
            blocks: number of blocks by width.
            width: of each pattern.
            use: indices of the patterns whose blocks the division has.

        Returns:
            The bound in samples a second, and the distance of each pattern in `use` to the best of its width.
        """
        widths, calls = list(blocks), self.space.constants.calls_in_flight
        options = [replace(o, part=widths.index(o.part)) for o in self.options if o.part in blocks]
        prices, _, _ = ideal(options, [float(blocks[w]) for w in widths], calls)
        worth = self.at(prices)
        best = {w: float(worth[width == w].max()) for w in widths}
        bound = sum(blocks[w] * best[w] for w in widths) + prices.call * calls
        return bound, [best[int(width[i])] - float(worth[i]) for i in use]


def few(division: Division, use: list[int], most: int) -> bool:
    """Whether there are no more ways than these to fill a division with some of its patterns."""
    total = 1
    for width, count in division.blocks.items():
        total *= comb(sum(division.columns[i].width == width for i in use) + count, count)
    return total <= most


def try_blocks(
    space: Space, division: Division, use: list[int], floor: float, deadline: Deadline
) -> tuple[list[Pattern], float, float]:
    """What `solve_blocks` does, by trying all ways to fill the division: quicker where there are few."""
    best: list[Pattern] = []
    rate, calls = floor, space.constants.calls_in_flight
    names = {n.name for n in space.needs}
    ways = []
    for width, count in division.blocks.items():
        own = [i for i in use if division.columns[i].width == width]
        ways.append(itertools.combinations_with_replacement([*own, -1], count))  # -1: an empty block
    for choice in itertools.product(*ways):
        if deadline.passed:
            return best, rate, division.bound
        filled = [i for part in choice for i in part if i >= 0]
        if division.bound - sum(division.slack[i] for i in filled) <= rate:
            continue
        chosen = [division.columns[i] for i in filled]
        if set().union(*(p.counts for p in chosen)) != names or not _allowed(space, chosen):
            continue
        engines = [(s.need.name, s.time, s.gains) for p in chosen for s in p.slots for _ in s.offsets]
        found = divide(engines, calls).samples_per_s
        if found > rate * (1 + TOLERANCE / 10):
            best, rate = chosen, found
    return best, rate, rate


def _allowed(space: Space, chosen: list[Pattern]) -> bool:
    """Whether pinned replicas are met, and host memory holds all weights."""
    pinned = [n for n in space.needs if n.replicas]
    met = all(sum(p.counts.get(n.name, 0) for p in chosen) == n.replicas for n in pinned)
    return met and sum(p.weight_bytes for p in chosen) <= space.host_bytes


def solve_blocks(
    space: Space, division: Division, use: list[int], floor: float, seconds: float
) -> tuple[list[Pattern], float, float]:
    """Solve the program with the patterns in `use`: patterns (none: nothing above the floor), rate, proven bound."""
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    columns = [division.columns[i] for i in use]
    scale, calls = division.bound, space.constants.calls_in_flight
    parts = [
        (i, s, k) for i, p in enumerate(columns) for s in p.slots for k in range(len(s.gains.calls))
    ]  # pattern, slot, level
    n, total = len(columns), len(columns) + len(parts) + 1
    own: dict[str, list[int]] = {}
    levels: dict[tuple[int, int], list[int]] = {}
    for j, (i, s, _) in enumerate(parts):
        own.setdefault(s.need.name, []).append(j)
        levels.setdefault((i, id(s)), []).append(j)
    rows: list[tuple[list[int], list[float], float, float]] = []
    for width, count in division.blocks.items():
        mine = [i for i, p in enumerate(columns) if p.width == width]
        rows.append((mine, [1.0] * len(mine), -np.inf, float(count)))
    for need in space.needs:
        mine = own.get(need.name, [])
        values = [min(_rate(parts[j]) / scale, 1e4) for j in mine]
        rows.append(([*(n + j for j in mine), total - 1], [*values, -1.0], 0.0, np.inf))
        if need.replicas:
            counts = [float(p.counts.get(need.name, 0)) for p in columns]
            rows.append((list(range(n)), counts, float(need.replicas), float(need.replicas)))
        else:  # every model has an engine, also one with hardly any work
            mine = [i for i, p in enumerate(columns) if need.name in p.counts]
            rows.append((mine, [1.0] * len(mine), 1.0, np.inf))
    in_flight = [float(s.gains.calls[k]) * len(s.offsets) / calls for _, s, k in parts]
    rows.append((list(range(n, total - 1)), in_flight, -np.inf, 1.0))
    for (i, _), mine in levels.items():
        rows.append(([i, *(n + j for j in mine)], [-1.0, *(1.0 for _ in mine)], -np.inf, 0.0))
    if space.host_bytes < float("inf"):
        rows.append((list(range(n)), [p.weight_bytes / GB for p in columns], -np.inf, space.host_bytes / GB))
    starts = np.cumsum([0] + [len(r[0]) for r in rows])
    entries = (np.concatenate([r[1] for r in rows]), np.concatenate([r[0] for r in rows]), starts)
    matrix = csr_array(entries, shape=(len(rows), total))
    cost, low, high = np.zeros(total), np.zeros(total), np.full(total, np.inf)
    cost[-1] = -1.0
    cost[:n] = [ENGINE_COST * sum(p.counts.values()) for p in columns]
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
    proven += scale * ENGINE_COST * sum(sum(p.counts.values()) for p in chosen)
    return chosen, float(result.x[-1]) * scale, proven


def _rate(part: tuple[int, Slot, int]) -> float:
    """Samples a second of a slot's engines with so many calls each."""
    _, s, k = part
    return float(s.gains.rates[k]) * s.time * len(s.offsets)
