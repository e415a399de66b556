"""The program from top to bottom (`jobs/run.py`): a whole run in one process, and on again after it was ended."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from gra_hpc.run.run import Run
from tests.run.test_plan import make

PROGRAM = Path(__file__).resolve().parents[2] / "jobs" / "run.py"


def program(run: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(run), *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_two_rounds_in_one_process_and_again_after_sigterm(tmp_path: Path) -> None:
    run = make(tmp_path, "method.rounds=2", "engine.simulated_latency_s=0.2")
    first = program(run.path)
    while not any(j.stat().st_size for j in run.path.glob("rounds/*/shards/*/attempts/*/journal.log")):
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    assert first.wait() == 128 + signal.SIGTERM
    again = program(run.path, "engine.simulated_latency_s=0")
    said, _ = again.communicate()
    assert again.returncode == 0 and said.endswith(f"release in {run.release}\n"), said
    done = Run.open(run.path)
    assert pq.read_table(next(done.release.glob("data/train-*.parquet"))).num_rows > 0
    assert done.config.engine.simulated_latency_s == 0.2  # an override is for that process


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    wrong = program(tmp_path / "r", "--preset", "dmo")
    said, _ = wrong.communicate()
    assert wrong.returncode == 2 and said.startswith("run: ") and len(said.splitlines()) == 1, said
    assert not list(tmp_path.iterdir())
