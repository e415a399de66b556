"""One item's votes: what most annotators say, each with a weight, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

L = TypeVar("L", bound=Hashable)


class Tally(NamedTuple, Generic[L]):
    """What the votes of an item come to."""

    label: L
    """The one with most weight; among equals the first in the labels' order."""
    share: float
    """Of the weight, how much is for it: 0 to 1."""
    tied: bool
    """Another label has as much."""


def tally(votes: Sequence[L], order: Sequence[L], weights: Sequence[float] = ()) -> Tally[L]:
    """Majority, or the largest sum of weights.

    Args:
        votes: a label each, at least one.
        order: all labels: ties go to the first of them.
        weights: of the votes, positive; none: all are 1.

    Raises:
        ValueError: no votes.
    """
    if not votes:
        raise ValueError("no votes")
    sums: dict[L, list[float]] = {}
    for vote, weight in zip(votes, weights or [1.0] * len(votes), strict=True):
        sums.setdefault(vote, []).append(weight)
    total = {label: math.fsum(sums[label]) for label in order if label in sums}
    best = max(total.values())
    first, *others = [label for label, t in total.items() if math.isclose(t, best, rel_tol=1e-12)]
    return Tally(first, best / math.fsum(total.values()), bool(others))


def median(scores: Sequence[int], weights: Sequence[float] = ()) -> int:
    """The lower weighted median: the smallest score at which half of the weight is reached.

    Raises:
        ValueError: no scores.
    """
    if not scores:
        raise ValueError("no scores")
    pairs = sorted(zip(scores, weights or [1.0] * len(scores), strict=True))
    half, so_far = math.fsum(w for _, w in pairs) / 2, 0.0
    for score, weight in pairs:
        so_far += weight
        if so_far >= half - 1e-12:
            return score
    return pairs[-1][0]


def each(sets: Sequence[frozenset[L]], order: Sequence[L], weights: Sequence[float] = ()) -> Mapping[L, float]:
    """Of the weight, how much says that a label (a span) belongs to the item: by label, for all that anybody names.

    Raises:
        ValueError: no annotators.
    """
    if not sets:
        raise ValueError("no annotators")
    given = list(weights or [1.0] * len(sets))
    total = math.fsum(given)
    return {
        label: found
        for label in order
        if (found := math.fsum(w for s, w in zip(sets, given, strict=True) if label in s) / total) > 0
    }
