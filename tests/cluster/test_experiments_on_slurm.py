"""A row of the paper on a real cluster: data by the simulated engine, then real fine-tuning and evaluation of a tiny
model, as jobs that wait for each other."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import MiniSlurm
from small_runs import gra

from gra_hpc.storage import read_json
from tests.experiments.hub_cache import fill
from tests.training.conftest import small_model

__all__ = ["small_model"]

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(700)]


def logs(directory: Path) -> str:
    """The ends of all logs of an experiment."""
    found = sorted(directory.glob("*/*/logs/**/*.out"))
    return "\n".join(f"== {f}: {f.read_text(errors='replace')[-800:]}" for f in found)


def settings(small_model: Path) -> list[str]:
    """The paper's row `alpaca/gra/qwen`, but for its size and for what answers and is trained."""
    return [
        "seeds.alpaca.seeds.limit=12",
        "run.engine.kind=simulated",
        "run.merge={semantic: false, fuzzy: false}",
        "run.launch={shards: 2, heartbeat_s: 0.5}",
        "run.method.rounds=2",
        "run.method.target_accepted=8",
        "run.method.expected_acceptance=0.8",
        "run.method.accept_mean=1",
        f"bases.qwen.finetune.model={{path: {small_model}, dtype: float32, random_weights: true}}",
        "finetune.data={max_length: 128, too_long: truncate, packing: false}",
        "finetune.optimizer={global_batch: 4, micro_batch: 4, learning_rate: 0.01}",
        "finetune.launch={per_node: 1, device: cpu}",
        "evaluate={preset: mini, backend: {kind: hf}, only: [heldout], model: {max_model_len: 512}}",
        "metric=heldout",
    ]


@pytest.mark.slow  # ten jobs, each with a Python that imports torch: three minutes
def test_one_paper_row_is_a_chain_of_jobs(
    slurm_env: MiniSlurm, runs_dir: Path, tmp_path: Path, tiny_llama: Path, small_model: Path
) -> None:
    site = tmp_path / "mini.yaml"
    place = {"name": "mini", "executor": "slurm", "partition": "low", "time_minutes": 30}
    site.write_text(yaml.safe_dump({"site": {**place, "scratch": str(fill(tmp_path / "scratch", tiny_llama))}}))
    where = runs_dir / "experiment"
    words = ["experiment", "run", "paper", "alpaca/gra/qwen", *settings(small_model), "--dir", where, "--site", site]

    said = gra(*words)
    arrays = re.findall(r"round (\d): array (\d+)", said)
    merges = dict(re.findall(r"round (\d): merge (\d+)", said))
    tune, measure = re.findall(r"^  job (\d+) after (\d+)$", said, re.MULTILINE)
    assert [r for r, _ in arrays] == ["0", "1", "2"] and set(merges) == {"0", "1", "2"}, "round 0 and two rounds"
    assert tune[1] == merges["2"] and measure[1] == tune[0], "each waits for the one before"
    waiting = slurm_env.run("squeue", "-h", "-o", "%A %E", "-j", tune[0])
    assert f"afterok:{merges['2']}" in waiting

    begun = json.loads(gra("experiment", "status", "paper", "alpaca/gra/qwen", "--dir", where, "--json"))["rows"][0]
    assert begun["model"]["state"] == begun["result"]["state"] == "queued"
    jobs = slurm_env.run("squeue", "-h", "-o", "%F").split()
    again = gra(*words)
    assert re.findall(r"^  job (\d+)", again, re.MULTILINE) == [tune[0], measure[0]]
    assert set(slurm_env.run("squeue", "-h", "-o", "%F").split()) <= set(jobs), "typed twice, submitted once"

    data, model, result = (where / d / n for d, n in (
        ("data", "alpaca-gra"), ("models", "alpaca-gra-qwen-s0"), ("results", "alpaca-gra-qwen-s0")
    ))  # fmt: skip
    ends = [data / "release" / "manifest.json", model / "done.json", result / "done.json"]
    slurm_env.wait_until(lambda: ends[-1].is_file(), 500, lambda: logs(where))
    times = [e.stat().st_mtime for e in ends]
    assert times == sorted(times), "data, then the model, then its figure"
    manifest, tuned = read_json(ends[0]), read_json(ends[1])
    rows = manifest["splits"]["train"]["rows"]
    assert manifest["simulated"] and 8 < rows <= 16, "two rounds of at most eight"
    assert tuned["metrics"]["rows"] == rows and (model / "model" / "model.safetensors").is_file()
    figure = read_json(ends[2])["metrics"]["heldout"]
    assert 3 < figure < 20

    said = gra("experiment", "status", "paper", "alpaca/gra/qwen", "--dir", where)
    assert "1 of 1 done" in said and f"{rows} rows" in said
    said = gra("experiment", "table", "paper", "--dir", where)
    assert f"{figure:.2f}"[:4] in said and "60.36" in said
    assert all((where / f"paper.table.{e}").is_file() for e in ("md", "csv", "html"))
    shown: Any = json.loads(gra("experiment", "table", "paper", "--dir", where, "--json"))
    assert len(shown["rows"]) == 30 and shown["rows"][2]["printed"] == 60.36
    assert "job" not in gra(*words), "all is done"
