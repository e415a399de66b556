"""Plain sbatch: arrays, merges, chains, signals and resume without submitting from Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.small_runs import ROOT, gra, planned, status

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(400)]


def bash(*args: object, cwd: Path = ROOT, code: int = 0, **env: str) -> str:
    done = subprocess.run(
        [str(a) for a in args],
        env={**os.environ, "GRA_PYTHON": sys.executable, **env},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    text = done.stdout + done.stderr
    assert done.returncode == code, text
    return text


def released(run: Path) -> bool:
    return (run / "release" / "manifest.json").exists()


def test_chain_of_small_rounds(slurm_env: Any, tmp_path: Path, tiny_llama: Path) -> None:
    run = planned(tmp_path / "run", tiny_llama, "method.rounds=3", "launch.shards=3")
    said = bash("bash", "slurm/chain.sh", run, "--partition=low", "--time=30", "--cpus-per-task=1")
    assert said.count("of 3 workers") == 1 and said.count("merge") == 1, said
    assert "rounds 1 to 3: array" in said
    assert "are in the queue" in bash("bash", "slurm/chain.sh", run, "--partition=low", code=1)
    slurm_env.wait_until(lambda: released(run), 200)
    assert [r["states"] for r in status(run)["rounds"]] == [{"published": 3}] * 3
    assert "round 1 shard 2: published" in gra("logs", run, 2, "--round", 1)
    assert "release" in gra("logs", run, "--merge", "--round", 3)
    assert "nothing left to do" in bash("bash", "slurm/chain.sh", run, "--partition=low")
    slurm_env.wait_until(lambda: not slurm_env.run("squeue", "-h"), 60)
    assert "logs of published shards" in gra("clean", run, "--yes")
    assert not list((run / "logs").rglob("*.out"))


def test_drain_requeue_and_resume(slurm_env: Any, tmp_path: Path, tiny_llama: Path) -> None:
    """The warning that comes before a time limit drains the shard; Slurm runs it again, and nothing is asked twice."""
    run = planned(tmp_path / "run", tiny_llama, "engine.simulated_latency_s=2", "launch.window=1")
    bash("bash", "slurm/chain.sh", run, "--partition=low", "--time=30")

    def calls() -> list[int]:
        return [s["calls"] for s in status(run)["rounds"][0]["shards"]]

    slurm_env.wait_until(lambda: min(calls()) >= 2, 120)
    assert status(run)["rounds"][0]["states"] == {"running": 2}
    array = status(run)["rounds"][0]["shards"][0]["job"].partition("_")[0]
    slurm_env.run("scancel", "--batch", "--signal=USR2", array)
    slurm_env.wait_until(lambda: any(s["attempts"] > 1 for s in status(run)["rounds"][0]["shards"]), 120)
    slurm_env.wait_until(lambda: any(s["replayed"] >= 2 for s in status(run)["rounds"][0]["shards"]), 120)
    assert "nothing to submit" in gra("resume", run)  # while they run: plain jobs are known, and stay
    assert status(run)["rounds"][0]["shards"][0]["job"].partition("_")[0] == array
    assert "cancelled" in gra("cancel", run)
    gra("resume", run, "engine.simulated_latency_s=0")  # from here on through submitit: the files are the truth
    slurm_env.wait_until(lambda: released(run), 120)
    manifest = json.loads((run / "rounds/01/shards/00000/manifest.json").read_text())
    assert len(manifest["attempts"]) >= 3


def test_by_hand(slurm_env: Any, tmp_path: Path, tiny_llama: Path) -> None:
    """One sbatch, no submission recorded: status goes by the heartbeats and the queue."""
    run = planned(tmp_path / "run", tiny_llama, "engine.simulated_latency_s=30")
    script = ROOT / "slurm" / "synthesize.sbatch"
    out = f"--output={tmp_path}/%A_%a.out"
    export = f"--export=ALL,GRA_HOME={ROOT}"
    bash("sbatch", out, export, "--array=0", "--partition=low", script, run, cwd=tmp_path)
    slurm_env.wait_until(lambda: status(run)["rounds"][0]["states"] == {"running": 1, "waiting": 1}, 120)
    assert status(run)["rounds"][0]["shards"][0]["state"] == "running"
    said = gra("resume", run)
    assert "1 task waits or runs already" in said and "of 1 worker for 2 shards" in said, said
    gra("cancel", run)
    # what goes wrong before the run's log is open is in the job's own output
    job = bash("sbatch", "--parsable", out, "--partition=low", script, tmp_path / "nothing", cwd=tmp_path).strip()
    slurm_env.wait_until(lambda: "FAILED" in slurm_env.states(job).values(), 60)
    assert any("run sbatch in the root of gra-hpc" in f.read_text() for f in tmp_path.glob("*.out"))
    job = slurm_env.sbatch(f"--export=ALL,GRA_HOME={ROOT}", out, "--partition=low", script, tmp_path / "nothing")
    slurm_env.wait_until(lambda: "FAILED" in slurm_env.states(job).values(), 60)
    assert any("nothing: no such directory" in f.read_text() for f in tmp_path.glob("*.out"))
