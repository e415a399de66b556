"""Submitting from inside a job: nothing of that job reaches the run's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.small_runs import ROOT, gra, planned

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]

WORSE = {
    "SLURM_MEM_PER_CPU": "50",
    "SLURM_MEM_PER_GPU": "10",
    "SLURM_EXPORT_ENV": "NONE",
    "SLURM_TIMELIMIT": "1",
    "SBATCH_ARRAY_INX": "0-0",
    "SBATCH_SIGNAL": "USR1@1",
    "SBATCH_EXPORT": "NONE",
    "SBATCH_MEM_PER_CPU": "10M",
    "SUBMITIT_PREEMPT_SIGNAL": "TERM",
}
"""What users have in their shells besides."""


@pytest.mark.parametrize("way", ["gra submit", "slurm/chain.sh"])
def test_its_variables_do_not_reach_the_run_s_jobs(slurm_env: Any, tmp_path: Path, tiny_llama: Path, way: str) -> None:
    run = planned(tmp_path / "run", tiny_llama, "site.memory_gb=0.2", "site.merge_memory_gb=0.2")
    submit = (
        [sys.executable, "-m", "gra_hpc.cli", "submit", run]
        if way == "gra submit"
        else ["bash", ROOT / "slurm" / "chain.sh", run, "--partition=low", "--mem=200M"]
    )
    job = ["srun", "--mem-per-cpu=50", "-n1", "-c2", "--gpus-per-node=1", "--threads-per-core=1"]
    inside = ["env", *(f"{k}={v}" for k, v in WORSE.items()), f"GRA_PYTHON={sys.executable}"]
    said = slurm_env.run(*job, *inside, *submit, timeout=100)
    assert "merge" in said
    slurm_env.wait_until(lambda: not slurm_env.run("squeue", "-h"), 120)
    assert (run / "release" / "manifest.json").is_file(), gra("status", run)
