"""What a worker spares for each call, and does not change by it."""

from __future__ import annotations

import asyncio
import gc

import pytest

from gra_hpc.records import Call
from gra_hpc.run.attempt_state import Shared
from gra_hpc.run.journal import call_name, encode


def test_garbage_is_looked_for_at_the_usual_pace_once_no_attempt_is_at_work() -> None:
    usual = gc.get_threshold()
    shared = Shared(asyncio.Semaphore(1))
    first, second = shared.seldom_tidied(), shared.seldom_tidied()
    with pytest.raises(ZeroDivisionError), first:
        rare = gc.get_threshold()
        assert rare[0] >= 50_000 and rare[1:] == usual[1:]
        second.__enter__()
        raise ZeroDivisionError
    assert gc.get_threshold() == rare, "one ended, the other is still at work"
    second.__exit__(None, None, None)
    assert gc.get_threshold() == usual


@pytest.mark.parametrize("pace", [(90_000, 20, 30), (0, 10, 10)])
def test_a_pace_that_is_slower_already_or_none_stays(pace: tuple[int, int, int]) -> None:
    usual = gc.get_threshold()
    try:
        gc.set_threshold(*pace)
        with Shared(asyncio.Semaphore(1)).seldom_tidied():
            assert gc.get_threshold() == pace
    finally:
        gc.set_threshold(*usual)


def test_a_journal_line_is_the_same_with_a_name_that_is_known() -> None:
    call = Call("s/review/reviewer-1/0", "d" * 32, "ada", "m", "yes", "stop", 3, 1, 7, 1.5, 0.25)
    assert encode(call, call_name(call.key, call.digest)) == encode(call)
