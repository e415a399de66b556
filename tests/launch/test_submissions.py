"""Two that submit one run at once: the second is told of the first."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from gra_hpc.errors import LaunchError
from gra_hpc.launch.legs import Leg
from gra_hpc.launch.queue_gap import find_gap
from gra_hpc.launch.slurm import Task
from gra_hpc.launch.submissions import (
    SILENT_S,
    Does,
    Job,
    Submission,
    match,
    refuse_copy,
    refuse_while_at_work,
    sole_submitter,
    somebody_submits,
)
from gra_hpc.owner import Owner
from gra_hpc.run.directory import RunDir
from gra_hpc.run.rounds import Step
from tests.conftest import SteadyClock

HOLD = """
import sys
from pathlib import Path
from gra_hpc.launch.submissions import sole_submitter
from gra_hpc.run.directory import RunDir

with sole_submitter(RunDir(Path(sys.argv[1]))):
    print("here", flush=True)
    sys.stdin.read()
"""


def test_one_at_a_time_and_free_again_after_a_kill(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "here\n"
        with pytest.raises(LaunchError, match=f"is being submitted by process {other.pid} on "), sole_submitter(run):
            pass
        other.kill()
    with sole_submitter(run):
        assert Owner.read(run.submissions / ".lock") == Owner.me()


@pytest.mark.parametrize("skew", [-960.0, 960.0])
@pytest.mark.parametrize("where", [{}, {"boot": "another"}, {"namespace": "another"}, {"host": "n-2"}])
def test_a_submitter_is_at_work_until_it_is_seen_to_stand_still(
    tmp_path: Path, steady: SteadyClock, skew: float, where: dict[str, str]
) -> None:
    """One of this machine until its process is gone, whatever clocks say."""
    run, dead = RunDir(tmp_path), {"pid": 2**22 + 1, **where}
    other = Submission.new(run, [])
    other.created += skew
    other.owner |= {"start": other.owner["start"] + 1, **dead}
    other.save(run)
    if where:
        for _ in range(2):
            with pytest.raises(LaunchError, match="is being submitted by process"):
                refuse_while_at_work(run)
            steady.now += SILENT_S - 1
            other.save(run)
        with pytest.raises(LaunchError, match=r"type this again in 5 minutes"):
            refuse_while_at_work(run)
        steady.now += SILENT_S
    refuse_while_at_work(run)


def test_local_jobs_have_their_pickles_as_long_as_their_submitter_lives(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "here\n"
        other.send_signal(signal.SIGSTOP)
        assert somebody_submits(run)
        other.kill()
    assert not somebody_submits(run)
    with sole_submitter(run):
        assert not somebody_submits(run), "it is ourselves"


CANCEL = HOLD.replace("import sole_submitter", "import Does, sole_submitter").replace(
    "Path(sys.argv[1])))", "Path(sys.argv[1])), Does[sys.argv[2]])"
)


@pytest.mark.parametrize(("first", "second"), [("submits", "cancels"), ("cancels", "submits"), ("cancels", "cancels")])
def test_of_a_cancel_and_a_submission_the_second_waits(
    tmp_path: Path, first: str, second: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", CANCEL, str(tmp_path), first], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "here\n"
        with pytest.raises(LaunchError, match="is being"), sole_submitter(run, Does[second], wait_s=0):
            pass
        ends = threading.Event()  # the first comes to its end
        waited = threading.Timer(0.5, lambda: (ends.set(), other.communicate()))
        waited.start()
        with sole_submitter(run, Does[second]):
            assert ends.is_set()
        waited.join()
    said = "submits its jobs" if first == "submits" else "cancels its jobs"
    assert f"waiting for process {other.pid} on " in (heard := capsys.readouterr().err) and said in heard


def test_a_cancel_does_not_wait_for_what_runs_on_a_machine(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CANCEL, str(tmp_path), "runs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "here\n"
        with sole_submitter(RunDir(tmp_path), Does.cancels):
            assert other.poll() is None
        assert Owner.read(tmp_path / "submissions" / ".lock") is not None, "its word stays"
        with pytest.raises(LaunchError, match="is being submitted by"), sole_submitter(RunDir(tmp_path)):
            pass
        other.kill()


def queued(job: int, name: str, comment: str = "") -> Task:
    return Task(str(job), job, None, job, "RUNNING", "", "n1", None, 0, "me", name, comment)


def test_jobs_belong_to_a_run_at_its_place(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    made = Submission.new(run, [Job("merge", 1, id="7")])
    made.save(run)
    by_comment, by_id = queued(7, "gra-run-merge", made.comment(run, 0)), queued(7, "gra-run-merge")
    link, copy, moved = (RunDir(tmp_path / name) for name in ("link", "copy", "moved"))
    link.path.symlink_to(run.path)
    shutil.copytree(run.path, copy.path)
    for task in (by_comment, by_id):
        assert [job.moved for job, _ in match(run, [task])] == [False]
        assert [job.moved for job, _ in match(link, [task])] == [False]
        assert match(copy, [task]) == []
        with pytest.raises(LaunchError, match=f"this is a copy of {run.path}, whose jobs run"):
            refuse_copy(copy, [task])
    refuse_copy(copy, [])  # nobody is at work: a run of its own
    own = Submission.new(copy, [Job("merge", 1, id="8")])
    own.save(copy)
    assert [str(t.job) for _, t in match(copy, [by_comment, queued(8, "gra-copy-merge", own.comment(copy, 0))])] == [
        "8"
    ]
    run.path.rename(moved.path)
    for task in (by_comment, by_id):
        assert [job.moved for job, _ in match(moved, [task])] == [True]
        assert [job.moved for job, _ in match(copy, [task])] == [True], "the original is gone: the copy may go on"
    run.submissions.mkdir(parents=True)  # another run has taken its place
    assert [job.moved for job, _ in match(moved, [by_comment])] == [True]


def test_what_was_submitted_before_a_move_is_replaced(tmp_path: Path) -> None:
    job = Job("workers", 1, [0, 1], "7", "now", moved=True)
    tasks = [(job, replace(queued(7, "gra-x"), index=i, id=f"7_{i}")) for i in (0, 1)]
    gap = find_gap([Leg((Step(1, (0, 1), 2),), 2)], tasks, "now", 100)
    assert gap.cancel == ["7_0", "7_1"] and [j.kind for j in gap.jobs] == ["workers", "merge"]
