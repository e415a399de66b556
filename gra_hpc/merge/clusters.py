"""The greedy rule above the size where all pairs can be compared: each row meets the clusters nearest to it.

Rows are assigned to the nearest of k centres (spherical k-means on a sample) and stored by cluster, within a cluster by
rank; a row is then compared, by matrix products, with the better-ranked rows of its nearest clusters. How many clusters
that takes is measured before: a sample of rows is compared with everything, and enough clusters are visited to meet
their true neighbours. A second sample measures the recall that is reported.

Unlike a graph index built by several threads it finds the same pairs every time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gra_hpc.merge.semantic import _MARGIN, Similar, settle, unit

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

_BLOCK = 16_384
_ROUNDS = 6
"""Iterations of k-means: the centres only cut space into cells, they need not have converged."""
_SAMPLE = 1_500
"""Rows compared with everything, to choose the number of clusters to visit, and again to measure recall."""
_WANTED = 0.995
"""Recall that the number of visited clusters is chosen for."""
_VISITS = (4, 256)
"""Fewest and most clusters a row is compared with."""
_EDGES = 64
"""Neighbours of one row taken from one cluster: the best-ranked."""
_SEED = 20250422


def duplicates(vectors: np.ndarray, pool: int, threshold: float) -> Similar:
    """The greedy rule, approximately.

    Args:
        vectors: float16 [rows, d] in order of rank, the pool first.
        pool: rows that are in the target pool from the start.
        threshold: cosine from which a row is dropped.
    """
    import numpy as np

    n = len(vectors)
    rng = np.random.Generator(np.random.PCG64(_SEED))
    k = int(np.clip(2 * np.sqrt(n), 16, 16_384))
    centres = _centres(vectors, k, rng)
    sampled = np.sort(rng.permutation(np.arange(pool, n))[: 2 * _SAMPLE])
    row, other = _neighbours(vectors, sampled, threshold)
    place = _visit_of(vectors, centres, row, other)
    half = np.isin(row, sampled[::2])  # one half chooses, the other measures
    visits = _VISITS[0]
    if half.any():
        visits = int(np.ceil(np.quantile(place[half], _WANTED, method="higher"))) + 1
    visits = int(np.clip(visits, _VISITS[0], min(_VISITS[1], k)))
    recall = float((place[~half] < visits).mean()) if (~half).any() else None
    log.info("semantic step: %d rows, %d clusters, %d visited by each row", n, k, visits)
    return _search(vectors, pool, threshold, centres, visits, recall, int((~half).sum()))


def _centres(vectors: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Centres of spherical k-means on a sample, float32 [k, d]."""
    import numpy as np

    n = len(vectors)
    sample = unit(vectors[np.sort(rng.permutation(n)[: 32 * k])])
    centres = sample[rng.permutation(len(sample))[:k]].copy()
    for _ in range(_ROUNDS):
        nearest = np.concatenate([(b @ centres.T).argmax(axis=1) for b in _blocks(sample, 8192)])
        order = np.argsort(nearest, kind="stable")
        filled, starts = np.unique(nearest[order], return_index=True)
        centres[filled] = np.add.reduceat(sample[order], starts, axis=0)
        centres = unit(centres)  # an empty cluster keeps its centre
    return centres


