"""Operating a run on a real cluster: status and its causes, logs, cancel, clean, the controller gone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.small_runs import gra, planned, status

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]


def test_from_submit_to_clean(slurm_env: Any, tmp_path: Path, tiny_llama: Path) -> None:
    run = planned(tmp_path / "run", tiny_llama)
    said = gra("submit", run)
    assert "round 1: array" in said
    slurm_env.wait_until(lambda: (run / "release" / "manifest.json").exists(), 120)
    seen = gra("status", run)
    assert "release:" in seen and "failed:" not in seen
    shown = gra("logs", run, 1)
    assert "round 1 shard 1: published" in shown
    assert "rows" in gra("logs", run, "--merge") or "kept" in gra("logs", run, "--merge")
    # in the queue for some seconds more
    slurm_env.wait_until(lambda: not slurm_env.run("squeue", "-h"), 60)
    files = sum(1 for _ in (run / "logs").rglob("*.pkl"))
    assert files >= 3
    listed = gra("clean", run)
    assert "would remove" in listed and "--yes" in listed
    assert sum(1 for _ in (run / "logs").rglob("*.pkl")) == files, "a dry run removes nothing"
    gra("clean", run, "--yes")
    assert not list((run / "logs").rglob("*"))
    assert "nothing to remove" in gra("clean", run)
    assert gra("status", run)
    assert "no log" in gra("logs", run, 0, code=1)


def test_failures_are_grouped_by_cause_with_their_log(slurm_env: Any, tmp_path: Path, tiny_llama: Path) -> None:
    """The jobs die before our code runs: a Python that the compute node does not have."""
    run = planned(tmp_path / "run", tiny_llama, "site.python=/nowhere/python3")
    gra("submit", run)
    slurm_env.wait_until(lambda: not slurm_env.run("squeue", "-h"), 120)
    now = status(run)["rounds"][0]
    assert now["states"] == {"failed": 2}
    (failure,) = now["failures"]
    assert failure["shards"] == [0, 1]
    assert "/nowhere/python3" in failure["cause"] and "No such file" in failure["cause"]
    assert Path(failure["log"]).is_file()
    seen = " ".join(gra("status", run).split())
    assert "failed shards 0-1: " in seen and "gra logs" in seen
    assert "/nowhere/python3" in gra("logs", run)
    # mended, it goes on
    gra("resume", run, f"site.python={sys.executable}")
    slurm_env.wait_until(lambda: (run / "release" / "manifest.json").exists(), 120)
    assert not any(r["failures"] for r in status(run)["rounds"])


def submitted_and_begun(slurm_env: Any, *runs: Path) -> None:
    """All shards have a heartbeat: Slurm calls a task running before its Python has begun."""
    for run in runs:
        gra("submit", run)
    beats = "rounds/*/shards/{}/attempts/*/heartbeat.json"
    for run, shard in product(runs, ("00000", "00001")):
        slurm_env.wait_until(lambda run=run, shard=shard: any(run.glob(beats.format(shard))), 120)
        slurm_env.wait_until(lambda run=run: status(run)["rounds"][0]["states"].get("running", 0) == 2, 120)


def test_cancel_only_this_run(slurm_env: Any, tmp_path: Path, tiny_llama: Path) -> None:
    slow = "engine.simulated_latency_s=30"
    run, other = planned(tmp_path / "run", tiny_llama, slow), planned(tmp_path / "other", tiny_llama, slow)
    submitted_and_begun(slurm_env, run, other)
    stranger = slurm_env.sbatch("--wrap", "sleep 300")

    def running(path: Path) -> bool:
        return status(path)["rounds"][0]["states"].get("running", 0) == 2

    assert "waiting" in gra("cancel", run, "--waiting")  # its merge
    assert running(run)
    said = gra("cancel", run)
    assert "cancelled 2 tasks: 2 running" in said and "gra resume" in said
    slurm_env.wait_until(lambda: set(status(run)["rounds"][0]["states"]) == {"stopped"}, 90)
    assert running(other)
    assert set(slurm_env.states(stranger).values()) == {"RUNNING"}
    assert "nothing of this run" in gra("cancel", run)
    (failure,) = status(run)["rounds"][0]["failures"]
    assert failure["cause"] and failure["shards"] == [0, 1]
    gra("resume", run, "engine.simulated_latency_s=0")
    slurm_env.wait_until(lambda: (run / "release" / "manifest.json").exists(), 120)


@pytest.mark.usefixtures("slurm_env")
def test_site_detect_then_doctor(tmp_path: Path, tiny_llama: Path) -> None:
    """A newcomer's first two commands; the doctor also sees a compute node, through a job."""
    said = gra("site", "detect", cwd=tmp_path)
    assert "next: read it, then gra doctor mini" in said
    file = tmp_path / "configs" / "sites" / "mini.yaml"
    text = file.read_text()
    for line in ("executor: slurm", "partition: low", "gpus_per_node: 8", "cpus_per_gpu: 4", "max_array_size: 10001"):
        assert line in text
    assert "also sent on preemption (REQUEUE, 10 s of grace)" in text
    assert "is there already" in gra("site", "detect", cwd=tmp_path, code=2)
    assert "--gpus-per-node=8" in gra("site", "show", "mini", cwd=tmp_path)

    preset = tmp_path / "sim.yaml"
    preset.write_text(
        f"seeds: {{path: none.jsonl}}\nmodels: {{tiny: {{path: {tiny_llama}, load_format: dummy}}}}\n"
        "merge: {semantic: false}\nengine: {kind: simulated}\n"
    )
    said = gra("doctor", "mini", "--preset", preset, cwd=tmp_path, code=1)
    assert "site.gpu_memory_gb=0: placement needs it" in said
    file.write_text(text.replace("gpu_memory_gb: 0.0", "gpu_memory_gb: 80").replace("memory_gb: 59", "memory_gb: 2"))
    said = gra("doctor", "mini", "--preset", preset, "--job", cwd=tmp_path, timeout=240)
    compute = said.partition("compute node")[2]
    assert "is shared with the login node" in compute
    assert "Slurm gave 8 GPUs (CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7)" in compute
    assert "loopback ports open" in compute
    assert not list(tmp_path.glob("gra-doctor-*"))
    file.write_text(file.read_text() + "  python: /nowhere/python3\n")
    assert "site.python=/nowhere/python3: No such file" in gra(
        "doctor", "mini", "--preset", preset, cwd=tmp_path, code=1
    )
    file.write_text(
        file.read_text().replace("setup: []", "setup: ['exit 3']").replace("  python: /nowhere/python3\n", "")
    )
    said = gra("doctor", "mini", "--preset", preset, "--job", cwd=tmp_path, timeout=240, code=1)
    assert "the job" in said and "site.setup" in said


