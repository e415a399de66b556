"""When an engine is started again, and when its deaths lead nowhere."""

from __future__ import annotations

from gra_hpc.engines.restarts import Patience


def test_deaths_in_a_row_end_it_and_an_answer_begins_anew() -> None:
    patience = Patience(2)
    for _ in range(5):
        patience.was_ready = True
        patience.died()
        patience.died()
        assert not patience.spent
        patience.answered()
    for _ in range(3):
        patience.died()
    assert patience.spent
    assert str(patience) == "died 3 times in a row"


def test_the_same_refusal_twice_is_enough_unless_it_has_started_before() -> None:
    never, before = Patience(3), Patience(3, was_ready=True)
    for patience in (never, before):
        patience.did_not_start("exit code 1")
        assert not patience.spent
        patience.did_not_start("exit code 1")
    assert never.spent and str(never) == "does not start"
    assert not before.spent
    before.did_not_start("exit code 1")
    before.did_not_start("exit code 2")
    assert before.spent and str(before) == "died 4 times in a row"


def test_deaths_that_find_the_call_at_fault_are_forgiven() -> None:
    """One of 256, and then another: two deaths in company, seven or so that halve the suspects, one alone."""
    patience = Patience(3, was_ready=True)
    for _ in range(2):
        patience.died()
        patience.died()
        for _ in range(7):
            patience.died(halved=True)
        assert not patience.spent
        patience.died(found=True)
        assert not patience.spent


def test_an_engine_that_dies_of_every_call_is_given_up_after_a_few() -> None:
    patience, lost = Patience(3, was_ready=True), 0
    while not patience.spent:
        patience.died()
        if patience.spent:
            break
        patience.died(found=True)
        lost += 1
    assert lost <= 3


def test_pauses_grow_to_a_minute() -> None:
    patience, pauses = Patience(20), []
    for _ in range(12):
        pauses.append(patience.pause_s)
        patience.died()
    assert pauses == [0, 0, 0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]
