"""Krippendorff's alpha: how far raters agree beyond chance, with any number of raters and missing ratings.

Formulas: K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011). 1 is perfect agreement, 0 what chance
gives; it is customary to call data reliable from 0.8, and to draw tentative conclusions from 0.667.
"""

from __future__ import annotations

import numpy as np


class Coincidences:
    """Pairs of ratings within units, from which alpha follows.

    Args:
        values: ratings are integers from 0 to `values - 1`.
    """

    def __init__(self, values: int) -> None:
        self.values = values
        self._pairs: dict[int, np.ndarray] = {}
        """Ordered pairs [values * values] by number of ratings in their unit: integers, so that sums are exact."""
        self.units = 0
        """Units with at least two ratings."""

    def add(self, ratings: np.ndarray, lengths: np.ndarray) -> None:
        """Count units.

        Args:
            ratings: int [sum(lengths)], unit by unit.
            lengths: ratings of each unit; units with fewer than two say nothing of agreement.
        """
        starts = np.cumsum(lengths) - lengths
        for m in np.unique(lengths[lengths > 1]).tolist():
            of_m = starts[lengths == m]
            table = ratings[of_m[:, None] + np.arange(m)].astype(np.int64)  # [units, m]
            self.units += len(table)
            total = self._pairs.setdefault(m, np.zeros(self.values**2, np.int64))
            for i in range(m):
                for j in range(m):
                    if i != j:
                        total += np.bincount(table[:, i] * self.values + table[:, j], minlength=len(total))

    def matrix(self) -> np.ndarray:
        """The coincidence matrix [values, values]: each unit of m ratings adds m in all."""
        out = np.zeros((self.values, self.values))
        for m, pairs in sorted(self._pairs.items()):
            out += pairs.reshape(self.values, self.values) / (m - 1)
        return out

    def alpha(self, metric: str) -> float | None:
        """Krippendorff's alpha; none where it is not defined (no pairs, or all ratings the same).

        Args:
            metric: nominal, ordinal or interval: what counts as how large a disagreement.
        """
        o = self.matrix()
        n = o.sum(axis=1)
        total = n.sum()
        c, k = np.indices(o.shape)
        if metric == "nominal":
            distance = (c != k).astype(float)
        elif metric == "interval":
            distance = (c - k).astype(float) ** 2
        elif metric == "ordinal":  # ratings between the two, and half of those at either end
            middle = np.cumsum(n) - n / 2
            distance = (middle[c] - middle[k]) ** 2
        else:
            raise ValueError(metric)
        expected = (n[:, None] * n[None, :] * distance).sum()
        if total < 2 or expected == 0:
            return None
        return float(1 - (total - 1) * (o * distance).sum() / expected)
