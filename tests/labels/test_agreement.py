"""Krippendorff's alpha on published examples."""

from __future__ import annotations

import numpy as np
import pytest

from gra_hpc.labels.agreement import Coincidences

MISSING = 0


def of(table: list[list[int]], values: int = 10) -> Coincidences:
    """Raters by units, 0 for missing."""
    units = [[v for v in column if v != MISSING] for column in zip(*table, strict=True)]
    c = Coincidences(values)
    c.add(np.array([v for u in units for v in u]), np.array([len(u) for u in units]))
    return c


KRIPPENDORFF_2011 = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
    [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
]
"""Section C of the paper: four observers, twelve units, missing data."""


@pytest.mark.parametrize(("metric", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_worked_example_with_missing_data(metric: str, published: float) -> None:
    assert of(KRIPPENDORFF_2011).alpha(metric) == pytest.approx(published, abs=5e-4)


def test_worked_example_two_observers_binary() -> None:
    """Section A: two observers, ten units, alpha 0.095."""
    one, other = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    c = Coincidences(2)
    c.add(np.array([v for pair in zip(one, other, strict=True) for v in pair]), np.full(10, 2))
    assert c.alpha("nominal") == pytest.approx(0.095, abs=5e-4)


def test_perfect_and_undefined() -> None:
    assert of([[1, 2, 3], [1, 2, 3]]).alpha("ordinal") == 1.0
    assert of([[4, 4, 4], [4, 4, 4]]).alpha("interval") is None
    assert Coincidences(11).alpha("interval") is None
    assert of([[1, 2, 3], [0, 0, 0]]).units == 0


def test_counting_in_parts_is_counting_at_once() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 5, 200)
    ratings = rng.integers(1, 11, int(lengths.sum()))
    whole, parts = Coincidences(11), Coincidences(11)
    whole.add(ratings, lengths)
    cut = int(lengths[:70].sum())
    parts.add(ratings[cut:], lengths[70:])
    parts.add(ratings[:cut], lengths[:70])
    for metric in ("nominal", "ordinal", "interval"):
        assert whole.alpha(metric) == parts.alpha(metric)
    assert abs(whole.alpha("interval") or 0) < 0.2, "random ratings agree by chance only"
