"""A target of rows: what it lacks, and what gets them."""

from __future__ import annotations

from gra_hpc.run.target import Target


def test_what_is_missing_and_what_gets_it() -> None:
    missed = Target(60, 23)
    assert str(missed) == "60: 37 short"
    assert "23 of 63 candidates were kept" in missed.advice(63) and "expected_acceptance=0.36," in missed.advice(63)
    assert "expected_acceptance=0.00022," in Target(60, 2).advice(9000)
    assert str(Target(60, 60)) == "60: reached" and not Target(60, 60).advice(63)
    assert not Target(60, 0).advice(63), "no share to size a run by"


def test_late_rows_make_up_for_an_earlier_round() -> None:
    assert Target.of([(40, 30), (40, 50)]).short == 0
    assert Target.of([(0, 30)]) == Target(0, 30)
