"""Two that submit one run at once: the second is told of the first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gra_hpc.errors import LaunchError
from gra_hpc.launch.submissions import alone
from gra_hpc.run.directory import RunDir

HOLD = """
import sys
from pathlib import Path
from gra_hpc.launch.submissions import alone
from gra_hpc.run.directory import RunDir

with alone(RunDir(Path(sys.argv[1]))):
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
        with pytest.raises(LaunchError, match=f"is being submitted by process {other.pid} on "), alone(run):
            pass
        other.kill()
    with alone(run):
        assert f"process {os.getpid()} " in (run.submissions / ".lock").read_text()
