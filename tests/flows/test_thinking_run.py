"""A run of models that think, simulated in four families' ways: thoughts are beside answers, and never among them."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gra_hpc.config import presets
from gra_hpc.errors import ConfigError, ReleaseError
from gra_hpc.merge.round import merge_round
from gra_hpc.records import Call
from gra_hpc.release.build import build
from gra_hpc.release.export import export
from gra_hpc.release.schema import chat
from gra_hpc.release.verify.verify import verify
from gra_hpc.run import planning
from gra_hpc.run.journal import Journal
from gra_hpc.run.run import Run
from gra_hpc.run.shard import End
from gra_hpc.run.worker import run_shard
from gra_hpc.storage import read_json, sha256, to_json
from gra_hpc.thoughts import Apart, Thoughts, apart, inline, mark_in
from gra_hpc.views.sample import find_sample, history
from tests.models.test_thinking import GPT_OSS, MAGISTRAL, QWEN3, R1, TURNS

FAMILIES = {"qwen": QWEN3, "deepseek": R1, "oss": GPT_OSS, "magistral": MAGISTRAL, "plain": TURNS}


def planned(where: Path, name: str, *overrides: str) -> Run:
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
    return planning.make(where / name, presets.compose(str(where / "thinking.yaml"), overrides))


def finish(run: Run) -> None:
    """Its one shard, the merge and the release, in this process."""
    assert run_shard(run, 1, 0) is End.published
    merge_round(run, 1)
    build(run)


def table(run: Run, kind: str) -> list[dict[str, Any]]:
    (path,) = run.round(1).shard(0).path.glob(f"{kind}-*.parquet")
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def texts(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = planned(tmp_path_factory.mktemp("thinking"), "run")
    finish(made)
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


def test_thoughts_that_did_not_end_are_counted(run: Run) -> None:
    """By model, and those too that another try has made good."""
    cut = Counter(c["model"] for c in table(run, "calls") if c["finish"] == "thoughts")
    assert read_json(run.round(1).shard(0).manifest)["endless_thoughts"] == dict(cut) and "plain" not in cut
    report = (run.release / "report.html").read_text()
    for model, n in cut.items():
        assert re.search(rf"answers of {model} whose thoughts did not end</td><td[^>]*>{n}<", report), model


def test_a_sample_keeps_the_thoughts_behind_its_response(run: Run) -> None:
    answered = {c["key"].split("/")[0]: c for c in table(run, "calls") if "/response/" in c["key"]}  # the last try
    samples = [s for s in table(run, "samples") if s["response"]]
    assert {s["generator"] for s in samples} == set(FAMILIES)
    for sample in samples:
        assert (sample["response"], sample["thoughts"]) == tuple(
            answered[sample["id"]][k] for k in ("text", "thoughts")
        )
    assert all(s["thoughts"] == "" for s in table(run, "samples") if not s["response"])


def test_a_sample_is_shown_with_its_thoughts(run: Run) -> None:
    sample = next(s for s in table(run, "samples") if s["thoughts"])
    row, _, calls = find_sample(run, sample["id"])
    lines = list(history(row, calls))
    at = lines.index("thoughts before the response:")
    assert lines[at + 1] == f"    {sample['thoughts'].splitlines()[0]}" and "response:" in lines[at:]


def test_thoughts_that_leave_an_answer_no_room_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"thinking_tokens=2048: leaves no room .* context of oss \(2048 tokens\)"):
        planned(tmp_path, "run", "models.oss.max_model_len=2048")
    planned(tmp_path, "run", "models.plain.max_model_len=2048")  # one that does not think


def released(run: Run, where: Path, thoughts: str) -> Path:
    """The release of a copy of the run, with its thoughts or without."""
    shutil.copytree(run.path, where / "run")
    return build(Run.open(where / "run", [f"release.thoughts={thoughts}"]))


def data(release: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(release.glob("data/*.parquet")) for row in pq.read_table(path).to_pylist()]


def exported(release: Path) -> list[list[dict[str, str]]]:
    return [json.loads(x)["messages"] for p in sorted(release.glob("exports/chat-*.jsonl")) for x in p.open()]


def test_no_thought_reaches_another_field(run: Run) -> None:
    thoughts = {s for c in table(run, "calls") for s in c["thoughts"].split(". ") if len(s) > 20}
    files = [p for p in run.release.rglob("*") if p.suffix in (".parquet", ".jsonl", ".html", ".md")]
    assert thoughts and len(files) >= 5
    rows: list[Any] = [s | {"thoughts": ""} for s in table(run, "samples")]
    rows += [pq.read_table(run.round(1).pool).to_pylist()]
    rows += [pq.read_table(p).to_pylist() if p.suffix == ".parquet" else p.read_text() for p in files]
    everything = texts(rows)
    assert not [t for t in thoughts if t in everything] and not mark_in(everything)
    assert data(run.release) and "thoughts" not in data(run.release)[0]
    assert "think before they answer: the thoughts are not released." in (run.release / "README.md").read_text()
    assert verify(run.release) == []


def test_a_release_with_a_column_of_thoughts(run: Run, tmp_path: Path) -> None:
    release = released(run, tmp_path, "column")
    kept = {s["id"]: s["thoughts"] for s in table(run, "samples")}
    rows, plain = data(release), data(run.release)
    assert {r["id"]: r["thoughts"] for r in rows} == {r["id"]: kept[r["id"]] for r in plain} and any(kept.values())
    assert [{k: v for k, v in r.items() if k != "thoughts"} for r in rows] == plain
    assert exported(release) == exported(run.release)
    assert not mark_in(texts(rows))
    count = sum(bool(r["thoughts"]) for r in rows)
    assert f"what led to the response ({count} of {len(rows)} rows)." in (release / "README.md").read_text()
    assert verify(release) == []


def test_a_release_with_thoughts_inline(run: Run, tmp_path: Path) -> None:
    release = released(run, tmp_path, "inline")
    rows = data(release)
    assert {r["id"]: r["response"] for r in rows} == {r["id"]: r["response"] for r in data(run.release)}
    for row in rows:
        user, assistant = row["messages"]
        assert (user["content"], assistant["content"]) == (row["instruction"], inline(row["thoughts"], row["response"]))
        assert apart(assistant["content"]) == Apart(row["thoughts"], row["response"])
    assert [m[1]["content"] for m in exported(release)] == [r["messages"][1]["content"] for r in rows]
    assert "`messages` and exports have it within `<think>`" in (release / "README.md").read_text()
    assert verify(release) == []
    (train,) = export(release, "alpaca", tmp_path / "out", "drop")
    assert [r["output"] for r in json.loads(train.read_text())] == [r["response"] for r in rows]
    with pytest.raises(ReleaseError, match="has no thoughts"):
        export(run.release, "alpaca", tmp_path / "out", "inline")


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("response", "<think>Two and two.</think>\n\n4"),
        ("instruction", "Two and two.\n</think>\nAdd them."),
        ("summary", "<|channel|>analysis<|message|>sums"),
        ("thoughts", "Two [/THINK] and two."),
        ("keywords", ["two", "<|begin_of_thought|>two"]),
    ],
)
def test_a_release_with_thoughts_in_a_field_is_not_sound(
    run: Run, tmp_path: Path, column: str, text: str | list[str]
) -> None:
    """Whatever made it: an earlier version put them there."""
    release = released(run, tmp_path, "column")
    path = next(release.glob("data/train-*.parquet"))
    rows = pq.read_table(path)
    values = [text, *rows[column].to_pylist()[1:]]
    spoiled = rows.set_column(rows.schema.names.index(column), rows.field(column), pa.array(values, rows[column].type))
    pq.write_table(data_rows_again(spoiled), path)
    manifest = read_json(release / "manifest.json")
    manifest["files"][f"data/{path.name}"] |= {"sha256": sha256(path), "bytes": path.stat().st_size}
    (release / "manifest.json").write_bytes(to_json({k: v for k, v in manifest.items() if k != "seal"}))
    found = [p for p in verify(release) if "marks of thoughts" in p]
    assert found == [f"data/{path.name}: marks of thoughts in {column}: {mark_in(str(text))}"]


def data_rows_again(rows: pa.Table) -> pa.Table:
    """Rows whose messages follow their texts."""
    return rows.set_column(rows.schema.names.index("messages"), rows.field("messages"), chat(rows, Thoughts.column))


def test_seeds_as_they_are_bring_their_own(tmp_path: Path) -> None:
    """In every form of `thinking.jsonl`, and others; what the baseline is trained on is without them unless asked."""
    answers = [
        {"content": "<think>Two and two are four.</think>\n\n4"},
        {"content": "4", "reasoning_content": "Two and two are four."},
        {"content": "4", "reasoning": "Two and two are four."},
        {"content": "[THINK]Two and two are four.[/THINK]4"},
        {"content": [{"type": "thinking", "thinking": "Two and two are four."}, {"type": "text", "text": "4"}]},
        {"content": "4"},
    ]
    lines = [
        {"messages": [{"role": "user", "content": f"{i}: 2+2?"}, {"role": "assistant", **a}]}
        for i, a in enumerate(answers)
    ]
    before = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    before += [{"role": "assistant", "content": "2", "reasoning": "One more."}, {"role": "user", "content": "6: 2+2?"}]
    lines.append({"messages": [*before, {"role": "assistant", "content": "<think>Two and two are four.</think>4"}]})
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {
        "seeds": {"path": str(tmp_path / "seeds.jsonl")},
        "method": {"flow": "seeds"},
        "merge": {"semantic": False, "fuzzy": False},
        "launch": {"shards": 1},
        "release": {"diagnostics": {"rows": 0}, "validation": 0, "thoughts": "column"},
    }
    (tmp_path / "seeds.yaml").write_text(json.dumps(settings))
    made = planning.make(tmp_path / "run", presets.compose(str(tmp_path / "seeds.yaml")))
    finish(made)
    rows = {r["instruction"]: (r["response"], r["thoughts"]) for r in data(made.release)}
    assert rows == {f"{i}: 2+2?": ("4", "Two and two are four." if i != 5 else "") for i in range(7)}
    assert "6 seeds came with the thoughts" in (made.release / "README.md").read_text()
    assert verify(made.release) == []
    release = build(Run.open(made.path, ["release.thoughts=inline"]))
    whole = {r["instruction"]: [(m["role"], m["content"]) for m in r["messages"]] for r in data(release)}
    thought = ("assistant", "<think>\nTwo and two are four.\n</think>\n\n4")
    turns = [("system", "Be brief."), ("user", "1+1?"), ("assistant", "2"), ("user", "6: 2+2?"), thought]
    assert whole["6: 2+2?"] == turns, "no thoughts before the last turn"
    assert whole["0: 2+2?"] == [("user", "0: 2+2?"), thought]
    assert whole["5: 2+2?"] == [("user", "5: 2+2?"), ("assistant", "4")]
    assert verify(release) == []


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
    finish(resumed)

    def kept(rows: list[dict[str, Any]], *without: str) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k not in without} for row in rows]

    assert table(resumed, "calls")[::2] == before[::2]
    assert kept(table(resumed, "calls"), "at", "seconds") == kept(before, "at", "seconds")
    assert table(resumed, "samples") == table(run, "samples")
