"""Two that submit one run at once: the second is told of the first."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gra_hpc.errors import LaunchError
from gra_hpc.launch.submissions import SILENT_S, Submission, refuse_while_at_work, sole_submitter, somebody_submits
from gra_hpc.owner import Owner
from gra_hpc.run.directory import RunDir
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
