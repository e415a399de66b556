"""How many clusters a row must visit to meet its duplicates, and what part of them it then meets.

Sampled rows are compared with everything (along fewer dimensions first: `narrow`), until enough of them have a
duplicate or the cost is reached: every other row chooses, the rest measure. Where duplicates are too rare for a choice,
pairs are made up: of a row, and the point at the threshold from it on the way to another row. They lie farther apart
than duplicates do, so they ask for more visits. (Measured with cells cut in all dimensions, visits for 0.995 of the
pairs, made up and true: 20,000 MiniLM embeddings of sentences from documentation 10 and 5; pairs at cosines of 0.9 to
0.99 in Gaussian noise of 32 numbers 32 and 16, of 384 numbers 22 and 19.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gra_hpc.merge.semantic.narrow import keeps_all, least_seen, narrow
from gra_hpc.merge.semantic.rule import MARGIN, unit_length, where
from gra_hpc.workers import Workers

_SAMPLE = 3_000
"""Rows compared with everything, at least."""
_COMPARED = 10_000_000_000
"""More rows are sampled while these times all rows stay below: about a minute of two cores."""
_ENOUGH = 200
"""Rows with duplicates that choose, and as many that measure."""
_FEWEST = 20
"""Rows with duplicates below which no recall is stated."""
_MADE_UP = 4_000
_WANTED = 0.995
"""Recall that the number of visits is chosen for."""
_Z = 1.96
"""Of a 95% interval."""
_BLOCK = 65_536
"""Rows compared by a worker at a time."""
_PAIR_COST = 400
"""The cosine of one pair, whose numbers have to be fetched, costs less than so many in a matrix product."""
_TILE = (2048, 8192)
"""Sampled rows and rows multiplied at a time."""


@dataclass(frozen=True)
class Recall:
    """What the samples say."""

    visits: int
    """Clusters to visit."""
    sampled: int
    """Rows that were compared with everything."""
    pairs: int
    """Duplicates of the rows that measure, and thereby what `recall` rests on."""
    rows: int
    """Of these, rows that have any."""
    met: float
    """Share of the pairs that are met with so many visits; 1 without pairs."""

    @property
    def recall(self) -> float | None:
        """`met`; none: too few rows to tell."""
        return self.met if self.rows >= _FEWEST else None

    @property
    def recall_low(self) -> float | None:
        """Lower end of its 95% interval. Pairs of one row are met together or not, so rows count."""
        return wilson(self.met, self.rows) if self.rows >= _FEWEST else None


def wilson(share: float, n: int) -> float:
    """Lower end of the 95% interval of a share of n (Wilson 1927)."""
    z2 = _Z * _Z
    spread = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return (share + z2 / (2 * n) - spread) / (1 + z2 / n)


def choose_visits(
    path: Path,
    pool: int,
    threshold: float,
    space: np.ndarray,
    centres: np.ndarray,
    bounds: tuple[int, int],
    rng: np.random.Generator,
    workers: Workers,
) -> Recall:
    """Choose the number of visits, and measure.

    Args:
        path: file of float16 [rows, d] by rank, the pool first.
        pool: rows of the pool: none of them is sampled.
        threshold: cosine from which two rows are duplicates.
        space: directions that clusters are told apart by, float32 [d, m].
        centres: float32 [k, m].
        bounds: fewest and most visits.
        rng: draws the samples.
        workers: processes that compare.
    """
    vectors = np.load(path, mmap_mode="r")
    n = len(vectors)
    order = rng.permutation(np.arange(pool, n))
    most = min(len(order), max(_SAMPLE, _COMPARED // max(n, 1)))
    places: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    with_any = [0, 0]
    taken, size = 0, min(_SAMPLE, most)
    while size > 0:
        some = np.sort(order[taken : taken + size])
        taken += size
        row, other = _neighbours(path, some, threshold, space, workers)
        place = _visits_of(vectors, row, other, space, centres)
        for half in (0, 1):
            here = np.isin(row, some[half::2])
            places[half].append(place[here])
            with_any[half] += len(np.unique(row[here]))
        lacking = _ENOUGH - min(with_any)
        if lacking <= 0:
            break
        rate = max(min(with_any), 1) / taken
        size = min(max(_SAMPLE, int(1.2 * lacking / rate)), most - taken)
    chooses, measures = (np.concatenate([np.empty(0, np.int64), *p]) for p in places)
    asked = [chooses]
    if with_any[0] < _ENOUGH:
        asked.append(_made_up(vectors, threshold, space, centres, rng))
    visits = max((int(np.quantile(p, _WANTED, method="higher")) + 1 for p in asked if len(p)), default=0)
    visits = int(np.clip(visits, bounds[0], min(bounds[1], len(centres))))
    met = float((measures < visits).mean()) if len(measures) else 1.0
    return Recall(visits, taken, len(measures), with_any[1], met)


def _made_up(
    vectors: np.ndarray, threshold: float, space: np.ndarray, centres: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Visits that made-up pairs would take, int64 [pairs]."""
    n = len(vectors)
    some, toward = rng.integers(n, size=(2, min(n, _MADE_UP)))
    row, other = unit_length(vectors[some]), unit_length(vectors[toward])
    away = unit_length(other - (other * row).sum(axis=1, keepdims=True) * row)
    point = unit_length(threshold * row + math.sqrt(max(0.0, 1 - threshold**2)) * away)
    return _visits(narrow(point, space), narrow(row, space), centres)


