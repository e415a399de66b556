"""Near-duplicates: MinHash bands propose pairs, the real Jaccard similarity of word shingles decides, and of every
connected component the best-ranked row stays (and rows of the pool, which always stay).

Per band, keys and ranks are packed into one integer each and sorted; equal keys are neighbours. Pairs are verified on
the shingle sets of the rows that occur in pairs, read again from the tables.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from gra_hpc.merge import signing
from gra_hpc.merge.index import Index, Unit
from gra_hpc.merge.signing import Signing
from gra_hpc.merge.words import Hashes, unique_sorted
from gra_hpc.merge.workers import Workers

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

ALL_PAIRS = 64
"""Buckets up to this size are compared completely; in larger ones each row meets the best-ranked and its neighbours."""
LEADERS = 16
"""Best-ranked rows, and next neighbours in rank, that each row of a larger bucket is compared with."""
_LEAST_PAIRS = 1_000_000
"""Candidate pairs that are held whatever the memory."""
_CHUNK = 8_000_000
"""Shingles verified at a time."""


@dataclass(frozen=True)
class Near:
    """Near-duplicates found."""

    drop: np.ndarray
    """Ranks, ascending."""
    winner: np.ndarray
    """For each the rank of the row that stays."""
    similarity: np.ndarray
    """For each its Jaccard similarity with the winner."""
    linked: np.ndarray
    """For each whether it is near the winner only through other near-duplicates."""
    candidates: int
    """Pairs compared."""
    pairs: int
    """Pairs at or above the threshold."""


def duplicates(
    ix: Index, what: Signing, alive: np.ndarray, threshold: float, workers: Workers, memory: int = 2 << 30
) -> Near:
    """Find near-duplicates among the rows that take part.

    Args:
        ix: the rows.
        what: the signing pass that was run.
        alive: bool [rows], by rank.
        threshold: Jaccard similarity from which two rows are near-duplicates.
        workers: processes that read and compare.
        memory: bytes that candidate pairs may take.
    """
    import numpy as np

    assert what.banding
    counts = np.fromfile(what.counts, np.uint32)
    usable = alive & (counts[ix.row] > 0) if len(ix) else alive
    limit = max(_LEAST_PAIRS, memory // 64)
    pending: list[np.ndarray] = []
    edges: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    candidates = 0

    def settle() -> None:
        nonlocal candidates
        pairs = np.unique(np.concatenate(pending)) if pending else np.empty(0, np.uint64)
        pending.clear()
        similarity = jaccard(ix, what, pairs, counts, workers)
        near = similarity >= threshold
        candidates += len(pairs)
        edges.append(pairs[near])
        weights.append(similarity[near])

    for b in range(what.banding.bands):
        keys = np.fromfile(what.band(b), np.uint64)
        what.band(b).unlink()
        pending.append(candidate_pairs(keys, ix, usable))
        if sum(map(len, pending)) > limit // 4:
            pending[:] = [np.unique(np.concatenate(pending))]
        if len(pending[0]) > limit:  # huge families of near-equal rows: in instalments
            settle()
    settle()
    pairs, first = np.unique(np.concatenate(edges), return_index=True)
    similarity = np.concatenate(weights)[first]
    drop, winner = components(pairs, ix.pool)
    # Similarity with the winner, for rows that were not compared with it directly.
    direct = pack(winner, drop)
    at = np.searchsorted(pairs, direct)
    found = (at < len(pairs)) & (pairs[np.minimum(at, len(pairs) - 1)] == direct) if len(pairs) else at < 0
    result = np.empty(len(drop))
    result[found] = similarity[at[found]]
    others = direct[~found]
    order = np.argsort(others)
    extra = np.empty(len(others))
    extra[order] = jaccard(ix, what, others[order], counts, workers)
    result[~found] = extra
    return Near(drop, winner, result, ~found & (result < threshold), candidates, len(pairs))


def pack(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Two ranks in one integer."""
    import numpy as np

    return (low.astype(np.uint64) << np.uint64(32)) | high.astype(np.uint64)


