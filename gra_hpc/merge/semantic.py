"""The semantic step: the paper's greedy rule (method, step 4). In order of rank, a row is added to the target pool if
its largest cosine to everything already there stays below the threshold.

Up to `exact_rows` rows every pair is compared: blocks of rows against all rows kept so far, in 32-bit arithmetic, and
whatever comes within `_MARGIN` of the threshold again in 64-bit, so that the result is that of brute force. Above,
`clusters` compares each row with the clusters nearest to it, and its recall is measured.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from gra_hpc.merge.workers import Workers

log = logging.getLogger(__name__)

_MARGIN = 1e-4
"""More than the rounding of a 32-bit dot product of two unit vectors."""
_BLOCK = 2048
_TILE = 16384
BINS = 50
"""Bins of the similarity histogram between 0 and 1."""


@dataclass(frozen=True)
class Similar:
    """Rows the greedy rule drops."""

    drop: np.ndarray
    """Positions, ascending."""
    winner: np.ndarray
    """For each the most similar row that was kept before it."""
    similarity: np.ndarray
    """For each the cosine with it."""
    nearest: np.ndarray
    """float32 [rows - pool]: each new row's largest cosine to what was kept before it (approximate: to what was
    compared); -1 if there was nothing."""
    method: str
    recall: float | None
    """Approximate: share of true pairs above the threshold that were met, measured on a sample; none: not measurable,
    the sample had too few."""
    detail: dict[str, float | None]
    """Approximate: how it searched, and what the recall rests on."""

    def histogram(self) -> list[int]:
        """Rows by `nearest`, in `BINS` equal bins from 0 to 1; below 0 counts as 0."""
        import numpy as np

        counts, _ = np.histogram(np.clip(self.nearest, 0, 1), bins=BINS, range=(0, 1))
        return [int(c) for c in counts]


def approximate(found: Mapping[str, Any] | None) -> str:
    """What a merge says of an approximate search, in words; empty where every pair was compared.

    Args:
        found: the semantic step's entry in the manifest.
    """
    if not found or found["method"] != "clusters":
        return ""
    pairs = found.get("recall_pairs", 0)
    if found["recall"] is None:
        few = f"{pairs} such pair{'' if pairs == 1 else 's'} of {found.get('sampled', 0):,} sampled rows"
        return f"approximate, its recall not measurable: {few}"
    low = found.get("recall_low")
    least = "" if low is None else f", 95% interval from {low:.4f}"
    return f"approximate, measured recall {found['recall']:.4f} ({pairs:,} pairs{least})"


def duplicates(
    vectors: np.ndarray,
    pool: int,
    threshold: float,
    scratch: Path,
    workers: Workers,
    exact_rows: int = 200_000,
    memory: int = 4 << 30,
) -> Similar:
    """Apply the greedy rule.

    Args:
        vectors: float16 [rows, d] in order of rank, the pool first; lengths near one.
        pool: rows that are in the target pool from the start.
        threshold: cosine from which a row is dropped.
        scratch: directory for temporary files.
        workers: processes for the approximate search.
        exact_rows: up to this many rows all pairs are compared.
        memory: bytes that the approximate search may take.
    """
    if len(vectors) <= exact_rows:
        return exact(vectors, pool, threshold)
    from gra_hpc.merge import clusters

    return clusters.duplicates(vectors, pool, threshold, scratch, workers, memory)


def exact(vectors: np.ndarray, pool: int, threshold: float) -> Similar:
    """The greedy rule with every pair compared: identical to brute force."""
    import numpy as np

    n, d = vectors.shape
    kept = np.empty((n, d), np.float32)
    kept[:pool] = unit(vectors[:pool])
    place = np.empty(n, np.int64)
    place[:pool] = np.arange(pool)
    size = pool
    nearest = np.full(n - pool, -1, np.float32)
    drops, winners, similarities = [], [], []
    for begin in range(pool, n, _BLOCK):
        block = unit(vectors[begin : begin + _BLOCK])
        rows = len(block)
        best = np.full(rows, -1, np.float32)
        near_row, near_place = [], []
        for s in range(0, size, _TILE):
            e = min(s + _TILE, size)
            cosine = block @ kept[s:e].T
            np.maximum(best, cosine.max(axis=1), out=best)
            r, c = np.nonzero(cosine >= threshold - _MARGIN)
            near_row.append(r)
            near_place.append(place[s + c])
        inside = block @ block.T
        earlier = np.tri(rows, k=-1, dtype=bool)
        r, c = np.nonzero((inside >= threshold - _MARGIN) & earlier)
        near_row.append(r)
        near_place.append(begin + c)
        row, other = np.concatenate(near_row), np.concatenate(near_place)
        stays, by, at = settle(vectors, row + begin, other, begin, rows, threshold)
        alive = np.flatnonzero(stays)
        if len(alive):
            best = np.maximum(best, np.where(earlier[:, alive], inside[:, alive], -1).max(axis=1))
        nearest[begin - pool : begin - pool + rows] = best
        gone = np.flatnonzero(~stays)
        drops.append(begin + gone)
        winners.append(by[gone])
        similarities.append(at[gone])
        kept[size : size + len(alive)] = block[alive]
        place[size : size + len(alive)] = begin + alive
        size += len(alive)
    return Similar(
        np.concatenate([np.empty(0, np.int64), *drops]),
        np.concatenate([np.empty(0, np.int64), *winners]),
        np.concatenate([np.empty(0), *similarities]),
        nearest,
        "exact",
        None,
        {},
    )


def unit(vectors: np.ndarray) -> np.ndarray:
    """float32 [n, d] of length one (a zero vector stays)."""
    import numpy as np

    v = np.asarray(vectors, np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", v, v, dtype=np.float64))
    return (v / np.where(lengths > 0, lengths, 1)[:, None]).astype(np.float32)


def cosines(vectors: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines of pairs of rows in 64-bit arithmetic, float64 [pairs]."""
    import numpy as np

    result = np.empty(len(a))
    for s in range(0, len(a), 65536):
        x = vectors[a[s : s + 65536]].astype(np.float64)
        y = vectors[b[s : s + 65536]].astype(np.float64)
        lengths = np.sqrt(np.einsum("ij,ij->i", x, x) * np.einsum("ij,ij->i", y, y))
        result[s : s + 65536] = np.einsum("ij,ij->i", x, y) / np.where(lengths > 0, lengths, 1)
    return result


