"""Two ranks of real DeepSpeed: the loss falls, and a job that was killed or warned ends as one that was not."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gra_hpc.storage import read_json
from gra_hpc.training.directory import COMPLETE, FinetuneDir, newest
from tests.training.trainings import ROOT, assert_published, begun, curve, kill, run, start, wait_for_step

SEED = 7
TOLERANCE = 1e-6
"""Largest difference of a step's loss between a resumed and an undisturbed run, in nats. Measured: 0."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, small_model: Path, chats: Path) -> FinetuneDir:
    out = begun(tmp_path_factory.mktemp("jobs") / "undisturbed", small_model, chats)
    run(out)
    return out


@pytest.mark.slow  # by default two ranks on two nodes: cluster/test_training_on_slurm.py
def test_the_loss_falls_and_the_model_is_published(undisturbed: FinetuneDir) -> None:
    assert_published(undisturbed)
    metrics = read_json(undisturbed.done)["metrics"]
    assert (metrics["steps"], metrics["ranks"], metrics["attempts"]) == (12, 2, 1)


@pytest.mark.slow  # by default, without the comparison: cluster/test_training_on_slurm.py
def test_warned_then_killed_then_resumed(
    tmp_path: Path, small_model: Path, chats: Path, undisturbed: FinetuneDir
) -> None:
    """SIGUSR2, as ahead of a time limit, then SIGKILL for all at a random step: the curve and the weights are those of
    the undisturbed job. A checkpoint that was being written is never used."""
    out = begun(tmp_path / "disturbed", small_model, chats, checkpoint__every_steps=3)
    process = start(out)
    wait_for_step(out, process, 1)
    process.send_signal(signal.SIGUSR2)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 75, said  # a temporary failure: under Slurm it is requeued instead
    warned = newest(out)
    assert warned and 1 <= warned.step < 12 and (warned.path / COMPLETE).is_file()
    process = start(out)
    wait_for_step(out, process, random.Random(SEED).randint(7, 10))
    kill(process)
    last = newest(out)
    assert last and last.step >= 6
    # as if the kill had come in the middle of the next checkpoint: no complete.json
    half = last.path.with_name(f"checkpoint-{last.step + 1}")
    half.mkdir(exist_ok=True)
    (half / COMPLETE).unlink(missing_ok=True)
    (half / "trainer_state.json").write_text("{")
    assert newest(out) == last
    said = run(out)
    assert f"starts from step {last.step}" in said and "not whole, removed" in said
    differences = [abs(a - b) for (_, a), (_, b) in zip(curve(out), curve(undisturbed), strict=True)]
    assert max(differences) <= TOLERANCE, max(differences)
    weights = [read_json(job.done)["files"]["model.safetensors"] for job in (out, undisturbed)]
    assert weights[0] == weights[1], "the same, bit for bit"
    assert read_json(out.done)["metrics"]["attempts"] == 3
    assert "done already" in run(out)


@pytest.mark.slow
def test_zero_3(tmp_path: Path, small_model: Path, chats: Path) -> None:
    """Parameters cut over the ranks: from the same weights the same curve, and the published model is whole."""
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    model = Path(shutil.copytree(small_model, tmp_path / "weights"))
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model)).save_pretrained(model)
    jobs = []
    for stage in (2, 3):
        jobs.append(begun(tmp_path / f"zero{stage}", model, chats, deepspeed__zero=stage, model__random_weights=False))
        run(jobs[-1])
    differences = [abs(a - b) for (_, a), (_, b) in zip(*map(curve, jobs), strict=True)]
    assert max(differences) < 1e-3, max(differences)
    shapes = []
    for job in jobs:
        with safe_open(job.model / "model.safetensors", "np") as f:
            names = set(f.keys()) - {"lm_head.weight"}  # tied: a copy of the embedding, which one of them saves too
            shapes.append({name: tuple(f.get_slice(name).get_shape()) for name in names})
    assert shapes[0] == shapes[1]


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_smollm2(tmp_path: Path, smollm2: Path) -> None:
    """The same with a real model, packed rows and ZeRO-2; vLLM loads what comes out. About ten minutes."""
    data = ROOT / "configs" / "seeds" / "demo.jsonl"
    keys = {
        "model__random_weights": False,
        "data__packing": True,
        "data__max_length": 256,
        "optimizer__learning_rate": 5e-5,
        "optimizer__epochs": 1.0,
    }
    first = begun(tmp_path / "undisturbed", smollm2, data, **keys)
    run(first)
    losses = [loss for _, loss in curve(first)]
    assert sum(losses[-2:]) < sum(losses[:2])
    second = begun(tmp_path / "killed", smollm2, data, **keys)
    process = start(second)
    wait_for_step(second, process, random.Random(SEED).randint(4, len(losses) - 1))
    kill(process)
    run(second)
    differences = [abs(a - b) for (_, a), (_, b) in zip(curve(second), curve(first), strict=True)]
    print(f"{len(losses)} steps, loss {losses[0]:.4f} -> {losses[-1]:.4f}; largest difference {max(differences):.2e}")
    assert max(differences) <= TOLERANCE
    words = [f"model.path={second.path}", "only=[capitals]", "benchmarks.capitals.limit=4"]
    evaluated = tmp_path / "evaluated"
    command = [sys.executable, "-m", "gra_hpc.cli", "evaluate", str(evaluated), "--preset", "mini", *words]
    subprocess.run(command, cwd=ROOT, check=True, timeout=280)
    assert read_json(evaluated / "done.json")["metrics"]["capitals"] >= 25
