"""Are the judges fair? What a Reviewer's scores depend on beside the sample: who wrote it, the domain, its length.

A sample's quality is not known; what the other Reviewers of the same sample say stands for it. Deviations from them are
in points of the mean score (1 to 10). Intervals are 95%, by the normal approximation over samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.records import CRITERIA, DOMAINS

_Z = 1.959964
"""Of a 95% interval."""


@dataclass(frozen=True)
class Interval:
    """A mean with its interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, error: float) -> Interval:
        """From a standard error."""
        return cls(value, value - _Z * error, value + _Z * error)


class Moments:
    """Sums from which mean, variance and regression of y on x follow, for many pairs of variables at once.

    Args:
        shape: one pair of variables per cell.
    """

    def __init__(self, *shape: int) -> None:
        self.sums = np.zeros((6, *shape))
        """n, x, y, xx, xy, yy."""

    def add(self, cell: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
        """Count observations.

        Args:
            cell: flat index of each one's cell.
            x, y: float [observations].
        """
        size = self.sums[0].size
        for i, weights in enumerate((np.ones(len(x)), x, y, x * x, x * y, y * y)):
            self.sums[i] += np.bincount(cell, weights, size).reshape(self.sums[i].shape)

    def at(self, *index: int | slice) -> tuple[float, float, float, float, float, float]:
        """n, means of x and y, variances of x and y, covariance; of several cells, all their observations together."""
        n, x, y, xx, xy, yy = (float(s[index].sum()) for s in self.sums)
        if not n:
            return 0.0, math.nan, math.nan, math.nan, math.nan, math.nan
        mx, my = x / n, y / n
        return n, mx, my, max(0.0, xx / n - mx * mx), max(0.0, yy / n - my * my), xy / n - mx * my

    def correlation(self, *index: int | slice) -> float | None:
        """Of x and y; none where it is not defined."""
        n, _, _, vx, vy, c = self.at(*index)
        return c / math.sqrt(vx * vy) if n > 2 and vx > 1e-12 and vy > 1e-12 else None

    def mean(self, *index: int | slice) -> Interval | None:
        """Mean of y; none of fewer than two observations."""
        n, _, my, _, vy, _ = self.at(*index)
        return Interval.of(my, math.sqrt(vy / (n - 1))) if n > 1 else None

    def difference(self, *index: int | slice) -> Interval | None:
        """Mean of y - x; none of fewer than two observations."""
        n, mx, my, vx, vy, c = self.at(*index)
        return Interval.of(my - mx, math.sqrt(max(0.0, vx + vy - 2 * c) / (n - 1))) if n > 1 else None

    def slope(self, *index: int | slice) -> Interval | None:
        """Of y by x; none where it is not defined."""
        n, _, _, vx, vy, c = self.at(*index)
        if n < 3 or vx < 1e-12:
            return None
        b = c / vx
        return Interval.of(b, math.sqrt(max(0.0, vy - b * c) / ((n - 2) * vx)))


class Bias:
    """Sums over samples.

    Args:
        members: model by member of the committee.
        accept_mean: the threshold for a single review.
        criteria: what Reviewers score.
        domains: the run's.
    """

    def __init__(
        self,
        members: Mapping[str, str],
        accept_mean: float,
        criteria: Sequence[str] = CRITERIA,
        domains: Sequence[str] = DOMAINS,
    ) -> None:
        self.domains = (*domains, "")
        """The last: none of them."""
        self.criteria = tuple(criteria)
        self.scales = (*criteria, "mean")
        self.members = list(members)
        self.models = sorted(set(members.values()))
        self._model_of = np.array([self.models.index(m) for m in members.values()], np.int64)
        self.accept_mean = accept_mean
        k, m, d = len(self.members), len(self.models), len(self.domains)
        self.judged = np.zeros((3, m, m))
        """Reviews, their mean scores added up, and those at the threshold, by the model that wrote and the one that
        judged."""
        self.own = Moments(m, 2)
        """y: a model's mean deviation on a sample from Reviewers of neither its own nor the writer's model, by whether
        it wrote the sample itself."""
        self.beside = Moments(k, d, len(self.scales))
        """x: what the other Reviewers of the sample say, y: what the member says, by member, domain and scale. Their
        difference is its severity, their correlation its reliability."""
        self.length = Moments(k + 1)
        """x: log2 of the response's length; y: a member's deviation from the other Reviewers; last: the mean score."""
        self.pairs = Moments(k, k)
        """x, y: scores of two seats of a sample, by their members, in both orders."""
        self.panels = np.zeros(3)
        """Samples with two reviews or more, their reviews, and their pairs of seats of one model in both orders."""

    def add(self, batch: pa.Table) -> None:
        """Count a batch of samples: columns generator, domain, response, reviews."""
        lists = batch["reviews"].combine_chunks()
        counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        reviews = pc.list_flatten(lists)
        if not len(reviews) or not self.members:
            return
        of = np.repeat(np.arange(len(batch)), counts)
        who = _codes(reviews.field("member"), self.members)
        scores = np.stack([_floats(reviews.field(c)) for c in self.criteria])
        scores = np.concatenate([scores, scores.mean(axis=0, keepdims=True)])  # [scales, reviews]
        generator = _codes(batch["generator"], self.members)
        domain = _codes(batch["domain"], self.domains)
        length = np.log2(np.maximum(pc.fill_null(pc.utf8_length(batch["response"]), 0).to_numpy(), 1).astype(float))
        ok = (who >= 0) & (generator[of] >= 0)
        of, who, scores = of[ok], who[ok], scores[:, ok]
        domain[domain < 0] = len(self.domains) - 1
        self._writers(of, who, scores[-1], self._model_of[generator])
        self._others(of, who, scores, domain, length, len(batch))
        self._seats(of, who, scores[-1])

    def _writers(self, of: np.ndarray, who: np.ndarray, mean: np.ndarray, writer: np.ndarray) -> None:
        """Who wrote by who judged; `writer` is the model by sample, meaningless where a sample has no reviews."""
        m, judge = len(self.models), self._model_of[who]
        cell = writer[of] * m + judge
        passes = (mean >= self.accept_mean - 1e-9).astype(float)
        for i, weights in enumerate((np.ones(len(mean)), mean, passes)):
            self.judged[i] += np.bincount(cell, weights, m * m).reshape(m, m)
        rows = len(writer)
        n = np.bincount(of * m + judge, minlength=rows * m).reshape(rows, m)
        total = np.bincount(of * m + judge, mean, rows * m).reshape(rows, m)
        is_writer = writer[:, None] == np.arange(m)[None, :]
        strangers = np.where(is_writer, 0, n)
        said = np.where(is_writer, 0, total)
        left = strangers.sum(axis=1, keepdims=True) - strangers  # neither the judge's model nor the writer's
        rest = said.sum(axis=1, keepdims=True) - said
        row, model = np.nonzero((n > 0) & (left > 0))
        deviation = total[row, model] / n[row, model] - rest[row, model] / left[row, model]
        self.own.add(model * 2 + is_writer[row, model], np.zeros(len(row)), deviation)

    def _others(
        self, of: np.ndarray, who: np.ndarray, scores: np.ndarray, domain: np.ndarray, length: np.ndarray, rows: int
    ) -> None:
        """Each review beside the others of its sample; and the samples' means by length."""
        n = np.bincount(of, minlength=rows)
        several = n[of] > 1
        d, k = len(self.domains), len(self.members)
        place = who * d + domain[of]
        for i, row in enumerate(scores):
            total = np.bincount(of, row, rows)
            others = (total[of] - row)[several] / (n[of] - 1)[several]
            self.beside.add(place[several] * len(self.scales) + i, others, row[several])
        self.length.add(who[several], length[of][several], row[several] - others)
        seen = n > 0
        self.length.add(np.full(int(seen.sum()), k), length[seen], total[seen] / n[seen])
        self.panels[:2] += (n > 1).sum(), n[n > 1].sum()

    def _seats(self, of: np.ndarray, who: np.ndarray, mean: np.ndarray) -> None:
        """Pairs of reviews of one sample."""
        for shift in range(1, len(self.members)):
            a, b = np.arange(len(of) - shift), np.arange(shift, len(of))
            pair = of[a] == of[b]
            if not pair.any():
                return
            a, b = a[pair], b[pair]
            for x, y in ((a, b), (b, a)):
                self.pairs.add(who[x] * len(self.members) + who[y], mean[x], mean[y])
            self.panels[2] += 2 * (self._model_of[who[a]] == self._model_of[who[b]]).sum()

    def self_preference(self, model: int) -> Interval | None:
        """How much higher a model scores its own writing than it scores others', beside Reviewers of third models."""
        (n, _, mine, _, v, _), (others, _, theirs, _, w, _) = self.own.at(model, 1), self.own.at(model, 0)
        if n < 2 or others < 2:
            return None
        return Interval.of(mine - theirs, math.sqrt(v / (n - 1) + w / (others - 1)))

    def independent(self) -> tuple[float, float] | None:
        """Reviewers per sample, and how many independent ones they are worth at most; none without pairs.

        Seats of one model share errors: their scores vary together more than those of different models, which agree
        only as far as the samples differ. Errors that different models share cannot be told from the samples.
        """
        samples, reviews, same = self.panels
        if not samples:
            return None
        seats, k = reviews / samples, len(self.members)
        kinds = {True: [0.0, 0.0, 0.0], False: [0.0, 0.0, 0.0]}  # weight, covariance, variance
        for a in range(k):
            for b in range(k):
                n, _, _, vx, _, c = self.pairs.at(a, b)
                if n > 1:
                    kind = kinds[bool(self._model_of[a] == self._model_of[b])]
                    kind[:] = kind[0] + n, kind[1] + n * c, kind[2] + n * vx
        if not kinds[True][0] or not kinds[False][0]:
            return (float(seats), float(seats)) if kinds[False][0] else None
        together, apart = (kinds[key][1] / kinds[key][0] for key in (True, False))
        noise = kinds[True][2] / kinds[True][0] - apart  # what is not the samples'
        shared = min(1.0, max(0.0, (together - apart) / noise)) if noise > 1e-12 else 0.0
        return float(seats), float(seats / (1 + shared * same / reviews))


def _codes(values: pa.Array | pa.ChunkedArray, names: Sequence[str]) -> np.ndarray:
    """Position of each value among `names`; -1 for others."""
    found = pc.fill_null(pc.index_in(values, pa.array(list(names), pa.string())), -1)
    found = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    return np.array(found.to_numpy(zero_copy_only=False), np.int64)


def _floats(column: pa.Array) -> np.ndarray:
    return np.asarray(column.to_numpy(zero_copy_only=False), float)
