"""Labels beside people's: figures against their definitions, intervals that hold what was planted."""

from __future__ import annotations

import numpy as np
import pytest

from gra_hpc.labels import gold
from gra_hpc.labels.agreement import Coincidences


def test_figures_of_a_small_table_by_hand() -> None:
    cells = np.array([[20, 5], [10, 15]])  # Cohen's example: kappa 0.4
    assert gold.accuracy(cells) == 0.7
    assert gold.kappa(cells) == pytest.approx(0.4)
    assert gold.macro_f1(cells) == pytest.approx((2 * 20 / 55 + 2 * 15 / 45) / 2)
    assert gold.macro_f1(np.pad(cells, ((0, 1), (0, 1)))) == gold.macro_f1(cells)  # a label that does not occur


def test_undecided_items_are_counted_but_judge_nothing() -> None:
    found = gold.figures(np.array([0, 1, 1, gold.UNKNOWN]), np.array([0, 1, gold.UNKNOWN, 1]), 2)
    assert (found["items"], found["decided"], found["accuracy"].value) == (3, 2, 1.0)
    assert gold.figures(np.array([0]), np.array([gold.UNKNOWN]), 2)["kappa"] == gold.Figure(None)


def test_intervals_hold_the_planted_accuracy() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(40):
        truth = rng.integers(0, 3, 300)
        said = np.where(rng.random(300) < 0.8, truth, (truth + 1) % 3)
        found = gold.figure(gold.confusion(truth, said, 3), gold.accuracy, seed)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.8 <= found.high
    assert 34 <= held <= 40


def test_reliability_says_how_often_the_sure_are_right() -> None:
    confidence = np.array([0.55, 0.5, 0.95, 1.0])
    assert gold.reliability(confidence, np.array([True, False, True, True])) == [(0.525, 0.5, 2), (0.975, 1.0, 2)]


def people(rng: np.random.Generator, accuracy: list[float], n: int = 400) -> np.ndarray:
    truth = rng.integers(0, 3, n)
    return np.stack([np.where(rng.random(n) < a, truth, rng.integers(0, 3, n)) for a in accuracy])


def test_a_committee_as_good_as_people_can_stand_in_for_one() -> None:
    *three, as_good, worse = people(np.random.default_rng(1), [0.85, 0.85, 0.85, 0.9, 0.4])
    three[0][::3] = gold.UNKNOWN
    humans = np.stack(three)
    found = gold.alternative(humans, as_good, 3)
    assert found.stands_in
    assert not gold.alternative(humans, worse, 3).stands_in
    units = [[v for v in column if v >= 0] for column in humans.T]
    counted = Coincidences(3)
    counted.add(np.array([v for u in units for v in u]), np.array([len(u) for u in units]))
    assert found.people == pytest.approx(counted.alpha("nominal"))
    with pytest.raises(ValueError, match="two people"):
        gold.alternative(humans[:1], as_good, 3)
