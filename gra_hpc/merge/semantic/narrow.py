"""Fewer dimensions, in which cells are cut and it is seen what cannot be near.

The cosine of two vectors of d numbers shows, but for chance, in their projections on m directions drawn at random
(Johnson and Lindenstrauss 1984), whatever the vectors are; that chance is a normal one in the cosine's inverse
hyperbolic tangent, with a deviation of at most 1 / sqrt(m - 3) (Fisher 1921). A product of m numbers costs a third of
one of 3m.
"""

from __future__ import annotations

import math

import numpy as np

from gra_hpc.merge.semantic.rule import unit_length

_DIRECTIONS = 128
_DEVIATIONS = 5.0
"""Of pairs at the threshold, one of a million seems farther apart than so many standard deviations."""


def directions(d: int, rng: np.random.Generator) -> np.ndarray:
    """Orthonormal directions, float32 [d, m]; of vectors shorter than twice m, all d."""
    if d < 2 * _DIRECTIONS:
        return np.eye(d, dtype=np.float32)
    return np.linalg.qr(rng.standard_normal((d, _DIRECTIONS)))[0].astype(np.float32)


def keeps_all(space: np.ndarray) -> bool:
    """Whether nothing is left out along these directions."""
    return space.shape[0] == space.shape[1]


def narrow(vectors: np.ndarray, space: np.ndarray) -> np.ndarray:
    """Unit vectors seen along some directions, again of unit length, float32 [n, m]."""
    return vectors if keeps_all(space) else unit_length(vectors @ space)


def least_seen(threshold: float, space: np.ndarray) -> float:
    """The cosine that a pair at the threshold has at least along some directions, but for chance."""
    if keeps_all(space):
        return threshold
    return math.tanh(math.atanh(min(threshold, 1 - 1e-6)) - _DEVIATIONS / math.sqrt(space.shape[1] - 3))
