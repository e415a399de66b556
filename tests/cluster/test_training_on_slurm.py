"""Fine-tuning and evaluation on the test cluster: two nodes, a warning, a requeue, dependencies, plain sbatch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from gra_hpc.config import output_settings
from gra_hpc.evaluation import config as evaluation
from gra_hpc.evaluation.job import submit_evaluate
from gra_hpc.storage import read_json
from gra_hpc.training import config as training
from gra_hpc.training.directory import FinetuneDir, checkpoints
from gra_hpc.training.job import submit_finetune
from tests.training.conftest import chats, small_model
from tests.training.trainings import ROOT, assert_published, begun, preset, steps_made

__all__ = ["chats", "small_model"]

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

SITE = ["site.executor=slurm", "site.name=mini", "site.partition=low", "site.time_minutes=30", "launch.interface=lo"]


def logs(out: Path) -> str:
    """The ends of all logs of a job."""
    return "\n".join(f"== {f}: {f.read_text(errors='replace')[-1500:]}" for f in sorted(out.glob("logs/**/*.out")))


def test_two_nodes_warned_and_requeued(slurm_env: Any, tmp_path: Path, small_model: Path, chats: Path) -> None:
    """A job of one rank on each of two nodes. Behind it an evaluation waits (tests of experiments run it)."""
    out = tmp_path / "sft"
    yaml = preset(tmp_path / "sft.yaml", small_model, chats, launch__per_node=1, launch__nodes=2)
    config = training.compose(str(yaml), [*SITE, "checkpoint.every_steps=0"])
    job = submit_finetune(out, config)
    assert job and submit_finetune(out, config) == job, "submitted once"
    words = ["backend.kind=hf", f"model.path={out}", "only=[heldout]", "model.max_model_len=512", *SITE[:-1]]
    measured = evaluation.compose("mini", words)
    merge = submit_evaluate(tmp_path / "eval", measured, after=[job])
    assert merge and slurm_env.states(merge) == {merge: "PENDING"}
    assert submit_evaluate(tmp_path / "eval", measured, after=[job]) == merge, "submitted once"
    made = FinetuneDir(out)
    slurm_env.wait_until(lambda: steps_made(made) >= 2, 280, lambda: logs(out))
    slurm_env.run("scancel", "--signal=USR2", job)
    slurm_env.wait_until(lambda: len(list(made.checkpoints.iterdir())) == 2, 280, lambda: logs(out))
    slurm_env.wait_until(lambda: made.done.is_file(), 280, lambda: logs(out))
    slurm_env.wait_until(lambda: not list(checkpoints(made)), 60, lambda: logs(out))  # the job's last work
    done = read_json(made.done)["metrics"]
    assert (done["steps"], done["ranks"], done["attempts"]) == (12, 2, 2), logs(out)
    assert_published(made)
    assert submit_finetune(out, config) == "", "done already"


@pytest.mark.slow
def test_plain_sbatch(slurm_env: Any, tmp_path: Path, small_model: Path, chats: Path) -> None:
    out = begun(tmp_path / "sft", small_model, chats, launch__per_node=1, launch__nodes=2, launch__interface="lo")
    export = f"--export=ALL,GRA_HOME={ROOT},GRA_PYTHON={sys.executable}"
    job = slurm_env.sbatch(
        export, "--nodes=2", "--partition=low", "--time=30", ROOT / "slurm/finetune.sbatch", out.path
    )
    slurm_env.wait_until(lambda: out.done.is_file(), 280, lambda: logs(out.path))
    assert read_json(out.done)["metrics"]["ranks"] == 2
    words = ["backend.kind=hf", f"model.path={out.path}", "only=[heldout]", "model.max_model_len=512", *SITE[:-1]]
    measured = output_settings.freeze(tmp_path / "eval", evaluation.compose("mini", words))
    script = ROOT / "slurm" / "evaluate.sbatch"
    array = slurm_env.sbatch(export, "--array=0-0", "--partition=low", "--time=30", script, measured)
    slurm_env.sbatch(
        export, f"--dependency=afterany:{array}", "--partition=low", "--time=30", script, measured, "merge"
    )
    slurm_env.wait_until(lambda: (measured / "done.json").is_file(), 280, lambda: logs(measured))
    assert "heldout" in (measured / "table.md").read_text()
    assert slurm_env.states(job) in ({}, {str(job): "COMPLETED"}, {str(job): "COMPLETING"})