def _visits_of(
    vectors: np.ndarray, row: np.ndarray, other: np.ndarray, space: np.ndarray, centres: np.ndarray
) -> np.ndarray:
    """At which visit (from 0) each row would meet the cluster of the other, int64 [pairs]."""
    result = np.empty(len(row), np.int64)
    for s in range(0, len(row), 8192):
        a, b = (narrow(unit_length(vectors[of[s : s + 8192]]), space) for of in (row, other))
        result[s : s + 8192] = _visits(a, b, centres)
    return result


def _visits(rows: np.ndarray, others: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The same for unit vectors along the directions, float32 [pairs, m]."""
    near = rows @ centres.T
    home = (others @ centres.T).argmax(axis=1)
    visits: np.ndarray = (near > near[np.arange(len(home)), home][:, None]).sum(axis=1)
    return visits


def _neighbours(
    path: Path, rows: np.ndarray, threshold: float, space: np.ndarray, workers: Workers
) -> tuple[np.ndarray, np.ndarray]:
    """All better-ranked rows at or above the threshold, for some rows (ascending): pairs (row, other)."""
    last = int(rows[-1]) if len(rows) else 0
    asked = [(path, rows, threshold, space, s, min(s + _BLOCK, last)) for s in range(0, last, _BLOCK)]
    found = list(workers.map(_neighbours_in, asked))
    none = np.empty(0, np.int64)
    return np.concatenate([none, *(r for r, _ in found)]), np.concatenate([none, *(o for _, o in found)])


def _neighbours_in(asked: tuple[Path, np.ndarray, float, np.ndarray, int, int]) -> tuple[np.ndarray, np.ndarray]:
    path, rows, threshold, space, begin, end = asked
    vectors = np.load(path, mmap_mode="r")
    rows = rows[rows > begin]
    some = unit_length(vectors[rows])
    seen, from_ = narrow(some, space), least_seen(threshold, space) - MARGIN
    found_row, found_other = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for s in range(begin, end, _TILE[1]):
        others = unit_length(vectors[s : min(s + _TILE[1], end)])
        others_seen = narrow(others, space)
        for a in range(int(np.searchsorted(rows, s, "right")), len(rows), _TILE[0]):
            tile = some[a : a + _TILE[0]]
            r, c = where(seen[a : a + _TILE[0]] @ others_seen.T >= from_)
            if not keeps_all(space):
                if len(r) * _PAIR_COST <= len(tile) * len(others):
                    near = np.einsum("ij,ij->i", tile[r], others[c]) >= threshold - MARGIN
                    r, c = r[near], c[near]
                else:  # many seem near
                    r, c = where(tile @ others.T >= threshold - MARGIN)
            row = rows[a + r]
            earlier = s + c < row
            found_row.append(row[earlier])
            found_other.append(s + c[earlier])
    return np.concatenate(found_row), np.concatenate(found_other)