def test_status_and_errors_without_a_controller(slurm_env: Any, tmp_path: Path, tiny_llama: Path) -> None:
    run = planned(tmp_path / "run", tiny_llama, "engine.simulated_latency_s=30")
    submitted_and_begun(slurm_env, run)
    slurm_env.kill_ctld()
    try:
        now = status(run)
        assert now["slurm"]
        assert now["rounds"][0]["states"] == {"running": 2}, "heartbeats alone tell that they live"
        assert "from files alone" in gra("status", run)
        assert "gra status" in gra("cancel", run, code=1)
        assert "gra logs" not in gra("clean", run, code=1)
        assert (run / "logs").rglob("*_submitted.pkl")
    finally:
        slurm_env.start_ctld()


def test_ctrl_c_while_watching_leaves_the_jobs_alone(slurm_env: Any, tmp_path: Path, tiny_llama: Path) -> None:
    run = planned(tmp_path / "run", tiny_llama, "engine.simulated_latency_s=30")
    submitted_and_begun(slurm_env, run)
    terminal, theirs = os.openpty()
    watch = subprocess.Popen(
        [sys.executable, "-m", "gra_hpc.cli", "status", str(run), "--watch"],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests may run under nohup
    )
    said = os.read(terminal, 4096)  # before it has shown something, Python may still be importing
    os.killpg(watch.pid, signal.SIGINT)
    watch.wait(60)
    os.close(theirs)
    with contextlib.suppress(OSError):  # all is read
        while more := os.read(terminal, 65536):
            said += more
    os.close(terminal)
    assert watch.returncode == 130
    assert b"Traceback" not in said
    time.sleep(2)
    now = status(run)
    assert now["rounds"][0]["states"] == {"running": 2}, now
