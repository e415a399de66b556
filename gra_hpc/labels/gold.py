"""Labels beside people's: accuracy, macro-F1, kappa, each with an interval; and whether the committee can stand in for
one of the people.

All figures are functions of a confusion matrix [gold, said], and drawing items anew is drawing its cells anew: a
bootstrap costs the same for a hundred items and for a million.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLED = 1000
UNKNOWN = -1
"""No label: undecided, or not seen by this person."""


@dataclass(frozen=True)
class Figure:
    """A figure with its 95% interval; none where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def __format__(self, digits: str) -> str:
        """As text; `digits` as of one number, `.3f` if there is none."""
        if self.value is None:
            return "–"
        value, low, high = (
            format(x, digits or ".3f") if x is not None else "" for x in (self.value, self.low, self.high)
        )
        return f"{value} ({low} to {high})" if low else value

    def __str__(self) -> str:
        return format(self)


def confusion(gold: np.ndarray, said: np.ndarray, labels: int) -> np.ndarray:
    """Items by gold label and said label, of those that have both: int64 [labels, labels]."""
    both = (gold >= 0) & (said >= 0)
    cells = np.bincount(gold[both].astype(np.int64) * labels + said[both], minlength=labels * labels)
    return cells.reshape(labels, labels)


def accuracy(cells: np.ndarray) -> float:
    """Share of items whose labels are the same; NaN for none."""
    total = cells.sum()
    return float(np.trace(cells) / total) if total else float("nan")


def macro_f1(cells: np.ndarray) -> float:
    """Mean over labels that occur, in the gold or as said, of the harmonic mean of precision and recall."""
    rows, columns = cells.sum(axis=1), cells.sum(axis=0)
    occurs = rows + columns > 0
    if not occurs.any():
        return float("nan")
    return float(np.mean(2 * np.diagonal(cells)[occurs] / (rows + columns)[occurs]))


def kappa(cells: np.ndarray) -> float:
    """Cohen's kappa: agreement beyond chance; NaN where chance alone agrees always."""
    total = cells.sum()
    if not total:
        return float("nan")
    expected = float(cells.sum(axis=1) @ cells.sum(axis=0)) / float(total) ** 2
    return (accuracy(cells) - expected) / (1 - expected) if expected < 1 else float("nan")


def figure(cells: np.ndarray, of: Callable[[np.ndarray], float], seed: int = 0) -> Figure:
    """A figure of a confusion matrix and its interval, by drawing as many items anew, with replacement.

    Args:
        of: from a matrix to the figure; NaN where it is not defined.
        seed: the same seed gives the same interval.
    """
    total = int(cells.sum())
    if not total or np.isnan(value := of(cells)):
        return Figure(None)
    drawn = np.random.default_rng(seed).multinomial(total, cells.ravel() / total, RESAMPLED)
    values = np.array([of(d.reshape(cells.shape)) for d in drawn])
    low, high = np.nanquantile(values, [0.025, 0.975])
    return Figure(float(value), float(low), float(high))


def figures(gold: np.ndarray, said: np.ndarray, labels: int) -> dict[str, Any]:
    """Accuracy, macro-F1 and kappa of some labels, as `Figure`; items, and how many of them have a label."""
    cells = confusion(gold, said, labels)
    return {
        "items": int((gold >= 0).sum()),
        "decided": int(cells.sum()),
        "accuracy": figure(cells, accuracy),
        "macro_f1": figure(cells, macro_f1),
        "kappa": figure(cells, kappa),
        "confusion": cells,
    }


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = 5) -> list[tuple[float, float, int]]:
    """Mean confidence, share of right labels, and items, by bins of confidence that hold something, lowest first."""
    of = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        (float(confidence[of == b].mean()), float(right[of == b].mean()), int((of == b).sum()))
        for b in range(bins)
        if (of == b).any()
    ]


@dataclass(frozen=True)
class Alternative:
    """The alternative-annotator test: how far people agree, and how far where the committee sits in one's place."""

    people: float | None
    """Krippendorff's alpha (nominal) among people."""
    replaced: float | None
    """Mean of the alphas where each person in turn is replaced by the committee, on the items that person labelled."""
    loss: Figure
    """The first less the second, with its interval over items: above 0 if the committee agrees less than a person."""

    @property
    def stands_in(self) -> bool:
        """Whether nothing speaks against the committee in a person's place: the loss may be 0 or less.

        Few items say little: read the interval with it.
        """
        return self.loss.low is not None and self.loss.low <= 0


def alternative(people: np.ndarray, committee: np.ndarray, labels: int, seed: int = 0) -> Alternative:
    """Replace one person by the committee, each in turn.

    Args:
        people: int [persons, n], `UNKNOWN` where a person has not labelled an item; at least two persons.
        committee: int [n].

    Raises:
        ValueError: fewer than two persons.
    """
    if len(people) < 2:
        raise ValueError("fewer than two people")
    tables = [people]
    for i in range(len(people)):
        with_committee = people.copy()
        with_committee[i] = np.where(people[i] >= 0, committee, UNKNOWN)
        tables.append(with_committee)
    pairs = [_pairs(t, labels) for t in tables]
    n = people.shape[1]
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLED).astype(float)
    whole = [_alphas(np.ones((1, n)), p, labels)[0] for p in pairs]
    parts = np.stack([_alphas(drawn, p, labels) for p in pairs])
    losses = parts[0] - parts[1:].mean(axis=0)
    losses = losses[~np.isnan(losses)]
    alone, replaced = whole[0], float(np.mean(whole[1:]))
    if np.isnan(alone) or np.isnan(replaced) or not len(losses):
        return Alternative(None if np.isnan(alone) else alone, None, Figure(None))
    low, high = np.quantile(losses, [0.025, 0.975])
    return Alternative(float(alone), replaced, Figure(float(alone - replaced), float(low), float(high)))


def _pairs(table: np.ndarray, labels: int) -> np.ndarray:
    """What each item adds to the coincidence matrix: float64 [n, labels * labels]."""
    counts = np.stack([(table == label).sum(axis=0) for label in range(labels)], axis=1).astype(float)  # [n, labels]
    several = counts.sum(axis=1)
    outer = counts[:, :, None] * counts[:, None, :]
    outer[:, np.arange(labels), np.arange(labels)] -= counts
    outer[several < 2] = 0
    return (outer / np.maximum(several - 1, 1)[:, None, None]).reshape(len(counts), -1)


def _alphas(weights: np.ndarray, pairs: np.ndarray, labels: int) -> np.ndarray:
    """Nominal alpha under several weightings of the items: float64 [weightings], NaN where it is not defined."""
    o = (weights @ pairs).reshape(len(weights), labels, labels)
    n = o.sum(axis=2)
    total = n.sum(axis=1)
    observed = total - np.trace(o, axis1=1, axis2=2)
    expected = total**2 - (n**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 0, 1 - (total - 1) * observed / expected, np.nan)
