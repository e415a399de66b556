"""How long a round still takes, from what its shards have done so far."""

from __future__ import annotations

import pytest

from gra_hpc.views.status import ShardStatus, eta


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
