"""Exact duplicates: rows whose instruction and response have one digest in normal form. The best-ranked stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gra_hpc.merge.index import Index


def duplicates(ix: Index, digests: Path, alive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find rows that repeat a better one.

    Args:
        ix: the rows.
        digests: 16 bytes per row.
        alive: bool [rows], by rank: which rows take part.

    Returns:
        Ranks to drop, ascending, and for each the rank of the row that stays.
    """
    if not len(ix):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    halves = np.fromfile(digests, "<u8").reshape(-1, 2)[ix.row]  # by rank
    ranks = np.flatnonzero(alive)
    halves = halves[ranks]
    order = np.argsort(halves[:, 0], kind="stable")  # by rank among equals
    first = halves[order, 0]
    same = first[1:] == first[:-1]
    inside = np.zeros(len(order), bool)
    inside[1:] |= same
    inside[:-1] |= same
    order = order[inside]  # only rows that share their first half
    order = order[np.lexsort((order, halves[order, 1], halves[order, 0]))]
    group = np.ones(len(order), bool)
    group[1:] = (halves[order[1:]] != halves[order[:-1]]).any(axis=1)
    begins = np.flatnonzero(group)
    leader = np.repeat(order[begins], np.diff(np.append(begins, len(order))))
    drop, winner = ranks[order[~group]], ranks[leader[~group]]
    new = drop >= ix.pool  # twins within the pool are none of our business
    drop, winner = drop[new], winner[new]
    by_rank = np.argsort(drop)
    return drop[by_rank], winner[by_rank]
