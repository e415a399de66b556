"""Large journals: a killed shard asks nothing again, in bounded memory; and what an answer costs to keep, in steps.

The shard really runs (simulated engine), is killed by SIGKILL at its last answer but a few, and is started again; it is
killed once more at the first line that it writes: its first new call. Seconds are printed; `tools/bench/journal.py`
measures.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gra_hpc.records import Call
from gra_hpc.run.journal import Journal, Scan, scan
from gra_hpc.run.run import Run
from tools.faults.faults import DYING, SYNTHESIZE, Audit, make_run

CALLS_PER_SAMPLE = 9.3
"""Of the simulated committee, roughly."""


def killed_at_write(run: Run, write: int) -> tuple[float, float]:
    """Run the shard until it is about to write a line of its journal; seconds, and peak memory in MiB."""
    command = [str(DYING), "--below", str(run.path), "--only", "write", "--at", str(write), str(SYNTHESIZE)]
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, *command, str(run.path), "0", "--round", "1"])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == -signal.SIGKILL
    return seconds, usage.ru_maxrss / 1024


def journalled(tmp_path: Path, calls: int) -> tuple[Run, Audit]:
    """A shard killed with so many calls in its journal, and a few samples left to make."""
    samples = int(calls / CALLS_PER_SAMPLE * 1.06) + 40
    per_seed = max(1, samples // 4000)
    run = make_run(
        tmp_path / "run",
        -(-samples // per_seed),
        ["launch.shards=1", f"method.samples_per_seed={per_seed}", "launch.window=256", "launch.heartbeat_s=10"],
    )
    audit = Audit(run.round(1).shard(0))
    audit.starting()
    killed_at_write(run, calls + 1)
    (journal,) = audit.shard.attempts.glob("*/journal.log")
    found = Scan(journal)
    assert sum(1 for _ in scan(journal, found)) == found.calls == calls
    audit.stopped()
    return run, audit


def check_resume(tmp_path: Path, calls: int) -> None:
    run, audit = journalled(tmp_path, calls)
    audit.starting()
    took, memory = killed_at_write(run, 1)
    audit.stopped()
    print(f"\n{calls} journalled calls: first new call after {took:.1f} s, {memory:.0f} MiB")
    assert audit.reasked == 0
    assert memory < 2048


@pytest.mark.timeout(900)
@pytest.mark.parametrize("calls", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_calls_are_replayed(tmp_path: Path, tiny_llama: Path, calls: int) -> None:
    check_resume(tmp_path, calls)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_million_calls_are_replayed(tmp_path: Path, tiny_llama: Path) -> None:
    check_resume(tmp_path, 1_000_000)


def test_an_answer_costs_one_write_and_a_share_of_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of 2 kB: no second write, and no more syncs than batches."""
    writes, syncs = [], []
    write, sync = os.write, os.fsync
    monkeypatch.setattr(os, "write", lambda fd, data: writes.append(len(data)) or write(fd, data))
    monkeypatch.setattr(os, "fsync", lambda fd: syncs.append(fd) or sync(fd))
    text = "An answer of some length, as models give it. " * 45
    journal = Journal([], tmp_path / "journal.log", fsync_s=1e6, fsync_calls=256)
    made = len(syncs)
    for i in range(5000):
        journal.append(
            Call(f"{i:032x}/response/generator/0", f"{i:032x}", "ada", "m", text, "stop", 700, 450, i, 1.0, 2.0)
        )
    journal.flush()
    assert len(writes) == 5000 and sum(writes) == (tmp_path / "journal.log").stat().st_size
    assert len(syncs) - made <= 5000 // 256 + 2
    journal.close()
