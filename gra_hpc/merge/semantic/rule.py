"""The greedy rule of the semantic step, and what every way of applying it shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MARGIN = 1e-4
"""More than the rounding of a 32-bit dot product of two unit vectors."""


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
        counts, _ = np.histogram(np.clip(self.nearest, 0, 1), bins=BINS, range=(0, 1))
        return [int(c) for c in counts]


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """float32 [n, d] of length one (a zero vector stays)."""
    result = np.array(vectors, np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", result, result))
    result /= np.where(lengths > 0, lengths, 1)[:, None]
    return result


def where(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of what is true, in order: as `np.nonzero`, which takes five times as long where little is."""
    at = np.flatnonzero(mask)
    row, column = np.divmod(at, mask.shape[1])
    return row, column


def cosines(vectors: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines of pairs of rows in 64-bit arithmetic, float64 [pairs]."""
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