def _blocks(matrix: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for s in range(0, len(matrix), size):
        yield matrix[s : s + size]


def _neighbours(vectors: np.ndarray, rows: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """All better-ranked rows at or above the threshold, for some rows: pairs (row, other)."""
    import numpy as np

    some = unit(vectors[rows])
    found_row, found_other = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for s in range(0, int(rows[-1]) if len(rows) else 0, _BLOCK):
        cosine = some @ unit(vectors[s : s + _BLOCK]).T
        r, c = np.nonzero(cosine >= threshold)
        earlier = s + c < rows[r]
        found_row.append(rows[r[earlier]])
        found_other.append(s + c[earlier])
    return np.concatenate(found_row), np.concatenate(found_other)


def _visit_of(vectors: np.ndarray, centres: np.ndarray, row: np.ndarray, other: np.ndarray) -> np.ndarray:
    """At which visit (from 0) each row would meet the cluster of the other."""
    import numpy as np

    result = np.empty(len(row), np.int64)
    for s in range(0, len(row), 8192):
        near = unit(vectors[row[s : s + 8192]]) @ centres.T
        home = (unit(vectors[other[s : s + 8192]]) @ centres.T).argmax(axis=1)
        result[s : s + 8192] = (near > near[np.arange(len(home)), home][:, None]).sum(axis=1)
    return result


@dataclass
class _Cells:
    """Rows by cluster."""

    rows: np.ndarray
    """int64 [rows]: positions, by cluster, ascending within."""
    starts: np.ndarray
    """int64 [k + 1]."""
    vectors: np.ndarray
    """[rows, d] of length one, in the order of `rows`."""
    there: np.ndarray
    """bool [rows]: not dropped, in the order of `rows`."""


def _search(
    vectors: np.ndarray,
    pool: int,
    threshold: float,
    centres: np.ndarray,
    visits: int,
    recall: float | None,
    measured: int,
) -> Similar:
    import numpy as np

    n = len(vectors)
    visited = np.empty((n, visits), np.uint16)
    home = np.empty(n, np.uint16)
    for s in range(0, n, _BLOCK):
        near = unit(vectors[s : s + _BLOCK]) @ centres.T
        home[s : s + len(near)] = near.argmax(axis=1)
        np.negative(near, out=near)
        visited[s : s + len(near)] = np.argpartition(near, visits - 1, axis=1)[:, :visits]
    rows = np.argsort(home, kind="stable")
    starts = np.searchsorted(home[rows], np.arange(len(centres) + 1))
    stored = np.empty((n, vectors.shape[1]), np.float32)
    for s in range(0, n, _BLOCK):
        stored[s : s + _BLOCK] = unit(vectors[rows[s : s + _BLOCK]])
    cells = _Cells(rows, starts, stored, np.ones(n, bool))
    sorted_place = np.empty(n, np.int64)
    sorted_place[rows] = np.arange(n)
    nearest = np.full(n - pool, -1, np.float32)
    drops, winners, similarities = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    for begin in range(pool, n, _BLOCK):
        end = min(begin + _BLOCK, n)
        best, row, other = _compare(unit(vectors[begin:end]), visited[begin:end], begin, cells, threshold)
        stays, by, at = settle(vectors, row, other, begin, end - begin, threshold)
        # Of two rows of one block the nearer may have been dropped: then all that is known is 'below'.
        best[stays] = np.minimum(best[stays], np.nextafter(np.float32(threshold), np.float32(0)))
        best[~stays] = at[~stays]
        nearest[begin - pool : end - pool] = best
        gone = np.flatnonzero(~stays)
        cells.there[sorted_place[begin + gone]] = False
        drops.append(begin + gone)
        winners.append(by[gone])
        similarities.append(at[gone])
    return Similar(
        np.concatenate(drops),
        np.concatenate(winners),
        np.concatenate(similarities),
        nearest,
        "clusters",
        recall,
        {"clusters": len(centres), "visited": visits, "recall_pairs": measured},
    )


def _compare(
    block: np.ndarray, visited: np.ndarray, begin: int, cells: _Cells, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compare a block with its clusters.

    Returns:
        Largest cosine per row, and the pairs (position, better-ranked position) near the threshold or above.
    """
    import numpy as np

    best = np.full(len(block), -1, np.float32)
    flat = visited.ravel()
    order = np.argsort(flat, kind="stable")
    clusters, firsts = np.unique(flat[order], return_index=True)
    asks = order // visited.shape[1]
    rows_found, others_found = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for c, first, last in zip(clusters.tolist(), firsts, np.append(firsts[1:], len(order)), strict=True):
        s, e = cells.starts[c], cells.starts[c + 1]
        e = s + np.searchsorted(cells.rows[s:e], begin + len(block))
        if s == e:
            continue
        q = asks[first:last]
        members = cells.rows[s:e]
        cosine = block[q] @ cells.vectors[s:e].T
        cosine[:, ~cells.there[s:e]] = -1
        inside = np.searchsorted(members, begin)  # members from here on are of this block
        if inside < len(members):
            cosine[:, inside:][members[inside:] >= (begin + q)[:, None]] = -1
        np.maximum.at(best, q, cosine.max(axis=1))
        r, m = np.nonzero(cosine >= threshold - _MARGIN)
        if len(r):
            few = np.arange(len(r)) - np.searchsorted(r, r) < _EDGES
            rows_found.append(begin + q[r[few]])
            others_found.append(members[m[few]])
    return best, np.concatenate(rows_found), np.concatenate(others_found)
