"""From a layout to better ones near it: one engine moved, split otherwise, added or left out at a time.

The program in `layouts.py` searches layouts of regular blocks. This climb gives it something to beat, and afterwards
makes what it found irregular where that is better.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gra_hpc.placement.call_shares import Prices
from gra_hpc.placement.deadline import Deadline
from gra_hpc.placement.hosts import Engines, Host, Space, place, prices, reach, share_time, times

Value = tuple[float, tuple[Host, ...]]
"""Rate of the slowest model, and the engines with memory and time."""


def value(space: Space, engines: Engines) -> Value:
    """What engines do together; 0 and none if they do not fit."""
    hosts = place(space, engines)
    return share_time(space, hosts) if hosts else (0.0, ())


def starts(space: Space) -> Iterator[Engines]:
    """Simple layouts: each engine, large models first, on the emptiest devices; one for every least size of a split."""
    for least in sorted({t for n in space.needs for t in space.splits(n)}):
        free = [space.memory] * space.devices
        count = [0] * space.devices
        engines: list = []
        for need in (n for n in space.needs for _ in range(n.replicas or 1)):
            spots = []
            for t in space.splits(need):
                for s in range(0, space.devices - t + 1, t):
                    own = any(n is need and s < f + u and f < s + t for n, u, f in engines)
                    if min(free[s : s + t]) >= space.fit(need, t).size and not own:
                        spots.append((t < least, sum(count[s : s + t]) / t, t, s))
            if not spots:
                break
            _, _, t, s = min(spots)
            engines.append((need, t, s))
            for d in range(s, s + t):
                free[d] -= space.fit(need, t).size
                count[d] += 1
        else:
            yield tuple(engines)


def filled(space: Space, engines: Engines, deadline: Deadline) -> Engines:
    """With more engines of the slowest model, one by one, each where it leaves the slower models best off."""
    best, slowest = _rates(space, engines)
    while best and not deadline.passed:
        trials: list[tuple[tuple[float, ...], str, Engines]] = []
        for need in (n for n in space.needs if n.name == slowest and n.generates and not n.replicas):
            for t in space.splits(need):
                for s in range(0, space.devices - t + 1, t):
                    more = (*engines, (need, t, s))
                    trials.append((*_rates(space, more), more))
        top = max(trials, key=lambda trial: trial[0], default=(best, "", engines))
        if top[0] <= best:
            break
        best, slowest, engines = top
    return engines


def _rates(space: Space, engines: Engines) -> tuple[tuple[float, ...], str]:
    """Rates of all models, the slowest first, and its name, with so many calls per engine as if every device had one;
    none if they do not fit."""
    hosts = place(space, engines)
    each = space.constants.calls_in_flight / max(space.devices, len(space.needs))
    rates: dict[str, float] = {}
    for h, time in zip(hosts, times(space, hosts), strict=True):
        rates[h.need.name] = rates.get(h.need.name, 0.0) + time * float(space.gains(h).at(each))
    ranked = sorted((float(f"{rate:.4g}"), name) for name, rate in rates.items())
    return tuple(rate for rate, _ in ranked), ranked[0][1] if ranked else ""


def improve(space: Space, engines: Engines, deadline: Deadline) -> Value:
    """Climb from a layout, step by step, until no neighbour is better or the time is up.

    One more engine must bring more than it costs to start; one less may cost as much. Neighbours are looked at only if
    the prices of the present layout leave them a chance.
    """
    best = value(space, engines)
    cost = space.constants.engine_cost
    while best[0] > 0 and not deadline.passed:
        at = prices(space, best[1])
        fewer = _first(space, _fewer(best[1]), best[0] * (1 - cost), at, deadline)
        step = fewer or _first(space, _other(space, best[1]), best[0] * (1 + cost), at, deadline)
        if step is None:
            break
        best = step
    return best


def _first(space: Space, trials: Iterator[Engines], least: float, at: Prices, deadline: Deadline) -> Value | None:
    """The first layout that reaches a rate."""
    for engines in trials:
        if deadline.passed:
            return None
        hosts = place(space, engines)
        if hosts and reach(space, hosts, at) >= least:
            new = share_time(space, hosts)
            if new[0] >= least:
                return new
    return None


def _fewer(hosts: Sequence[Host]) -> Iterator[Engines]:
    """Without one engine, those with little to do first."""
    counts: dict[str, int] = {}
    for h in hosts:
        counts[h.need.name] = counts.get(h.need.name, 0) + 1
    spare = [h for h in hosts if counts[h.need.name] > 1 and not h.need.replicas]
    for h in sorted(spare, key=lambda h: h.time * h.tensor_parallel):
        yield tuple((o.need, o.tensor_parallel, o.first) for o in hosts if o is not h)


def _other(space: Space, hosts: Sequence[Host]) -> Iterator[Engines]:
    """With one engine moved or split otherwise, then with one more."""
    engines = tuple((h.need, h.tensor_parallel, h.first) for h in hosts)
    spots = {n.name: [(t, s) for t in space.splits(n) for s in range(0, space.devices - t + 1, t)] for n in space.needs}
    for k, (need, t, s) in enumerate(engines):
        for spot in spots[need.name]:
            if spot != (t, s):
                yield (*engines[:k], (need, *spot), *engines[k + 1 :])
    for need in space.needs:
        for spot in [] if need.replicas else spots[need.name]:
            if (need, *spot) not in engines:
                yield (*engines, (need, *spot))
