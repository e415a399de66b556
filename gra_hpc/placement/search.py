"""The search for a layout: which engines go on which devices of a node, for the highest rate of the slowest model.

Its work is counted in layouts, which are drawn with a fixed seed: every machine finds the same one. From the best of
some simple layouts it goes on by

- refilling: the engines of some devices are removed, and all ways to fill these devices with a pattern each (or many
  of the ways, drawn) are compared; what looks best is tried;
- kicking: two or three engines are moved, added or left out at random;
- climbing, after both: one engine moved, split otherwise, added or left out, or two exchanged, as long as it helps.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gra_hpc.placement.call_shares import Ladder, common_rate
from gra_hpc.placement.hosts import Host, Space, explained, ideal, value
from gra_hpc.placement.performance import Need

MOST_WORK = 32_000
WORK = 40
"""A search ends after so much work for each pair of places where an engine could be, and no more than the most: five
models on eight GPUs have 75 places. To look at a layout is 1; to compare ways to refill devices, `REFILL` and 1 for
every `FIGURES` figures."""
REFILL = 10
FIGURES = 2000
KICKS = 0.35
"""Part of the work that goes on kicks."""
QUICK, MANY = 0.2, 7
"""With less effort than this, or more models, patterns have no two models beside a wide one."""
PATTERNS = 4000
"""What a block of devices may hold: so many patterns at most, small ones first."""
WAYS = 20_000
"""Ways to fill devices that are compared at once."""
TRIED = 3
"""Of them are tried."""
NEAR = 0.94
"""What is this near to the present layout is climbed from."""
WORSE = 0.1
"""Part of the rate that a step may lose at most."""
AIM = 1.1
"""Times the best rate so far: a model that could do more is fast enough."""
LITTLE = 0.02
"""What rates of models up to the aim count for, against that of the slowest: of layouts as fast, the roomier one."""
TURNED_BACK = 2000
"""Engines placed at most when a first layout is looked for."""

Post = tuple[int, int, int]
"""An engine: its model (place in `Space.needs`), tensor parallel size and first device."""


@dataclass(frozen=True)
class Layout:
    """Engines that are awake together, and what they do."""

    hosts: tuple[Host, ...]
    samples_per_s: float
    ideal: float
    """No layout does more."""


def best_layout(space: Space, effort: float = 1.0) -> Layout | None:
    """The layout with the highest rate of the slowest model; none if the models do not fit the node together.

    Args:
        space: models and devices.
        effort: part of the usual number of steps.
    """
    light = [n for n in space.needs if not n.generates and not n.replicas]
    rest = tuple(n for n in space.needs if n not in light)
    if not rest:
        light, rest = [], space.needs
    # Embedding models need little of everything: the others are laid out first, with room left on every device.
    room = sum(n.fixed_bytes(1, space.constants) for n in light)
    search = Search(Space(rest, space.devices, space.memory - room, space.constants, space.host_bytes))
    engines = search.run(effort)
    for k, need in enumerate(light if engines else ()):
        at_hand = Space((*rest, *light[: k + 1]), space.devices, space.memory, space.constants)
        rates = [value(at_hand, [*engines, (need, 1, d)])[0] for d in range(space.devices)]
        engines.append((need, 1, max(range(space.devices), key=lambda d: (round(rates[d], 9), d))))
    rate, hosts = value(space, engines)
    return Layout(explained(space, hosts), rate, max(rate, search.ideal)) if rate else None


@functools.lru_cache(maxsize=256)
def ways(patterns: int, slots: int) -> Any:
    """All ways to fill like slots with patterns, without regard to their order: indices `(slots, ways)`."""
    import numpy as np

    return np.array(list(itertools.combinations_with_replacement(range(patterns), slots)), dtype=np.intp).T.copy()


@functools.cache
def most_patterns(slots: int) -> int:
    """The largest number of patterns that fill like slots in no more than `WAYS` ways."""
    return next(n for n in itertools.count(1) if math.comb(n + slots, slots) > WAYS)


class Search:
    """One search, from simple layouts to the best one found."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.random = random.Random(1).random
        self.pins = [n.replicas for n in space.needs]
        self.weights = [n.facts.weight_bytes for n in space.needs]
        fits = [{t: space.fit(n, t) for t in space.splits(n)} for n in space.needs]
        self.fits = [{t: f for t, f in own.items() if f.size <= space.memory} for own in fits]
        self.spots = [[(t, s) for t in own for s in range(0, space.devices - t + 1, t)] for own in self.fits]
        self.work = 0
        self.ideal = self.aim = self.top = 0.0
        self.best: list[Post] = []
        self.now: list[Post] = []
        self.patterns: dict[int, list[tuple[Post, ...]]] = {}  # by width: what a block of devices may hold, from 0
        self.figures: dict[int, list[Any]] = {}  # for each price: an array `(figures of an engine, patterns)`
        self._ladders: dict[tuple[Any, ...], Ladder] = {}
        self._climbed: set[tuple[Any, ...]] = set()

    def run(self, effort: float) -> list[tuple[Need, int, int]]:
        """The best engines found; none if no layout fits."""
        self.now = max(self.starts(), key=self.score, default=[])
        if not self.score(self.now):
            return []
        self.climb(self.now)
        self.now = self.best
        self.at, self.ideal = ideal(self.space)
        self.prices = [0.0, self.at.call]  # refills compare engines with all calls they hold, or what pays at the ideal
        for width in sorted({t for own in self.fits for t in own}):
            self._patterns(width, beside=1 if effort < QUICK or len(self.pins) > MANY else 2)
        places = sum(map(len, self.spots))
        end = effort * min(MOST_WORK, WORK * places**2)
        kicks = 0
        while self.work < end:
            self.aim = AIM * self.top
            if tried := max(self.refills(*self.ruined()), key=self.score, default=None):
                self.step(tried, NEAR)
            if kicks < KICKS * (before := self.work):
                self.step(self.kicked(), 0.0)
                kicks += self.work - before
        return [(self.space.needs[m], t, s) for m, t, s in sorted(self.best)]

    def step(self, posts: list[Post], near: float) -> None:
        """Climb from a layout that is near enough, and go on from there if not much is lost."""
        now = self.score(self.now)
        held = [sorted((m, t) for m, t, s in posts if s <= d < s + t) for d in range(self.space.devices)]
        like = tuple(sorted(map(tuple, held)))
        if self.score(posts) > near * now and like not in self._climbed:
            self._climbed.add(like)
            posts = self.climb(posts)
        if self.score(posts) > now * (1 - WORSE * self.random()):
            self.now = posts

    # What a layout is worth: as `hosts.place` and `hosts.share_time` have it

    def ladders(self, posts: Sequence[Post]) -> dict[int, Ladder] | None:
        """What the engines of each model make of calls; none if they do not fit."""
        space = self.space
        left = [space.memory] * space.devices
        wanted = [0.0] * space.devices
        on = [0] * space.devices
        for m, t, s in posts:
            fit = self.fits[m][t]
            generates = fit.need.generates
            for d in range(s, s + t):
                left[d] -= fit.size
                wanted[d] += fit.more
                on[d] += generates
        if min(left) < 0 or sum(self.weights[m] for m, _, _ in posts) > space.host_bytes:
            return None
        engines: dict[int, list[tuple[int, int, float]]] = {}
        for m, t, s in posts:
            fit = self.fits[m][t]
            generating = (on[s] if t == 1 else max(on[s : s + t])) + (not fit.need.generates)
            kv = fit.least
            if fit.more:
                kv += fit.more * (left[s] / wanted[s] if t == 1 else min(left[d] / wanted[d] for d in range(s, s + t)))
            engines.setdefault(m, []).append((t, generating, round(fit.curve.batch(kv), 3)))
        return {m: self._ladder(m, sorted(own)) for m, own in engines.items()}

    def _ladder(self, model: int, engines: list[tuple[int, int, float]]) -> Ladder:
        key = (model, *engines)
        if key not in self._ladders:
            rungs = [self.fits[model][t].gains.rungs(self.space.share(n), batch) for t, n, batch in engines]
            self._ladders[key] = Ladder.of(sorted(itertools.chain.from_iterable(rungs)))
        return self._ladders[key]

    def score(self, posts: Sequence[Post], floor: float = 0.0) -> float:
        """The rate less what engines cost to start, and a little for what each model could do; 0 if not above a floor.

        Engines are those of a layout, or some of them: then of the models that have one.
        """
        self.work += 1
        ladders = self.ladders(posts)
        if not ladders:
            return 0.0
        constants = self.space.constants
        kept = 1 - constants.engine_cost * len(posts)
        most = [ladder.rates[-1] for ladder in ladders.values()]
        little = LITTLE * sum(rate if rate < self.aim else self.aim for rate in most) / len(most)
        least = floor / kept - little
        calls = constants.calls_in_flight
        if min(most) <= least or (least > 0 and sum(ladder.needed(least) for ladder in ladders.values()) >= calls):
            return 0.0
        return (common_rate(ladders.values(), calls) + little) * kept

    # Simple layouts

    def starts(self) -> Iterator[list[Post]]:
        """Each engine on the emptiest devices, for every least size; all models everywhere, for every largest size."""
        sizes = sorted({t for own in self.fits for t in own})
        wanted = [m for m, pin in enumerate(self.pins) for _ in range(pin or 1)]
        smallest = [min((t * fit.size for t, fit in own.items()), default=math.inf) for own in self.fits]
        if sum(smallest[m] for m in wanted) > self.space.memory * self.space.devices:
            return
        for least in sizes:
            posts = self._spread(wanted, least, [], itertools.count())
            if posts is None:  # neither will another least size
                return
            yield posts
        for most in sizes:
            posts = []
            for m, own in enumerate(self.fits):
                t = max((t for t in own if t <= most), default=0)
                posts += [(m, u, s) for u, s in self.spots[m] if u == t][: self.pins[m] or None]
            if len({m for m, _, _ in posts}) == len(self.pins):
                yield posts

    def _spread(
        self, wanted: list[int], least: int, posts: list[Post], turns: itertools.count[int]
    ) -> list[Post] | None:
        """Room for one engine after the other; back to the one before where there is none."""
        if len(posts) == len(wanted):
            return posts
        m = wanted[len(posts)]
        free = [self.space.memory] * self.space.devices
        count = [0] * self.space.devices
        for k, t, s in posts:
            for d in range(s, s + t):
                free[d] -= self.fits[k][t].size
                count[d] += 1
        spots = [
            (t < least, sum(count[s : s + t]) / t, t, s)
            for t, s in self.open(m, posts)
            if min(free[s : s + t]) >= self.fits[m][t].size
        ]
        tried = set()
        for _, _, t, s in sorted(spots):
            if (like := (t, *free[s : s + t])) not in tried and next(turns) < TURNED_BACK:
                tried.add(like)
                if found := self._spread(wanted, least, [*posts, (m, t, s)], turns):
                    return found
        return None

    # Climbing

    def open(self, model: int, posts: Sequence[Post]) -> list[tuple[int, int]]:
        """Where one more engine of a model could be: `(tensor parallel size, first device)`, beside its others."""
        own = [(s, s + t) for m, t, s in posts if m == model]
        return [(t, s) for t, s in self.spots[model] if all(s >= end or s + t <= start for start, end in own)]

    def neighbours(self, posts: list[Post]) -> Iterator[list[Post]]:
        """With one engine elsewhere or left out, two exchanged, or one more. They may not fit."""
        for k, (m, *spot) in enumerate(posts):
            rest = posts[:k] + posts[k + 1 :]
            yield from ([*rest, (m, *other)] for other in self.open(m, rest) if other != tuple(spot))
            if not self.pins[m] and any(e[0] == m for e in rest):
                yield rest
        for one, two in itertools.combinations(posts, 2):
            if one[0] != two[0] and one[1:] != two[1:]:
                rest = [e for e in posts if e not in (one, two)]
                if two[1:] in self.open(one[0], rest) and one[1:] in self.open(two[0], rest):
                    yield [*rest, (one[0], *two[1:]), (two[0], *one[1:])]
        for m, pin in enumerate(self.pins):
            if not pin:
                yield from ([*posts, (m, *spot)] for spot in self.open(m, posts))

    def climb(self, posts: list[Post]) -> list[Post]:
        """From a layout to the first better neighbour, until there is none; the best is kept."""
        higher: list[Post] | None = posts
        while higher:
            posts, least = higher, self.score(higher) * (1 + 1e-6)
            higher = next((trial for trial in self.neighbours(posts) if self.score(trial, least)), None)
        aim, self.aim = self.aim, 0.0
        if (rate := self.score(posts)) > self.top:
            self.top, self.best = rate, posts
        self.aim = aim
        return posts

    def kicked(self) -> list[Post]:
        """The present layout with two or three changes that fit."""
        posts = self.now
        for _ in range(2 + int(2 * self.random())):
            some = self.drawn(self.neighbours(posts), 8)
            posts = next((trial for trial in some if self.ladders(trial)), posts)
        return posts

    # Refilling

    def drawn(self, items: Iterable[Any], count: int) -> list[Any]:
        """Some of the items, in the order of drawing."""
        left = list(items)
        for i in range(min(count, len(left))):
            j = i + int(self.random() * (len(left) - i))
            left[i], left[j] = left[j], left[i]
        return left[:count]

    def _patterns(self, width: int, beside: int) -> None:
        """Work out what blocks of so many devices may hold, and what that does."""
        found = itertools.islice(self._blocks(width, beside), PATTERNS)
        posts = [p for p in found if not p or self.ladders(p)]
        import numpy as np

        self.patterns[width] = posts
        self.figures[width] = [np.array([self._figures(p, call) for p in posts]).T.copy() for call in self.prices]

    def _blocks(self, width: int, beside: int) -> Iterator[tuple[Post, ...]]:
        """Any models that cover a block; or one that does, and up to so many others on each half. They may not fit."""
        models = [m for m, own in enumerate(self.fits) if width in own]
        for size in range(len(models) + 1):
            yield from (tuple((m, width, 0) for m in some) for some in itertools.combinations(models, size))
        half = width // 2 if width % 2 == 0 else 0
        for m in models:
            room = self.space.memory - self.fits[m][width].size
            sizes = {k: own[half].size for k, own in enumerate(self.fits) if k != m and half in own}
            parts = [part for k in range(beside + 1) for part in itertools.combinations(sizes, k)]
            parts = [part for part in parts if sum(sizes[k] for k in part) <= room]
            for one, two in itertools.combinations_with_replacement(parts, 2):
                if two:
                    yield (m, width, 0), *((k, half, 0) for k in one), *((k, half, half) for k in two)

    def _figures(self, posts: Sequence[Post], call: float) -> list[float]:
        """What engines add up to: rate of each model, engines of each pinned one, bytes of weights.

        A model is given calls as long as they are worth their price.
        """
        ladders = self.ladders(posts) or {}
        rates = [0.0] * len(self.pins)
        for m, ladder in ladders.items():
            worth = self.at.samples[self.space.needs[m].name]
            rates[m] = ladder.rates[max(1, sum(cost * call <= worth for cost in ladder.costs))]
        counts = [float(sum(m == e[0] for e in posts)) for m, pin in enumerate(self.pins) if pin]
        return [*rates, *counts, float(sum(self.weights[m] for m, _, _ in posts))]

    def ruined(self) -> tuple[list[Post], list[tuple[int, int]]]:
        """The present layout without the engines of some devices; and free blocks, `(width, first device)`."""
        devices, widths = self.space.devices, list(self.patterns)
        width = self.drawn(widths, 1)[0] if self.random() < 0.5 else widths[0]
        number = len(self.patterns[width])
        most = max(4, *(k for k in range(1, 17) if math.comb(number + k - 1, k) <= WAYS))
        some = self.drawn(range(0, devices - width + 1, width), 1 + int(most * self.random()))
        gone = {d for s in some for d in range(s, s + width)}
        kept = [(m, t, s) for m, t, s in self.now if gone.isdisjoint(range(s, s + t))]
        free = set(range(devices)) - {d for _, t, s in kept for d in range(s, s + t)}
        blocks: list[tuple[int, int]] = []
        while free and len(blocks) < most:
            first = min(free)
            fitting = [w for w in widths if first % w == 0 and free.issuperset(range(first, first + w))]
            width = self.drawn(fitting, 1)[0] if fitting and self.random() < 0.5 else min(fitting, default=1)
            free -= set(range(first, first + width))
            blocks += [(width, first)] if fitting else []
        return kept, blocks

    def refills(self, kept: list[Post], blocks: list[tuple[int, int]]) -> Iterator[list[Post]]:
        """The most promising ways to fill free blocks, of all ways or of some with fewer patterns, drawn."""
        import numpy as np

        widths = sorted({w for w, _ in blocks})
        firsts = [[s for w, s in blocks if w == width] for width in widths]
        sizes = [min(len(self.patterns[w]), most_patterns(len(own))) for w, own in zip(widths, firsts, strict=True)]
        while math.prod(math.comb(n + len(own) - 1, len(own)) for n, own in zip(sizes, firsts, strict=True)) > WAYS:
            sizes[max(range(len(sizes)), key=lambda k: sizes[k])] -= 1
        price = int(len(self.prices) * self.random())
        total = np.array(self._figures(kept, self.prices[price]))[:, None]
        drawn, filled = [], []
        for width, size, own in zip(widths, sizes, firsts, strict=True):
            drawn.append(self.drawn(range(len(self.patterns[width])), size))
            filled.append(ways(size, len(own)))
            figures = self.figures[width][price][:, drawn[-1]]
            added = sum(figures.take(row, axis=1, mode="clip") for row in filled[-1])
            total = (total[:, :, None] + added[:, None, :]).reshape(len(total), -1)
        models = len(self.pins)
        self.work += REFILL + total.size // FIGURES
        slowest, score = total[0].copy(), np.zeros(total.shape[1])
        for rates in total[:models]:
            np.minimum(slowest, rates, out=slowest)
            score += np.minimum(rates, self.aim)
        score = slowest + LITTLE / models * score
        wrong = (slowest <= 0) | (total[-1] > self.space.host_bytes)
        for pin, count in zip([pin for pin in self.pins if pin], total[models:-1], strict=True):
            wrong |= count != pin
        score[wrong] = 0.0
        for _ in range(TRIED):
            best = int(score.argmax())  # the first of the best, on every machine
            if score[best] <= 0:
                return
            score[best] = 0.0
            posts = list(kept)
            index = np.unravel_index(best, [rows.shape[1] for rows in filled])
            for width, some, rows, at, own in zip(widths, drawn, filled, index, firsts, strict=True):
                for first, row in zip(own, rows[:, at], strict=True):
                    posts += [(m, t, first + s) for m, t, s in self.patterns[width][some[row]]]
            yield posts
