"""The semantic step: the paper's greedy rule (method, step 4). In order of rank, a row is added to the target pool if
its largest cosine to everything already there stays below the threshold.

Up to `exact_rows` rows every pair is compared: blocks of rows against all rows kept so far, in 32-bit arithmetic, and
whatever comes within `MARGIN` of the threshold again in 64-bit, so that the result is that of brute force. Above,
`clusters` compares each row with the clusters nearest to it, and its recall is measured.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gra_hpc.merge.semantic import clusters
from gra_hpc.merge.semantic.rule import MARGIN, Similar, settle, unit_length
from gra_hpc.workers import Workers

log = logging.getLogger(__name__)

_BLOCK = 2048
_TILE = 16384


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
    return clusters.duplicates(vectors, pool, threshold, scratch, workers, memory)


def exact(vectors: np.ndarray, pool: int, threshold: float) -> Similar:
    """The greedy rule with every pair compared: identical to brute force."""
    n, d = vectors.shape
    kept = np.empty((n, d), np.float32)
    kept[:pool] = unit_length(vectors[:pool])
    place = np.empty(n, np.int64)
    place[:pool] = np.arange(pool)
    size = pool
    nearest = np.full(n - pool, -1, np.float32)
    drops, winners, similarities = [], [], []
    for begin in range(pool, n, _BLOCK):
        block = unit_length(vectors[begin : begin + _BLOCK])
        rows = len(block)
        best = np.full(rows, -1, np.float32)
        near_row, near_place = [], []
        for s in range(0, size, _TILE):
            e = min(s + _TILE, size)
            cosine = block @ kept[s:e].T
            np.maximum(best, cosine.max(axis=1), out=best)
            r, c = np.nonzero(cosine >= threshold - MARGIN)
            near_row.append(r)
            near_place.append(place[s + c])
        inside = block @ block.T
        earlier = np.tri(rows, k=-1, dtype=bool)
        r, c = np.nonzero((inside >= threshold - MARGIN) & earlier)
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
