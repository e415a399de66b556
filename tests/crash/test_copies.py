"""Two copies of one shard at once, as Slurm can make them: one published result, and the other leaves no trace."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from gra_hpc.run.publish import is_published
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json
from tools.faults.faults import SYNTHESIZE, Audit, Started, check_shard, journals, start, wait_for

MakeRun = Callable[..., Run]
JOB = (0, "--round", 1)


def overlapping(run: Run, tmp_path: Path) -> list[Started]:
    """Two copies of the first shard, both of which have answered some calls and neither of which is done."""
    shard = run.round(1).shard(0)
    copies = []
    for i in range(2):
        copies.append(start(SYNTHESIZE, run.path, *JOB, log=tmp_path / f"log{i}"))
        wait_for(lambda: sum(len(n) > 3 for n in journals(shard).values()) == len(copies))
        copies[-1].signal(signal.SIGSTOP)  # however late the other is, it finds this one at work
    assert not is_published(shard)
    for copy in copies:
        copy.signal(signal.SIGCONT)
    return copies


@pytest.mark.timeout(600)
def test_two_copies_publish_once(new_run: MakeRun, reference: Run, tmp_path: Path) -> None:
    run = new_run("engine.simulated_latency_s=0.03", "launch.window=2")
    shard = run.round(1).shard(0)
    audit = Audit(shard)
    audit.starting()
    copies = overlapping(run, tmp_path)
    assert [c.wait() for c in copies] == [0, 0], [c.tail() for c in copies]
    said = sorted("published already, by another attempt" in c.tail() for c in copies)
    assert said == [False, True]
    manifest = read_json(shard.manifest)
    assert len(manifest["attempts"]) == 2
    assert len({a["attempt"] for a in manifest["attempts"]}) == 2
    assert audit.published()[1] == 0
    check_shard(shard, reference.round(1).shard(0))


@pytest.mark.timeout(600)
def test_a_copy_that_slept_through_the_publication(new_run: MakeRun, reference: Run, tmp_path: Path) -> None:
    """Its journal has been removed under it; it goes on, notices, and ends without an error or a trace."""
    run = new_run("engine.simulated_latency_s=0.05", "launch.window=2")
    shard = run.round(1).shard(0)
    slow = start(SYNTHESIZE, run.path, *JOB, log=tmp_path / "slow")
    wait_for(lambda: any(len(names) > 5 for names in journals(shard).values()))
    slow.signal(signal.SIGSTOP)
    fast = start(SYNTHESIZE, run.path, *JOB, log=tmp_path / "fast")
    assert fast.wait() == 0, fast.tail()
    manifest = shard.manifest.read_bytes()
    slow.signal(signal.SIGCONT)
    assert slow.wait() == 0, slow.tail()
    assert "published already, by another attempt" in slow.tail()
    assert shard.manifest.read_bytes() == manifest
    check_shard(shard, reference.round(1).shard(0))


@pytest.mark.timeout(600)
def test_a_copy_is_killed_and_the_other_goes_on(new_run: MakeRun, reference: Run, tmp_path: Path) -> None:
    run = new_run("engine.simulated_latency_s=0.02", "launch.window=2")
    shard = run.round(1).shard(0)
    copies = overlapping(run, tmp_path)
    copies[0].signal(signal.SIGKILL)
    assert copies[1].wait() == 0, copies[1].tail()
    assert copies[0].wait() == -signal.SIGKILL
    check_shard(shard, reference.round(1).shard(0))


@pytest.mark.parametrize(("only", "at"), [("rename", 2), ("link", 1)])  # the first rename begins the attempt
def test_the_loser_of_a_race_to_publish(
    only: str, at: int, new_run: MakeRun, reference: Run, nursery, tmp_path: Path
) -> None:
    """Stopped between its tables and its manifest while another publishes, which sweeps those tables away."""
    run = new_run()
    shard = run.round(1).shard(0)
    slow = nursery.start(
        SYNTHESIZE, run.path, *JOB, log=tmp_path / "slow", below=shard.path, only=only, at=at, number=signal.SIGSTOP
    )  # fmt: skip
    wait_for(lambda: list(shard.path.glob(".samples-*.tmp" if only == "rename" else ".manifest.json.*")))
    wait_for(lambda: stopped(slow.pid))
    fast = nursery.start(SYNTHESIZE, run.path, *JOB, log=tmp_path / "fast")
    assert fast.wait() == 0, fast.tail()
    slow.signal(signal.SIGCONT)
    assert slow.wait() == 0, slow.tail()
    assert "published already, by another attempt" in slow.tail()
    check_shard(shard, reference.round(1).shard(0))


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