def unpack(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two ranks of a pair, the better first."""
    import numpy as np

    return (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)


def candidate_pairs(keys: np.ndarray, ix: Index, usable: np.ndarray) -> np.ndarray:
    """Pairs of ranks whose keys agree, packed; at least one of each is not of the pool.

    Args:
        keys: uint64 [rows], by row.
        ix: the rows.
        usable: bool [rows], by rank.
    """
    import numpy as np

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
    del packed, same, inside
    if not len(key):
        return np.empty(0, np.uint64)
    begins = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    sizes = np.diff(np.append(begins, len(key)))
    size = np.repeat(sizes, sizes)
    place = np.arange(len(key)) - np.repeat(begins, sizes)
    found = []
    reach = np.where(size <= ALL_PAIRS, size - 1, LEADERS)
    at = np.arange(len(key))
    for d in range(1, ALL_PAIRS):
        at = at[(place[at] + d < size[at]) & (reach[at] >= d)]
        if not len(at):
            break
        found.append(_pairs(rank[at], rank[at + d], ix.pool))
    for leader in range(LEADERS):
        at = np.flatnonzero((size > ALL_PAIRS) & (place > leader))
        if not len(at):
            break
        found.append(_pairs(rank[at - place[at] + leader], rank[at], ix.pool))
    return np.unique(np.concatenate(found))


def _pairs(low: np.ndarray, high: np.ndarray, pool: int) -> np.ndarray:
    new = high >= pool
    return pack(low[new], high[new])


def components(pairs: np.ndarray, pool: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to drop and the row of their component that stays, from verified pairs."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(pairs):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    low, high = unpack(pairs)
    nodes, flat = np.unique(np.concatenate([low, high]), return_inverse=True)
    a, b = flat[: len(low)], flat[len(low) :]
    graph = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(len(nodes), len(nodes)))
    _, label = connected_components(graph, directed=False)
    _, best = np.unique(label, return_index=True)  # nodes ascend, so the first of a label ranks best
    winner = nodes[best[label]]
    drop = (winner != nodes) & (nodes >= pool)
    return nodes[drop], winner[drop]


def jaccard(ix: Index, what: Signing, pairs: np.ndarray, counts: np.ndarray, workers: Workers) -> np.ndarray:
    """Jaccard similarity of the shingle sets of pairs.

    Args:
        ix: the rows.
        what: the signing pass.
        pairs: packed pairs of ranks, ascending.
        counts: uint32 [rows]: shingles per row, repeats counted.
        workers: processes that read and compare.

    Returns:
        float64 [pairs].
    """
    import numpy as np

    if not len(pairs):
        return np.empty(0)
    low, high = unpack(pairs)
    ranks = np.unique(np.concatenate([low, high]))
    rows = np.sort(ix.row[ranks])
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(counts[rows], out=offsets[1:])
    path = what.scratch / "sets"
    with path.open("wb") as f:
        f.truncate(int(offsets[-1]) * 4)
    asked = []
    for unit in ix.units():
        a, b = np.searchsorted(rows, [unit.start, unit.start + unit.rows])
        if b > a:
            asked.append((unit, rows[a:b], offsets[a : b + 1], path, what.shingle))
    lengths = np.concatenate(list(workers.map(_write_sets, asked)))
    place_low = np.searchsorted(rows, ix.row[low])
    place_high = np.searchsorted(rows, ix.row[high])
    cost = np.cumsum(lengths[place_low] + lengths[place_high])
    cuts = np.searchsorted(cost, np.arange(_CHUNK, cost[-1] + _CHUNK, _CHUNK)) + 1
    cuts = np.unique(np.concatenate([[0], np.minimum(cuts, len(pairs))]))
    chunks = []
    for s, e in pairwise(cuts.tolist()):
        a, b = place_low[s:e], place_high[s:e]
        chunks.append((path, offsets[a], lengths[a], offsets[b], lengths[b]))
    result = np.concatenate(list(workers.map(_compare, chunks)))
    path.unlink()
    return result


def _write_sets(asked: tuple[Unit, np.ndarray, np.ndarray, Path, int]) -> np.ndarray:
    """Write the shingle sets of some rows of a unit, each at its place; their sizes, int64 [rows]."""
    import numpy as np

    unit, rows, offsets, path, size = asked
    lengths = np.zeros(len(rows), np.int64)
    fd = os.open(path, os.O_WRONLY)
    try:
        for row, instructions, responses in signing.texts(unit, rows=rows):
            at = np.searchsorted(rows, row)
            n = len(instructions)
            sets = unique_sorted(signing.shingles(instructions, responses, size))
            lengths[at : at + n] = sets.counts
            begin = offsets[at]
            slots = np.zeros(offsets[at + n] - begin, np.uint32)
            slots[np.repeat(offsets[at : at + n] - begin, sets.counts) + _within(sets)] = sets.values
            data, where = slots.tobytes(), int(begin) * 4
            while data:
                written = os.pwrite(fd, data, where)
                data, where = data[written:], where + written
    finally:
        os.close(fd)
    return lengths


def _within(sets: Hashes) -> np.ndarray:
    import numpy as np

    return np.arange(len(sets.values)) - np.repeat(sets.offsets[:-1], sets.counts)


def _compare(asked: tuple[Path, np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Jaccard similarity of pairs of sets in a file, by sorting (pair, hash) and counting neighbours that agree."""
    import numpy as np

    path, at_a, n_a, at_b, n_b = asked
    sets = np.memmap(path, np.uint32, "r")
    keys = []
    for at, n in ((at_a, n_a), (at_b, n_b)):
        begins = np.concatenate([[0], np.cumsum(n)[:-1]])
        flat = np.repeat(at - begins, n) + np.arange(n.sum())
        pair = np.repeat(np.arange(len(n), dtype=np.uint64) << np.uint64(32), n)
        keys.append(pair | sets[flat])
    del sets
    key = np.concatenate(keys)
    key.sort()
    both = key[1:][key[1:] == key[:-1]] >> np.uint64(32)
    shared = np.bincount(both.astype(np.int64), minlength=len(n_a))
    return shared / (n_a + n_b - shared)
