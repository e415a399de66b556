"""One item's votes."""

from __future__ import annotations

import pytest

from gra_hpc.labels.votes import each, median, tally


def test_the_majority_and_its_share() -> None:
    assert tally(["b", "a", "b"], "abc") == ("b", 2 / 3, False)
    assert tally(["c", "b"], "abc") == ("b", 0.5, True)
    with pytest.raises(ValueError, match="no votes"):
        tally([], "abc")


def test_weights_outvote_numbers() -> None:
    assert tally(["a", "b", "b"], "ab", [3.0, 1.0, 1.0]) == ("a", 0.6, False)
    assert tally(["a", "b", "b"], "ab", [0.2, 0.1, 0.1]).tied  # equal, but for the last bits


def test_the_lower_median() -> None:
    assert median([5, 1, 2]) == 2
    assert median([4, 2]) == 2
    assert median([1, 5, 5], [5.0, 1.0, 1.0]) == 1


def test_labels_of_a_set_one_by_one() -> None:
    sets = [frozenset("ab"), frozenset("b"), frozenset()]
    assert each(sets, "abc") == {"a": 1 / 3, "b": 2 / 3}
    assert each(sets, "abc", [2.0, 1.0, 1.0]) == {"a": 0.5, "b": 0.75}
