"""Which of the near-duplicates stay: best first, and a row goes only for a verified near-duplicate that stays.

A row is near another, and that one near a third; but the first need not be near the third. So no row is dropped through
others: of a hundred rows, each near the next alone, every second one stays. (One row per connected component, the usual
rule, leaves one of a hundred.)

Verified pairs come in instalments where memory does not hold all candidates. What is decided early is never wrong: the
best-ranked row of all its buckets has no better one to go for, so that it stays; who is near it, goes; and pairs of a
row that goes matter no more. So the outcome does not depend on the instalments.
"""

from __future__ import annotations

import numpy as np

from gra_hpc.merge.near.candidates import unpack


class Decisions:
    """What is known so far of every row, by rank.

    Args:
        rows: how many there are.
        pool: so many of them, the first, always stay.
    """

    def __init__(self, rows: int, pool: int) -> None:
        self._rows, self._pool = rows, pool
        self._follows = np.zeros(rows, bool)
        """Whether a better-ranked row shares a bucket with it."""
        self._winner = np.full(rows, rows, np.int64)
        """The best-ranked row that stays for certain and is near it; `rows`: none is known."""
        self._early = False
        self._pairs = np.empty(0, np.uint64)
        self._similarity = np.empty(0)

    def bucketed(self, rank: np.ndarray, begins: np.ndarray) -> None:
        """Note who follows whom in the buckets of a band (`candidates.buckets`)."""
        first = np.zeros(len(rank), bool)
        first[begins] = True
        self._follows[rank[~first]] = True

    def decide_early(self) -> None:
        """All bands have been noted: whoever follows nobody stays."""
        self._early = True

    def open(self, pairs: np.ndarray) -> np.ndarray:
        """The packed pairs that may still change what is decided, and were not found to be near before."""
        low, high = unpack(pairs)
        kept: np.ndarray = pairs[(self._winner[low] == self._rows) & (low < self._winner[high])]
        return kept[~np.isin(kept, self._pairs)] if len(self._pairs) else kept

    def add(self, pairs: np.ndarray, similarity: np.ndarray) -> None:
        """Take verified near-duplicates.

        Args:
            pairs: packed pairs of ranks, none twice.
            similarity: float64 [pairs].
        """
        self._pairs = np.concatenate([self._pairs, pairs])
        self._similarity = np.concatenate([self._similarity, similarity])
        if self._early:
            low, high = unpack(self._pairs)
            stays = (low < self._pool) | ~self._follows[low]
            np.minimum.at(self._winner, high[stays], low[stays])
            matters = (self._winner[low] == self._rows) & (low <= self._winner[high])
            self._pairs, self._similarity = self._pairs[matters], self._similarity[matters]

    def final(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Decide what is open, in order of rank.

        Returns:
            Ranks to drop, ascending; for each the best-ranked near-duplicate that stays, and the similarity with it.
        """
        low, high = unpack(self._pairs)
        order = np.lexsort((low, high))
        stays = bytearray(b"\x01") * self._rows
        chosen = []
        for i, better, row in zip(order.tolist(), low[order].tolist(), high[order].tolist(), strict=True):
            if stays[row] and stays[better]:
                stays[row] = 0
                chosen.append(i)
        picked = np.array(chosen, np.int64)
        return high[picked], low[picked], self._similarity[picked]
