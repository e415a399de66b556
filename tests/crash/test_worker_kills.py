"""A worker that has several shards open is killed, or drains: of none of them is an answered call lost or repeated."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gra_hpc.run.run import Run
from tools.faults.faults import MERGE, SYNTHESIZE, Audit, check_shard, journals, release_of, wait_for

MakeRun = Callable[..., Run]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR2])
def test_a_worker_with_both_shards_open(
    number: signal.Signals, new_run: MakeRun, reference: Run, nursery, tmp_path: Path
) -> None:
    run = new_run("engine.simulated_latency_s=0.3", "launch.window=16")
    shards = [run.round(1).shard(n) for n in (0, 1)]
    audits = [Audit(s) for s in shards]
    draw = random.Random(number)

    def answered() -> list[int]:
        return [len(set().union(set(), *journals(s).values())) for s in shards]

    for _ in range(3):
        for audit in audits:
            audit.starting()
        wanted = [n + draw.randint(2, 6) for n in answered()]
        process = nursery.start(SYNTHESIZE, run.path, "--round", 1, log=tmp_path / "log")
        wait_for(lambda: all(a >= b for a, b in zip(answered(), wanted, strict=True)))  # noqa: B023
        time.sleep(draw.random() * 0.02)
        process.signal(number)
        assert process.wait() == (-signal.SIGKILL if number == signal.SIGKILL else os.EX_TEMPFAIL), process.tail()
        for audit in audits:
            audit.stopped()
    for audit in audits:
        audit.starting()
    process = nursery.start(SYNTHESIZE, run.path, "--round", 1, log=tmp_path / "log")
    assert process.wait() == 0, process.tail()
    for audit, shard in zip(audits, shards, strict=True):
        calls, lost = audit.published()
        assert calls > 50 and (lost, audit.reasked) == (0, 0)
        check_shard(shard, reference.round(1).shard(shard.number))
    assert nursery.start(MERGE, run.path, "--round", 1, log=tmp_path / "log").wait() == 0
    assert release_of(run) == release_of(reference)