def settle(
    vectors: np.ndarray, row: np.ndarray, other: np.ndarray, begin: int, rows: int, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Greedy decisions for one block, from all its candidate pairs.

    Args:
        vectors: float16 [all rows, d].
        row: positions in the block [pairs].
        other: the better-ranked position of each pair: kept before the block, or in the block.
        begin: first position of the block.
        rows: rows of the block.
        threshold: cosine from which a row is dropped.

    Returns:
        Which rows of the block stay, and for each dropped one the most similar kept row and the cosine with it.
    """
    import numpy as np

    stays = np.ones(rows, bool)
    winner = np.full(rows, -1, np.int64)
    similarity = np.zeros(rows)
    cosine = cosines(vectors, row, other)
    near = cosine >= threshold
    row, other, cosine = row[near] - begin, other[near], cosine[near]
    order = np.lexsort((other, -cosine, row))  # most similar first, the better-ranked of equals
    row, other, cosine = row[order], other[order], cosine[order]
    if not len(row):
        return stays, winner, similarity
    firsts = np.flatnonzero(np.concatenate([[True], row[1:] != row[:-1]]))
    for first, end in zip(firsts, np.append(firsts[1:], len(row)), strict=True):
        candidates = other[first:end]
        there = (candidates < begin) | stays[np.maximum(candidates - begin, 0)]
        if there.any():
            i = first + int(there.argmax())
            r = row[first]
            stays[r], winner[r], similarity[r] = False, other[i], cosine[i]
    return stays, winner, similarity
