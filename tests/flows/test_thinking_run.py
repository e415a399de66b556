"""A run of models that think, simulated in four families' ways: thoughts are in the calls' tables and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from gra_hpc.config import presets
from gra_hpc.launch.submit import submit
from gra_hpc.records import Call
from gra_hpc.run import planning
from gra_hpc.run.journal import Journal
from gra_hpc.run.run import Run
from gra_hpc.thoughts import mark_in
from tests.models.test_thinking import GPT_OSS, MAGISTRAL, QWEN3, R1, TURNS

FAMILIES = {"qwen": QWEN3, "deepseek": R1, "oss": GPT_OSS, "magistral": MAGISTRAL, "plain": TURNS}


def planned(where: Path, name: str) -> Run:
    """A run of five models on eight seeds, some of whose answers are cut off."""
    models = {}
    for model, template in FAMILIES.items():
        directory = where / "models" / model
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps({"of": model}))
        (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "eos_token": "</s>"}))
        models[model] = {"path": str(directory)}
    rows = [
        {"instruction": f"Do {i}.", "response": f"Done {i}.", "domain": "qa", "keywords": [f"{i}"], "summary": f"{i}"}
        for i in range(8)
    ]
    (where / "seeds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    settings = {
        "seeds": {"path": str(where / "seeds.jsonl")},
        "models": models,
        "method": {"accept_mean": 5, "samples_per_seed": 3, "max_tries": 2},
        "merge": {"semantic": False, "fuzzy": False},
        "engine": {"kind": "simulated", "simulated_failures": 0.05},
        "launch": {"shards": 1},
        "release": {"diagnostics": {"rows": 0}, "formats": ["chat"]},
    }
    (where / "thinking.yaml").write_text(json.dumps(settings))
    return planning.make(where / name, presets.compose(str(where / "thinking.yaml")))


def table(run: Run, kind: str) -> list[dict[str, Any]]:
    (path,) = run.round(1).shard(0).path.glob(f"{kind}-*.parquet")
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def texts(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = planned(tmp_path_factory.mktemp("thinking"), "run")
    submit(made, resume=False)
    return made


def test_calls_keep_thoughts_apart(run: Run) -> None:
    calls = table(run, "calls")
    by_model: dict[str, list[dict[str, Any]]] = {}
    for call in calls:
        by_model.setdefault(call["model"], []).append(call)
    assert set(by_model) == set(FAMILIES)
    for model, mine in by_model.items():
        assert not any(mark_in(c["text"]) or mark_in(c["thoughts"]) for c in mine), model
        assert all(bool(c["thoughts"].strip()) == (model != "plain") for c in mine if c["finish"] == "stop"), model
    cut = [c for c in calls if c["finish"] == "thoughts"]
    assert cut and all(c["text"] == "" and c["thoughts"] for c in cut)


def test_no_thought_reaches_another_table(run: Run) -> None:
    thoughts = {s for c in table(run, "calls") for s in c["thoughts"].split(". ") if len(s) > 20}
    released = [*run.release.rglob("*.parquet"), *run.release.rglob("*.jsonl")]
    assert thoughts and len(released) >= 3
    rows = [*table(run, "samples"), pq.read_table(run.round(1).pool).to_pylist()]
    rows += [pq.read_table(p).to_pylist() if p.suffix == ".parquet" else p.read_text() for p in released]
    everything = texts(rows)
    assert not [t for t in thoughts if t in everything] and not mark_in(everything)
    assert any("response" in r and r["response"] for r in table(run, "samples"))


def test_a_resumed_run_is_the_same(run: Run, tmp_path: Path) -> None:
    """Thoughts are in the journal: what is served from it is what was answered."""
    before = table(run, "calls")
    resumed = planned(tmp_path, "run")
    assert resumed.plan.fingerprint == run.plan.fingerprint
    earlier = resumed.round(1).shard(0).attempt("20000101T000000-earlier")
    earlier.path.mkdir(parents=True)
    journal = Journal([], earlier.journal)
    for call in before[::2]:
        journal.append(Call(**call))
    journal.close()
    submit(resumed, resume=True)

    def kept(rows: list[dict[str, Any]], *without: str) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k not in without} for row in rows]

    assert table(resumed, "calls")[::2] == before[::2]
    assert kept(table(resumed, "calls"), "at", "seconds") == kept(before, "at", "seconds")
    assert table(resumed, "samples") == table(run, "samples")
