"""Which log is a shard's or a merge's newest: by what was begun last, not by the times of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gra_hpc.launch.log_files import Finder
from gra_hpc.launch.submissions import Job, Submission
from gra_hpc.run.attempts import Heartbeat
from gra_hpc.run.directory import RunDir


def log(run: RunDir, name: str, at: float) -> Path:
    """A log whose time is of some machine's clock."""
    path = run.logs / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (at, at))
    return path


def submitted(run: RunDir, created: float, *jobs: Job) -> None:
    made = Submission.new(run, list(jobs))
    made.created = created
    made.save(run)


@pytest.mark.parametrize("later", [-3600.0, 3600.0])
def test_the_newest_submission_counts(tmp_path: Path, later: float) -> None:
    run = RunDir(tmp_path)
    for i in range(11):  # 's00010' comes behind 's00009'
        submitted(run, later * i, Job("workers", 1, [3, 4], str(70 + i)), Job("merge", 1, id=str(90 + i)))
    last = log(run, "80/80_1_0_log.out", later * 10)
    merge = log(run, "100/100_0_log.out", later * 10)
    log(run, "79/79_1_0_log.out", later * 9)
    finder = Finder(run)
    assert finder.shard(1, run.round(1).shard(4)).main == last
    assert finder.merge(1).main == merge
    by_hand = log(run, "sbatch/merge-1-101.out", 0.0)
    assert Finder(run).merge(1).main == by_hand


@pytest.mark.parametrize("later", [-3600.0, 3600.0])
@pytest.mark.parametrize(
    ("job", "attempts_log", "expected"),
    [
        ("79_1", "79/79_1_0_log.out", "80/80_1_0_log.out"),  # the job submitted since ended before its attempt began
        ("80_1", "80/80_1_0_log.out", "80/80_1_0_log.out"),
        ("81_4", "sbatch/81_4_0_log.out", "sbatch/81_4_0_log.out"),  # by hand
        ("", "local/4242_0_log.err", "local/4242_0_log.err"),
    ],
)
def test_the_newest_attempt_or_a_job_submitted_since(
    tmp_path: Path, later: float, job: str, attempts_log: str, expected: str
) -> None:
    run = RunDir(tmp_path)
    submitted(run, 0.0, Job("workers", 1, [3, 4], "80"))
    log(run, attempts_log, 0.0)
    log(run, "80/80_1_0_log.out", later)
    beat = Heartbeat("a00002-local-4242-beef" if not job else "a00002-x", 4, 1, job=job)
    assert Finder(run).shard(1, run.round(1).shard(4), beat).main == run.logs / expected


def test_a_merge_beside_engines_has_its_log(tmp_path: Path) -> None:
    """Until a merge job that was begun later has one."""
    run = RunDir(tmp_path)
    submitted(run, 0.0, Job("workers", 1, [3, 4], "80"), Job("merge", 1, id="81"))
    beside = log(run, "beside/merge-1-80_1.log", 0.0)
    log(run, "beside/merge-2-80_1.log", 9.0)
    assert Finder(run).merge(1).main == beside
    job = log(run, "81/81_0_log.out", -9.0)
    assert Finder(run).merge(1).main == job
    for at in (5.0, 7.0):
        local = log(run, f"beside/merge-1-local-{at:.0f}.log", at)
    assert Finder(run).merge(1).main == local


def test_a_merge_of_the_local_executor_is_found_by_what_its_log_says(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert Finder(run).merge(1).main is None
    for number, said in ((7, "gra_hpc.merge.round: round 1: write: 0.5 s"), (8, "gra_hpc.run.worker: round 1 shard 0")):
        log(run, f"local/{number}_0_log.err", number).write_text(f"03:59:29 INFO {said}\n")
    assert Finder(run).merge(1).main == run.logs / "local/7_0_log.err"
    assert Finder(run).merge(2).main is None
