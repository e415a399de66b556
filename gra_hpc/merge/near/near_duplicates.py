"""Near-duplicates: MinHash bands propose pairs, the real Jaccard similarity of word shingles decides; best first, a row
goes only for a near-duplicate that stays (`decisions`). Rows of the pool always stay.

Pairs are verified on the shingle sets of the rows that occur in pairs, read again from the tables: all bands' at once,
or, where memory does not hold them, in instalments. After one, pairs that can change nothing are not looked at.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from gra_hpc.merge.index import Index, Unit
from gra_hpc.merge.near.candidates import buckets, candidate_pairs, unpack
from gra_hpc.merge.near.decisions import Decisions
from gra_hpc.merge.signatures import Signing, texts_of
from gra_hpc.signatures.signing import shingles
from gra_hpc.text.words import Hashes, unique_sorted
from gra_hpc.workers import Workers

log = logging.getLogger(__name__)

_LEAST_PAIRS = 1_000_000
"""Candidate pairs that are held whatever the memory."""
_PAIR_BYTES = 96
"""What a candidate pair takes while it is verified."""
_BATCH = 8192
"""Rows read at a time, of which some occur in pairs."""
_CHUNK = 8_000_000
"""Shingles verified at a time."""


@dataclass(frozen=True)
class Near:
    """Near-duplicates found."""

    drop: np.ndarray
    """Ranks, ascending."""
    winner: np.ndarray
    """For each the rank of the best near-duplicate that stays."""
    similarity: np.ndarray
    """For each its Jaccard similarity with the winner."""
    candidates: int
    """Pairs compared."""
    pairs: int
    """Of these, at or above the threshold."""


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
        memory: bytes that candidate pairs may take (those of a million are always held).
    """
    assert what.banding
    counts = np.fromfile(what.counts, np.uint32)
    usable = alive & (counts[ix.row] > 0) if len(ix) else alive
    limit = max(_LEAST_PAIRS, memory // _PAIR_BYTES)
    decisions = Decisions(len(ix), ix.pool)
    pending: list[np.ndarray] = []
    held = candidates = near_pairs = 0

    def tidy() -> None:
        nonlocal held
        pending[:] = [np.unique(np.concatenate([np.empty(0, np.uint64), *pending]))]
        held = len(pending[0])

    def settle() -> None:
        nonlocal held, candidates, near_pairs
        tidy()
        pairs, held = pending.pop(), 0
        similarity = jaccard(ix, what, pairs, counts, workers)
        near = similarity >= threshold
        candidates += len(pairs)
        near_pairs += int(near.sum())
        decisions.add(pairs[near], similarity[near])

    def band(b: int) -> tuple[np.ndarray, np.ndarray]:
        return buckets(np.fromfile(what.band(b), np.uint64), ix, usable)

    in_instalments = False
    for b in range(what.banding.bands):
        rank, begins = band(b)
        if not what.keep:
            what.band(b).unlink()
        decisions.bucketed(rank, begins)
        for pairs in candidate_pairs(rank, begins, ix.pool, limit // 8):
            pending.append(decisions.open(pairs) if in_instalments else pairs)
            held += len(pending[-1])
            if held > limit - limit // 8:
                tidy()
                if held > limit // 2:  # huge families of near-equal rows
                    if not in_instalments:
                        in_instalments = True
                        for later in range(b + 1, what.banding.bands):
                            decisions.bucketed(*band(later))
                        decisions.decide_early()
                    settle()
    settle()
    return Near(*decisions.final(), candidates, near_pairs)


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
            asked.append((unit, rows[a:b], offsets[a : b + 1], path, what.rule.shingle))
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
    unit, rows, offsets, path, size = asked
    lengths = np.zeros(len(rows), np.int64)
    fd = os.open(path, os.O_WRONLY)
    try:
        for row, instructions, responses in texts_of(unit, _BATCH, rows):
            at = np.searchsorted(rows, row)
            n = len(instructions)
            sets = unique_sorted(shingles(instructions, responses, size))
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
    return np.arange(len(sets.values)) - np.repeat(sets.offsets[:-1], sets.counts)


def _compare(asked: tuple[Path, np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Jaccard similarity of pairs of sets in a file, by sorting (pair, hash) and counting neighbours that agree."""
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
