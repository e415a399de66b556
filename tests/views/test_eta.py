"""How long a round still takes, from what its shards have done so far."""

from __future__ import annotations

import pytest

from gra_hpc.flows.registry import find
from gra_hpc.run.ledger import Ledger
from gra_hpc.views.sample import _turn
from gra_hpc.views.shard_status import ShardStatus
from gra_hpc.views.status import RoundStatus, eta
from gra_hpc.views.status_lines import tokens_per_second


def test_the_rate_so_far() -> None:
    done = ShardStatus(0, "published", 20, accepted=12, rejected=8, seconds=100)
    half = ShardStatus(1, "running", 20, accepted=5, rejected=4, failed=1, seconds=50)
    waits = ShardStatus(2, "waiting", 20)
    assert eta([done, half]) == pytest.approx(50)
    assert eta([done, half, waits]) == pytest.approx(150)
    assert eta([done, waits]) is None  # nothing runs


def test_nothing_is_said_of_the_first_few() -> None:
    assert eta([ShardStatus(0, "running", 20, accepted=1, seconds=60)]) is None
    assert eta([ShardStatus(0, "running", 20, accepted=2, seconds=60)]) == pytest.approx(540)
    assert eta([ShardStatus(0, "running", 20)]) is None


def test_rates_follow_no_clock_that_steps() -> None:
    """A running shard's machine was set back an hour; of finished ones the clocks say that all took a moment."""
    back = ShardStatus(0, "running", 10, started=7200.0, at=3610.0, lasted=10.0, tokens={"Generator": [5, 50]})
    assert tokens_per_second(RoundStatus(1, False, [back], Ledger())) == {"Generator": 5.0}
    ended = ShardStatus(0, "published", 10, started=1.0, at=1.5, lasted=100.0, tokens={"Generator": [5, 50]})
    assert tokens_per_second(RoundStatus(1, False, [ended], Ledger())) == {"Generator": 0.5}


def test_a_samples_calls_are_in_the_methods_order() -> None:
    """Attempts on machines with other clocks: what is shown is the order of the steps."""
    steps = ("keywords/generator", "instruction/generator", "review_instruction/reviewer-2", "response/generator")
    later = ("review_response/reviewer-1", "review_response/reviewer-2", "adjudicate/adjudicator", "more/x", "after/x")
    keys = [f"id/{step}/0" for step in steps + later]
    calls = [{"key": k, "at": float(at)} for k, at in zip(keys, (9, 1, 8, 2, 7, 3, 6, 4, 5), strict=True)]
    mixed = [*calls[5:], *calls[:5]]
    order = [question.step for question in find("synthesize").questions]
    assert sorted(mixed, key=lambda call: _turn(call, order)) == calls
