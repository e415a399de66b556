"""Pairs of rows that agree on a whole MinHash band: candidates for near-duplicates, in blocks of bounded size.

Keys and ranks are packed into one integer each and sorted; equal keys, a bucket, are neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gra_hpc.merge.index import Index

ALL_PAIRS = 64
"""Buckets up to this size are compared completely; in larger ones each row meets the best-ranked and its neighbours."""
LEADERS = 16
"""Best-ranked rows, and next neighbours in rank, that each row of a larger bucket is compared with."""


def pack(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Two ranks in one integer."""
    return (low.astype(np.uint64) << np.uint64(32)) | high.astype(np.uint64)


def unpack(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two ranks of a pair, the better first."""
    return (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)


def candidate_pairs(rank: np.ndarray, begins: np.ndarray, pool: int, most: int) -> Iterator[np.ndarray]:
    """Pairs of ranks whose keys agree; at least one of each is not of the pool.

    Args:
        rank: rows that share a key, bucket by bucket (`buckets`).
        begins: where buckets begin.
        pool: rows of the pool.
        most: pairs in a block (at least `ALL_PAIRS`): a corpus that repeats itself has 32 for each of its rows.

    Yields:
        Packed pairs, ascending, none twice; two blocks may share some.
    """
    begins = np.append(begins, len(rank))
    step = max(1, most // ALL_PAIRS)
    for s in range(0, len(rank), step):
        e = min(s + step, len(rank))
        first, last = np.searchsorted(begins, s, "right") - 1, np.searchsorted(begins, e)
        cuts = np.clip(begins[first : last + 1], s, e)
        bucket = np.repeat(np.arange(first, last), np.diff(cuts))
        begin = begins[bucket]
        yield _pairs_at(np.arange(s, e), begin, begins[bucket + 1] - begin, rank, pool)


def buckets(keys: np.ndarray, ix: Index, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks that share a key with another, bucket by bucket in order of rank, and where buckets begin.

    Args:
        keys: uint64 [rows], by row.
        ix: the rows.
        usable: bool [rows], by rank.
    """
    # The key gives up its lowest bits to the rank: what that merges by chance, verification parts again.
    bits = np.uint64(max(1, len(keys).bit_length()))
    packed = (keys[ix.row] >> bits) << bits
    packed |= np.arange(len(keys), dtype=np.uint64)
    packed = packed[usable]
    packed.sort()
    key = packed >> bits
    same = key[1:] == key[:-1]
    inside = np.zeros(len(key), bool)
    inside[1:] |= same
    inside[:-1] |= same
    key = key[inside]
    rank = (packed[inside] & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
    begins = np.flatnonzero(np.concatenate([np.ones(min(1, len(key)), bool), key[1:] != key[:-1]]))
    return rank, begins


def _pairs_at(at: np.ndarray, begin: np.ndarray, size: np.ndarray, rank: np.ndarray, pool: int) -> np.ndarray:
    """Pairs of some places with what comes after them in their bucket, and with the leaders of a large one.

    Args:
        at: places [n].
        begin: where the bucket of each begins.
        size: rows of that bucket.
        rank: rank at every place.
        pool: rows of the pool.
    """
    place = at - begin
    found = []
    reach = np.minimum(np.where(size <= ALL_PAIRS, size - 1, LEADERS), size - 1 - place)
    far = at
    for d in range(1, ALL_PAIRS):
        far, reach = far[reach >= d], reach[reach >= d]
        if not len(far):
            break
        found.append(_new(rank[far], rank[far + d], pool))
    large = size > ALL_PAIRS
    for leader in range(LEADERS if large.any() else 0):
        some = large & (place > leader)
        found.append(_new(rank[begin[some] + leader], rank[at[some]], pool))
    return np.unique(np.concatenate([np.empty(0, np.uint64), *found]))


def _new(low: np.ndarray, high: np.ndarray, pool: int) -> np.ndarray:
    new = high >= pool
    return pack(low[new], high[new])
