"""Workers that have several shards open are disturbed (tools/faults/worker_faults.py): nothing lost, nothing twice."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tools.faults.chaos import can_mount
from tools.faults.faults import Nursery
from tools.faults.worker_case import LEAST_OPEN, Bench
from tools.faults.worker_faults import WORKER_FAULTS, worker_kinds, worker_round

OFTEN = ("SIGKILL", "deaths of engines")


@pytest.fixture(scope="module")
def bench(crash_dir: Path) -> Bench:
    (crash_dir / "workers").mkdir()
    return Bench.make(crash_dir / "workers")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", [k if k in OFTEN else pytest.param(k, marks=pytest.mark.slow) for k in WORKER_FAULTS])
def test_a_worker_with_several_shards_open(bench: Bench, nursery: Nursery, kind: str) -> None:
    if kind == "disk full" and not can_mount():
        pytest.skip("no right to mount a tmpfs")
    bench.problems.clear()
    bench.open.clear()
    result = worker_round(bench, nursery, kind, "7")
    assert bench.problems == []
    lost = (result.lost, result.reasked, result.rows_lost, result.rows_duplicated, result.rows_changed)
    assert lost == (0, 0, 0, 0, 0)
    assert result.calls > 150 and result.rows == 24
    assert min(bench.open) >= LEAST_OPEN


def test_rounds_of_workers_are_drawn_by_the_seed() -> None:
    first, again, other = (list(worker_kinds(60, random.Random(seed), True)) for seed in (1, 1, 2))
    assert first == again != other
    assert set(first[: len(WORKER_FAULTS)]) == {*WORKER_FAULTS}
