"""Small fine-tuning jobs for tests: begun as a person would, killed as a machine would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from gra_hpc.config import output_settings
from gra_hpc.storage import read_json
from gra_hpc.training import config as configs
from gra_hpc.training.directory import FinetuneDir, attempts, checkpoints
from tests.waiting import ended

ROOT = Path(__file__).resolve().parents[2]


def preset(path: Path, model: Path, data: Path, **keys: Any) -> Path:
    """A preset for two ranks on the CPU: twelve steps."""
    settings: dict[str, Any] = {
        "model": {"path": str(model), "dtype": "float32", "random_weights": True},
        "data": {"path": str(data), "max_length": 64, "packing": False},
        "optimizer": {"epochs": 1.5, "global_batch": 4, "micro_batch": 1, "learning_rate": 0.01},
        "checkpoint": {"every_minutes": 0, "every_steps": 3},
        "launch": {"per_node": 2, "device": "cpu"},
    }
    for key, value in keys.items():
        part, _, name = key.partition("__")
        settings[part] = {**settings.get(part, {}), name: value} if name else value
    path.write_text(json.dumps(settings))  # JSON is YAML
    return path


def begun(out: Path, model: Path, data: Path, **keys: Any) -> FinetuneDir:
    """A job that is planned but not started."""
    yaml = preset(out.with_suffix(".yaml"), model, data, **keys)
    return FinetuneDir(output_settings.freeze(out, configs.compose(str(yaml))))


def start(out: FinetuneDir) -> subprocess.Popen[str]:
    """Start an attempt, as a job does."""
    return subprocess.Popen(
        [sys.executable, "jobs/finetune.py", str(out.path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def run(out: FinetuneDir, code: int = 0, timeout: float = 240) -> str:
    """One attempt to its end; what it printed."""
    process = start(out)
    try:
        said, _ = process.communicate(timeout=timeout)
    except BaseException:
        kill(process)
        raise
    assert process.returncode == code, said
    return said


def steps_made(out: FinetuneDir) -> int:
    """The last step that the latest attempt has made."""
    files = [p / "loss.jsonl" for p in attempts(out) if (p / "loss.jsonl").is_file()]
    lines = files[-1].read_bytes().splitlines() if files else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


def assert_published(out: FinetuneDir) -> None:
    """A job that has learnt something, and whose model others can load."""
    losses = [loss for _, loss in curve(out)]
    assert [step for step, _ in curve(out)] == list(range(1, 13))
    assert losses[-1] < losses[0] - 0.5
    files = set(read_json(out.done)["files"])
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= files
    assert out.plot.read_bytes().startswith(b"\x89PNG")
    assert not list(checkpoints(out)), "nobody needs them any more"
    end = read_json(out.model / "generation_config.json")["eos_token_id"]
    assert 2 in (end if isinstance(end, list) else [end])


def wait_for_step(out: FinetuneDir, process: subprocess.Popen[str], step: int) -> None:
    """Until the attempt has made so many steps."""
    while steps_made(out) < step:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the launcher and all ranks, at once."""
    everyone = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for one in everyone:
        one.send_signal(signal.SIGKILL)
    ended(everyone)
    process.communicate()


def curve(out: FinetuneDir) -> list[tuple[int, float]]:
    """Step and loss, of the finished job."""
    return [(r["step"], r["loss"]) for r in map(json.loads, out.losses.read_text().splitlines())]
