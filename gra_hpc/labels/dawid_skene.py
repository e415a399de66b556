"""Dawid and Skene's model: the true labels and each annotator's errors, found together, without any gold.

A. P. Dawid and A. M. Skene, Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm (1979). An
item has a true label, drawn from `prior`; annotator a then says label j with probability `confusion[a, true, j]`,
whatever the others say. Who said nothing of an item (an abstention) says nothing about its label either.

Items on which everybody said the same are one pattern with a count: EM runs over patterns, so that its memory and time
follow their number, not that of the items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ABSTAINS = -1
SMOOTHING = 0.1
"""Votes that every cell of a confusion matrix has beforehand: no probability is zero."""
_BLOCK = 1 << 18
"""Patterns whose posteriors are in memory at once."""


@dataclass(frozen=True)
class Model:
    """What EM found."""

    prior: np.ndarray
    """float64 [labels]: how frequent each true label is."""
    confusion: np.ndarray
    """float64 [annotators, labels, labels]: rows are true labels, each sums to 1."""
    likelihood: float
    """Log-likelihood of the votes, in nats."""
    steps: int
    converged: bool

    def posterior(self, votes: np.ndarray) -> np.ndarray:
        """Probability of each label for some items.

        Args:
            votes: int [n, annotators], `ABSTAINS` for none.

        Returns:
            float64 [n, labels]; rows sum to 1, the prior where nobody voted.
        """
        logs = _logs(self.prior, self.confusion, votes)
        out: np.ndarray = np.exp(logs - _log_sum(logs)[:, None])
        return out

    def accuracy(self) -> np.ndarray:
        """Expected share of right votes, by annotator: float64 [annotators]."""
        diagonal = np.diagonal(self.confusion, axis1=1, axis2=2)
        out: np.ndarray = diagonal @ self.prior
        return out


def fit(votes: np.ndarray, labels: int, steps: int = 200, tolerance: float = 1e-7) -> Model:
    """EM from each item's majority.

    Args:
        votes: int [n, annotators], from 0 to `labels - 1`, `ABSTAINS` where an annotator said nothing.
        labels: how many there are.
        steps: bound of the steps.
        tolerance: end once the log-likelihood grows by less than this share of itself.

    Raises:
        ValueError: nobody voted, or a vote that is none of the labels.
    """
    if votes.size == 0 or votes.max() < 0:
        raise ValueError("no votes")
    if votes.min() < ABSTAINS or votes.max() >= labels:
        raise ValueError(f"votes from {votes.min()} to {votes.max()} for {labels} labels")
    kinds, counts = patterns(votes, labels)
    keep = (kinds >= 0).any(axis=1)
    kinds, counts = kinds[keep], counts[keep]
    prior, confusion, _ = _maximised(kinds, counts, labels, None)
    before, converged, done = -np.inf, False, 0
    for done in range(1, steps + 1):  # noqa: B007
        new_prior, new_confusion, likelihood = _maximised(kinds, counts, labels, (prior, confusion))
        if likelihood - before <= tolerance * abs(likelihood):
            converged = True
            break
        prior, confusion, before = new_prior, new_confusion, likelihood
    return Model(prior, confusion, float(likelihood), done, converged)


def patterns(votes: np.ndarray, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Different rows of votes and how often each occurs: int [p, annotators], int64 [p].

    A row is one integer in base `labels + 1` where 63 bits hold it: sorting integers is far cheaper than sorting rows.
    """
    annotators = votes.shape[1]
    base = labels + 1
    if annotators * np.log2(base) < 62:
        powers = base ** np.arange(annotators, dtype=np.int64)
        codes = np.zeros(len(votes), np.int64)
        for a in range(annotators):
            codes += (votes[:, a].astype(np.int64) + 1) * powers[a]
        kinds, counts = np.unique(codes, return_counts=True)
        return ((kinds[:, None] // powers) % base - 1).astype(np.int16), counts
    kinds, counts = np.unique(votes, axis=0, return_counts=True)
    return kinds.astype(np.int16), counts


def _maximised(
    kinds: np.ndarray, counts: np.ndarray, labels: int, model: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray, float]:
    """One step: posteriors under the model (none: shares of the votes), and what they make of prior and confusion."""
    annotators = kinds.shape[1]
    prior = np.full(labels, SMOOTHING)
    confusion = np.full((annotators, labels, labels), SMOOTHING)
    likelihood = 0.0
    for start in range(0, len(kinds), _BLOCK):
        block, of_each = kinds[start : start + _BLOCK], counts[start : start + _BLOCK].astype(float)
        if model is None:
            shares = np.stack([(block == label).sum(axis=1) for label in range(labels)], axis=1)
            weights = shares / shares.sum(axis=1, keepdims=True)
        else:
            logs = _logs(*model, block)
            total = _log_sum(logs)
            weights = np.exp(logs - total[:, None])
            likelihood += float(of_each @ total)
        weights *= of_each[:, None]
        prior += weights.sum(axis=0)
        for a in range(annotators):
            for label in range(labels):
                confusion[a, :, label] += weights[block[:, a] == label].sum(axis=0)
    return prior / prior.sum(), confusion / confusion.sum(axis=2, keepdims=True), likelihood


def _logs(prior: np.ndarray, confusion: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """Joint log-probabilities of votes and true label: float64 [n, labels]."""
    out = np.tile(np.log(prior), (len(votes), 1))
    for a in range(votes.shape[1]):
        said = votes[:, a] >= 0
        out[said] += np.log(confusion[a])[:, votes[said, a]].T
    return out


def _log_sum(logs: np.ndarray) -> np.ndarray:
    top = logs.max(axis=1)
    out: np.ndarray = top + np.log(np.exp(logs - top[:, None]).sum(axis=1))
    return out
