"""The local executor on a terminal: Ctrl-C reaches every process there, and ends the jobs in their order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gra_hpc.errors import LaunchError
from gra_hpc.launch.cancel import cancel
from gra_hpc.run.run import Run
from gra_hpc.views.status import collect
from gra_hpc.views.status_lines import next_command
from tests.run.test_plan import make

GRA = [sys.executable, "-P", "-m", "gra_hpc.cli"]


def test_ctrl_c_is_one_line_and_nothing_has_failed(tmp_path: Path) -> None:
    words = ["launch.shards=2", "launch.parallel=2", "engine.simulated_latency_s=1", "engine.simulated_failures=0"]
    run = make(tmp_path, *words)
    with subprocess.Popen(
        [*GRA, "submit", run.path],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests may run under nohup
    ) as submitter:
        while not any(file.stat().st_size for file in run.path.glob("rounds/01/shards/*/attempts/*/journal.log")):
            assert submitter.poll() is None
            time.sleep(0.05)
        with pytest.raises(LaunchError, match="press Ctrl-C where gra submit runs"):
            list(cancel(run))
        os.killpg(submitter.pid, signal.SIGINT)
        said, _ = submitter.communicate()
    assert submitter.returncode == 130 and "Traceback" not in said
    assert said.endswith(f"gra: interrupted; what was answered is kept -> gra resume {run.path}\n")
    status = collect(Run.to_look_at(run.path), ask_slurm=False)
    assert next_command(status) == f"gra resume {run.path}", "there is nothing to mend"
    states = next(r for r in status.rounds if r.round == 1).states
    assert set(states) <= {"stopped", "waiting", "published"}, states
    assert list(cancel(run)) == ["nothing to cancel: no gra submit runs this run", f"next: gra status {run.path}"]
