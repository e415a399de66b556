"""The benchmark of a shard's speed: a worker goes through a published run's shards again, and asks what they asked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pyarrow.parquet as pq

from gra_hpc.engines.simulated import SimulatedEngine
from gra_hpc.launch.tasks import ShardTask
from tests.run.test_plan import make
from tools.bench import merge, shard
from tools.bench.replay import Captured, Replayed, work


def test_a_worker_asks_again_what_its_shards_asked(tmp_path: Path) -> None:
    run = make(tmp_path, "launch.shards=3", "method.samples_per_seed=2")
    for n in range(3):
        ShardTask(str(run.path), 1, n)()
    tables = [*run.round(1).shards.glob("*/calls-*")]
    before = sum(pq.read_metadata(f).num_rows for f in tables)
    captured = Captured.of(run.path, 0)
    asked = Replayed(captured.known, SimulatedEngine(0.0, 0.0))
    done = asyncio.run(work(run.path, asked, tmp_path))
    assert done["calls"] == asked.calls == asked.same == before > 0
    assert 0 < done["seconds"] <= done["whole_seconds"]
    assert sorted(tables) == sorted(run.round(1).shards.glob("*/calls-*"))  # the run itself is as it was


def test_what_benchmarks_start_beside_themselves_is_there() -> None:
    assert shard.SCRIPT.is_file()
    assert merge.PEERS.is_file()
