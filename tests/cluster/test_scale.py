"""Large runs: one query for the status of a thousand shards, ten thousand tasks submitted in split arrays.

CPU seconds are bounded; beside other tests they would double. tools/bench/operation.py measures both times.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.small_runs import gra
from tools.bench.operation import plan, populate, timed

pytestmark = [pytest.mark.slurm, pytest.mark.all_cores, pytest.mark.timeout(400)]


@pytest.fixture
def counted(slurm_env: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every Slurm client command leaves a line in a file."""
    log, shims = tmp_path / "asked", tmp_path / "bin"
    shims.mkdir()
    for command in ("squeue", "sacct", "scontrol", "sinfo", "sbatch"):
        shim = shims / command
        real = slurm_env.run("which", command)
        shim.write_text(f'#!/bin/sh\necho "{command} $*" >>{log}\nexec {real} "$@"\n')
        shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(shims), prepend=":")
    return log


def test_status_of_a_thousand_shards(counted: Path, tmp_path: Path, tiny_llama: Path) -> None:
    words = ("site.executor=slurm", "site.sbatch={hold: true}")
    run = plan(tmp_path / "run", 1000, tiny_llama, *words)
    populate(run, 1000)
    gra("resume", run.path)
    counted.unlink()
    _, cpu, text = timed(["status", str(run.path)], 3)
    assert [line.split()[0] for line in counted.read_text().splitlines()] == ["squeue"] * 3, "one query each"
    assert cpu[0] < 1.0
    assert "501" in text
    seen = json.loads(gra("status", run.path, "--json"))["rounds"][0]["states"]
    assert seen["published"] == 501 and seen["queued"] >= 480
    gra("cancel", run.path)


@pytest.mark.slow
def test_submit_ten_thousand_tasks(slurm_env: Any, tmp_path: Path, tiny_llama: Path) -> None:
    words = ("site.executor=slurm", "site.sbatch={hold: true}", "site.max_array_size=4000")
    run = plan(tmp_path / "run", 10_000, tiny_llama, *words)
    _, cpu, text = timed(["submit", str(run.path)], 1)
    assert cpu[0] < 10
    assert text.count(": array ") == 3 and ": merge " in text
    assert len(slurm_env.run("squeue", "-h", "-r").splitlines()) == 10_001
    assert "cancelled 10001 tasks" in gra("cancel", run.path)
