"""The examples most like an item: exact, by cosine, in blocks."""

from __future__ import annotations

import numpy as np

_CELLS = 1 << 24
"""Similarities in memory at once: 64 MiB."""


def nearest(queries: np.ndarray, pool: np.ndarray, k: int, barred: np.ndarray | None = None) -> np.ndarray:
    """The k rows of a pool that are most similar to each query, most similar first; among equals the earlier row.

    Args:
        queries: float [n, d], rows of length one.
        pool: float [m, d], rows of length one.
        k: how many; fewer where the pool has no more.
        barred: int [n], the row of the pool that a query must not get (itself), -1 for none.

    Returns:
        int64 [n, min(k, m)]; -1 where only the barred row is left.
    """
    k = min(k, len(pool))
    out = np.full((len(queries), k), -1, np.int64)
    if not k:
        return out
    columns = pool.astype(np.float32).T
    rows = max(1, _CELLS // len(pool))
    for start in range(0, len(queries), rows):
        similar = queries[start : start + rows].astype(np.float32) @ columns
        if barred is not None:
            own = barred[start : start + rows]
            similar[np.flatnonzero(own >= 0), own[own >= 0]] = -np.inf
        bound = np.partition(similar, len(pool) - k, axis=1)[:, len(pool) - k]
        for i, row in enumerate(similar):
            among = np.flatnonzero((row >= bound[i]) & (row > -np.inf))
            best = among[np.argsort(-row[among], kind="stable")][:k]
            out[start + i, : len(best)] = best
    return out
