"""Fewer dimensions, in which it is seen what cannot be near.

The cosine of two vectors of d numbers shows, but for chance, in their projections on m directions drawn at random
(Johnson and Lindenstrauss 1984): it is off by (1 - cosine^2) / sqrt(m), one standard deviation, whatever the vectors
are. A product of m numbers costs a third of one of 3m.
"""

from __future__ import annotations

import math

import numpy as np

from gra_hpc.merge.semantic.rule import unit_length

_DIRECTIONS = 128
_DEVIATIONS = 5.0
"""Of a pair at the threshold, one of 3,500,000 seems farther apart than so many standard deviations."""


def directions(d: int, rng: np.random.Generator) -> np.ndarray:
    """Orthonormal directions, float32 [d, m]; of vectors that are hardly longer than m, all d."""
    if d < 2 * _DIRECTIONS:
        return np.eye(d, dtype=np.float32)
    return np.linalg.qr(rng.standard_normal((d, _DIRECTIONS)))[0].astype(np.float32)


def narrow(vectors: np.ndarray, space: np.ndarray) -> np.ndarray:
    """Unit vectors seen along some directions, again of unit length, float32 [n, m]."""
    return vectors if space.shape[0] == space.shape[1] else unit_length(vectors @ space)


def seems(threshold: float, space: np.ndarray) -> float:
    """The cosine that a pair at the threshold has at least along some directions, but for chance."""
    if space.shape[0] == space.shape[1]:
        return threshold
    return threshold - _DEVIATIONS * (1 - threshold**2) / math.sqrt(space.shape[1])
