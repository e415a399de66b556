"""Families of near-duplicates: connected components of verified pairs, which come in instalments.

Of every family the best-ranked row stays (and rows of the pool, which always stay). Memory is that of the rows, however
many pairs link them.
"""

from __future__ import annotations

import numpy as np

from gra_hpc.merge.near.candidates import unpack


class Families:
    """Which rows belong together so far."""

    def __init__(self, rows: int) -> None:
        self.best = np.arange(rows)
        """int64 [rows], by rank: the best rank of its family; its own for a row without one."""
        self._pairs: np.ndarray = np.empty(0, np.uint64)
        self._similarity: np.ndarray = np.empty(0)
        """Of rows with the best of their family, where that pair was compared."""

    def apart(self, pairs: np.ndarray) -> np.ndarray:
        """The packed pairs whose rows are not of one family yet."""
        low, high = unpack(pairs)
        kept: np.ndarray = pairs[self.best[low] != self.best[high]]
        return kept

    def join(self, pairs: np.ndarray, similarity: np.ndarray) -> None:
        """Link the rows of pairs.

        Args:
            pairs: packed pairs of ranks that were not joined before, none twice.
            similarity: float64 [pairs].
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if not len(pairs):
            return
        low, high = unpack(pairs)
        nodes, flat = np.unique(np.concatenate([self.best[low], self.best[high]]), return_inverse=True)
        a, b = flat[: len(low)], flat[len(low) :]
        graph = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(len(nodes), len(nodes)))
        _, label = connected_components(graph, directed=False)
        _, first = np.unique(label, return_index=True)  # nodes ascend, so the first of a label ranks best
        self.best[nodes] = nodes[first[label]]
        self.best = self.best[self.best]
        pairs = np.concatenate([self._pairs, pairs])
        similarity = np.concatenate([self._similarity, similarity])
        low, high = unpack(pairs)
        direct = self.best[high] == low
        self._pairs, self._similarity = pairs[direct], similarity[direct]

    def known(self, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of these packed pairs of a best row and another were compared, and their similarity (else 0)."""
        result = np.zeros(len(pairs))
        if not len(self._pairs):
            return np.zeros(len(pairs), bool), result
        order = np.argsort(self._pairs)
        at = order[np.minimum(np.searchsorted(self._pairs, pairs, sorter=order), len(order) - 1)]
        found = self._pairs[at] == pairs
        result[found] = self._similarity[at[found]]
        return found, result
