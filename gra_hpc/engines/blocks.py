"""How many blocks of each pattern: the mixed-integer program behind a layout.

Maximised is the rate of the slowest model:

    max X   over integers n_p >= 0 and times s_pm >= 0
    sum_m s_pm <= usable_p n_p                    for every pattern p (for each of its devices, where they differ)
    sum_p rate_pm s_pm >= X                       for every model m
    sum_(p of width w) n_p <= N_w                 for a division of the node into N_w blocks of width w

A division's bound is the program's linear relaxation, by its dual: with any weights mu_m >= 0 of sum 1, a block of
width w is worth no more than z_w = max_p sum_d usable_pd max_m mu_m rate_pdm (d: the devices of pattern p), and
X <= sum_w N_w z_w. A pattern whose worth falls short of z_w by more than the bound exceeds a known layout (its *slack*)
is in no better one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gra_hpc.engines.hosts import Space
from gra_hpc.engines.patterns import Pattern
from gra_hpc.engines.performance import GB

TOLERANCE = 1e-3
"""A layout within this share of the bound counts as optimal."""


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

    names = [n.name for n in space.needs]
    # What each device of a pattern is worth for each model at most, per unit of its price: patterns x devices x models.
    worth = np.zeros((len(columns), space.devices, len(names)))
    for i, p in enumerate(columns):
        for s in p.slots:
            j, each = names.index(s.need.name), s.samples_per_s / s.tensor_parallel
            for d in range(p.width):
                if p.even or d in s.devices:
                    worth[i, d, j] = max(worth[i, d, j], p.usable[d] * each)
    width = np.array([p.width for p in columns])
    widths = sorted({p.width for p in columns}, reverse=True)
    found = []
    for packing in _packings(space.devices, widths):
        blocks = {w: k for w, k in packing.items() if k}
        use = np.flatnonzero(np.isin(width, list(blocks)))
        if len(use) and (worth[use].sum(axis=1) > 0).any(axis=0).all():
            bound, slack = _bound(blocks, worth[use], width[use])
            found.append(Division(blocks, [columns[i] for i in use], bound, slack))
    return sorted(found, key=lambda d: -d.bound)


def _bound(blocks: dict[int, int], worth: Any, width: Any) -> tuple[float, list[float]]:
    """The dual of a division's linear relaxation: min sum N_w z_w over weights mu of sum 1 (module's text).

    The weights are the best ones for even patterns; any weights give a bound.

    Args:
        blocks: number of blocks by width.
        worth: samples a second of each model on each device of each pattern; patterns x devices x models.
        width: of each pattern.

    Returns:
        The bound in samples a second, and each pattern's distance to the best price of its width.
    """
    import numpy as np
    from scipy.optimize import linprog

    models, widths = worth.shape[2], list(blocks)
    alone = worth.sum(axis=1)
    scale = alone.max()
    rows = []
    for k, w in enumerate(widths):
        price = np.zeros(len(widths))
        price[k] = -1.0
        best = np.diag(alone[width == w].max(axis=0) / scale)
        rows.append(np.hstack([best, np.tile(price, (models, 1))]))
    matrix = np.vstack(rows)
    cost = np.array([0.0] * models + [float(blocks[w]) for w in widths])
    total = np.array([[1.0] * models + [0.0] * len(widths)])
    result = linprog(cost, A_ub=matrix, b_ub=np.zeros(len(matrix)), A_eq=total, b_eq=[1.0], method="highs")
    valued = (worth * result.x[:models]).max(axis=2).sum(axis=1)
    prices = {w: valued[width == w].max() for w in widths}
    slack = np.array([prices[w] for w in width]) - valued
    return float(sum(blocks[w] * prices[w] for w in widths)), slack.tolist()


def solve_blocks(
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
