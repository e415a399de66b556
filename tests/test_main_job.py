"""The main job on real parts: seeds -> engines -> release, through the commands a user types."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from gra_hpc.engines.load import read_calibration
from gra_hpc.ledger import Ledger
from gra_hpc.rundir import RunDir

MODELS = Path(__file__).parent.parent / "models"
GRA = [sys.executable, "-m", "gra_hpc.cli"]


def marked(mark: str) -> list[int]:
    """Living processes with this mark in their environment: the engines, and all that they have started."""
    found = []
    for p in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if p.environ().get("GRA_TEST_MARK") == mark and p.status() != psutil.STATUS_ZOMBIE:
                found.append(p.pid)
    return found


def small_seeds(path: Path) -> Path:
    rows = [
        {"instruction": "Multiply 12 by 12.", "response": "144", "domain": "math",
         "keywords": ["multiplication", "square", "arithmetic"], "summary": "Multiply twelve by itself."},
        {"instruction": "Solve x + 3 = 5.", "response": "x = 2", "domain": "math",
         "keywords": ["equation", "algebra", "unknown"], "summary": "Solve a linear equation."},
        {"instruction": "What is a prime number?", "response": "A number above 1 that only 1 and itself divide."},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_seeds_to_release_with_real_models(tmp_path: Path, shm_left: Callable[[], set[Path]]) -> None:
    mark = uuid.uuid4().hex
    run = RunDir(tmp_path / "run")
    plan = [
        *(*GRA, "plan", str(run.path), "--preset", "demo", f"seeds.path={small_seeds(tmp_path / 's.jsonl')}"),
        *(
            f"models.smollm2.path={MODELS / 'smollm2-135m'}",
            f"merge.embed_model={MODELS / 'all-minilm-l6-v2'}",
        ),
        *("launch.shards=1", "method.accept_mean=1", "method.review_instruction=false", "method.max_tries=2"),
        *(
            "method.sampling.max_tokens=64",
            "method.verdict_tokens=96",
            f"engine.env={{GRA_TEST_MARK: {mark}}}",
        ),
    ]
    done = subprocess.run(plan, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "planned 3 = accepted 0 + rejected 0 + failed 0 + pending 3" in done.stdout
    done = subprocess.run(
        [*GRA, "submit", str(run.path)], capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((run.release / "manifest.json").read_text())
    ledger = Ledger.from_dict(manifest["ledger"])
    ledger.check("release")
    assert ledger.planned == 3 and ledger.pending == 0
    assert ledger.line() in done.stdout
    shard = json.loads(run.round(1).shard(0).manifest.read_text())
    assert sum(n for n, _, _ in shard["tokens"].values()) == shard["calls"]["rows"]
    again = subprocess.run([*GRA, "submit", str(run.path)], capture_output=True, text=True, check=False)
    assert again.returncode == 1 and "gra resume" in again.stderr
    assert not marked(mark)
    assert not shm_left()
    file = tmp_path / "here.calibration.json"
    done = subprocess.run(
        [*GRA, "calibrate", str(run.path), "--to", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rates, performance = read_calibration(file)
    assert rates.acceptance == pytest.approx(ledger.accepted / 3, abs=1e-3)
    calls, prompt, _ = (sum(column) for column in zip(*shard["tokens"].values(), strict=True))
    assert 0 < rates.steps["response"].completion_tokens <= 64 and prompt / calls > 20
    assert 0.01 < performance["speed"]["smollm2"] < 100 and performance["start_s"] > 1
    planned = subprocess.run(
        [*plan[:4], str(tmp_path / "run-2"), *plan[5:], f"site.calibration={file}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"calibrated by {file}" in planned.stdout, planned.stderr
