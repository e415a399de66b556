"""Dawid and Skene's model finds what was planted, and beats the majority where errors go together."""

from __future__ import annotations

import numpy as np
import pytest

from gra_hpc.labels import dawid_skene
from gra_hpc.labels.dawid_skene import ABSTAINS, fit, patterns

GOOD = np.array([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]])
BIASED = np.array([[0.85, 0.1, 0.05], [0.1, 0.85, 0.05], [0.05, 0.75, 0.2]])
"""Says the second label where the third is true."""
COMMITTEE = np.stack([GOOD, GOOD, BIASED, BIASED, BIASED])


def planted(n: int, confusion: np.ndarray, seed: int, abstaining: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """True labels, and votes that err as the confusion matrices say."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(confusion.shape[1], n, p=[0.5, 0.2, 0.3])
    drawn = rng.random((n, len(confusion), 1))
    votes = (drawn > confusion.cumsum(axis=2)[:, truth].transpose(1, 0, 2)).sum(axis=2).astype(np.int8)
    votes[rng.random(votes.shape) < abstaining] = ABSTAINS
    return truth, votes


def majority(votes: np.ndarray, labels: int) -> np.ndarray:
    return np.stack([(votes == label).sum(axis=1) for label in range(labels)], axis=1).argmax(axis=1)


@pytest.mark.parametrize("abstaining", [0.0, 0.3])
def test_planted_confusion_matrices_are_recovered(abstaining: float) -> None:
    truth, votes = planted(20_000, COMMITTEE, 1, abstaining)
    model = fit(votes, 3)
    assert model.converged
    assert np.abs(model.confusion - COMMITTEE).max() < 0.05
    assert np.abs(model.prior - np.bincount(truth) / len(truth)).max() < 0.02
    assert model.accuracy()[:2].min() > model.accuracy()[2:].max()


def test_it_beats_the_majority_where_annotators_share_an_error() -> None:
    truth, votes = planted(5_000, COMMITTEE, 2)
    posterior = fit(votes, 3).posterior(votes)
    ours, theirs = (posterior.argmax(axis=1) == truth).mean(), (majority(votes, 3) == truth).mean()
    assert ours > theirs + 0.1
    sure = posterior.max(axis=1)
    assert abs(sure.mean() - ours) < 0.02  # its confidence is honest where its model holds


def test_who_says_nothing_says_nothing_of_the_label() -> None:
    _, votes = planted(2_000, COMMITTEE, 3, 0.5)
    model = fit(votes, 3)
    none = np.full((1, 5), ABSTAINS)
    assert np.allclose(model.posterior(none), model.prior)
    silent = np.hstack([votes, np.full((len(votes), 1), ABSTAINS)])
    assert np.allclose(fit(silent, 3).posterior(silent), model.posterior(votes))


def test_patterns_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    _, votes = planted(1_000, COMMITTEE, 4, 0.2)
    kinds, counts = patterns(votes, 3)
    assert counts.sum() == len(votes)
    assert len(kinds) < len(votes)
    assert sorted(map(tuple, np.repeat(kinds, counts, axis=0))) == sorted(map(tuple, votes))
    wide, of_wide = patterns(np.tile(votes, (1, 40)), 3)  # 4^200 patterns are no integer
    assert sorted(map(tuple, wide[:, :5])) == sorted(map(tuple, kinds))
    assert sorted(of_wide) == sorted(counts)
    whole = fit(votes, 3)
    monkeypatch.setattr(dawid_skene, "_BLOCK", 7)
    assert np.allclose(fit(votes, 3).confusion, whole.confusion)


@pytest.mark.parametrize("votes", [np.empty((0, 3), int), np.full((4, 2), ABSTAINS), np.array([[3]]), np.array([[-2]])])
def test_votes_that_are_none(votes: np.ndarray) -> None:
    with pytest.raises(ValueError, match="votes"):
        fit(votes, 3)
