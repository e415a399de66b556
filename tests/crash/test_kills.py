"""Plain processes, killed at random but seeded moments: nothing answered is lost, nothing is asked twice."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gra_hpc.run.publish import is_published
from gra_hpc.run.run import Run
from tools.faults.faults import MERGE, SYNTHESIZE, Audit, check_shard, journals, release_of, start, wait_for

MakeRun = Callable[..., Run]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2])
def test_kills_while_a_shard_runs(seed: int, new_run: MakeRun, reference: Run, tmp_path: Path) -> None:
    """Each attempt is killed when it has answered a few more calls, until one gets through."""
    draw = random.Random(seed)
    run = new_run("engine.simulated_latency_s=0.01", "launch.window=3")
    shard = run.round(1).shard(seed % 2)
    audit = Audit(shard)
    while audit.attempts < 4:
        audit.starting()
        before = len(audit.answered)
        process = start(SYNTHESIZE, run.path, shard.number, "--round", 1, log=tmp_path / "log")
        more = draw.randint(0, 20)
        wait_for(lambda: len(set().union(set(), *journals(shard).values())) >= before + more)  # noqa: B023
        time.sleep(draw.random() * 0.02)
        process.signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        audit.stopped()
    audit.starting()
    process = start(SYNTHESIZE, run.path, shard.number, "--round", 1, log=tmp_path / "log")
    assert process.wait() == 0, process.tail()
    calls, lost = audit.published()
    assert calls > 50
    assert (lost, audit.reasked) == (0, 0)
    check_shard(shard, reference.round(1).shard(shard.number))


@pytest.mark.timeout(600)
def test_kills_before_an_attempt_has_begun(new_run: MakeRun, reference: Run, tmp_path: Path) -> None:
    """While Python starts, reads the plan and opens the journal."""
    run = new_run()
    shard = run.round(1).shard(0)
    draw = random.Random(3)
    for _ in range(3):
        process = start(SYNTHESIZE, run.path, 0, "--round", 1, log=tmp_path / "log")
        time.sleep(draw.random())
        process.signal(signal.SIGKILL)
        process.wait()
    process = start(SYNTHESIZE, run.path, 0, "--round", 1, log=tmp_path / "log")
    assert process.wait() == 0, process.tail()
    check_shard(shard, reference.round(1).shard(0))


@pytest.mark.timeout(600)
def test_kills_of_the_merge(new_run: MakeRun, reference: Run, nursery, tmp_path: Path) -> None:
    """The release appears whole, and equal to that of a run without a fault."""
    run = new_run()
    for shard in (0, 1):
        assert nursery.start(SYNTHESIZE, run.path, shard, "--round", 1, log=tmp_path / "log").wait() == 0
    draw = random.Random(4)
    for _ in range(6):
        process = nursery.start(MERGE, run.path, "--round", 1, log=tmp_path / "log")
        time.sleep(draw.random() * 1.2)
        process.signal(signal.SIGKILL)
        process.wait()
        assert run.round(1).manifest.is_file() or not run.round(1).merged.exists()
        assert (run.release / "manifest.json").is_file() or not run.release.exists()
    process = nursery.start(MERGE, run.path, "--round", 1, log=tmp_path / "log")
    assert process.wait() == 0, process.tail()
    assert release_of(run) == release_of(reference)
    left = [p.name for p in run.round(1).path.iterdir() if p.name.startswith(".")]
    left += [p.name for p in run.path.iterdir() if p.name.startswith(".")]
    assert not left


def test_the_merge_sweeps_after_a_shard_that_died_once_published(
    new_run: MakeRun, reference: Run, nursery, tmp_path: Path
) -> None:
    """Killed between its manifest and the removal of its journals; nobody starts it again."""
    run = new_run()
    shard = run.round(1).shard(0)
    dead = nursery.start(
        SYNTHESIZE, run.path, 0, "--round", 1, log=tmp_path / "log", below=run.path, only="rmtree", at=1
    )
    assert dead.wait() == -signal.SIGKILL
    assert is_published(shard)
    assert shard.attempts.is_dir()
    for job in ((SYNTHESIZE, run.path, 1), (MERGE, run.path)):
        process = nursery.start(*job, "--round", 1, log=tmp_path / "log")
        assert process.wait() == 0, process.tail()
    check_shard(shard, reference.round(1).shard(0))
    assert release_of(run) == release_of(reference)
