"""Seeds with context as whole runs: what the models see of it, and that table, merge, release and exports keep it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from gra_hpc.config import presets
from gra_hpc.conversation import json_text, messages_of, shown
from gra_hpc.flows.gra.questions import PROMPTS
from gra_hpc.flows.render import render
from gra_hpc.records import Record
from gra_hpc.release.export import export
from gra_hpc.release.verify.verify import verify
from gra_hpc.run import planning
from gra_hpc.run.run import Run
from gra_hpc.sources.seeds import read_records
from gra_hpc.storage import read_json
from gra_hpc.training.examples import read_examples
from gra_hpc.views.plan import preview
from gra_hpc.views.prompts import rendered
from gra_hpc.views.sample import find_sample, history
from tests.flows.test_variants import released
from tests.sources.loading import load_file
from tests.sources.test_conversations import ASKED, TALK, TOOLS

SAME = [{"role": "user", "content": "Name a lake."}, {"role": "assistant", "content": "Saimaa."}, *TALK[3:]]
"""Ends with the same exchange as `TALK`, and is another conversation."""
RECORDS: list[dict[str, Any]] = [
    {"messages": TALK},
    {"messages": SAME},
    {"messages": ASKED, "tools": TOOLS},
    {"instruction": "Name a metal.", "output": "Iron."},
    {"prompt": "Name a bird.", "chosen": "Wren.", "rejected": "Bus."},
    {"messages": [*ASKED[:1], *ASKED[3:]], "tools": TOOLS},
]


def run_of(tmp_path: Path, *words: str, records: list[dict[str, Any]] = RECORDS) -> Run:
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    fixed = ["merge.semantic=false", "engine.kind=simulated", "launch.shards=2", "release.validation=0"]
    config = presets.compose("demo", [f"seeds.path={tmp_path / 's.jsonl'}", *fixed, *words])
    return planning.make(tmp_path / "run", config)


def plain(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the nulls of a table."""
    return [{k: v for k, v in m.items() if v is not None} for m in messages]


def seeds_of(run: Run) -> dict[str, Record]:
    return {s.id: s for s in read_records(run.seeds)}


def test_the_plan_says_what_was_left_aside(tmp_path: Path) -> None:
    (line,) = (x for x in preview(run_of(tmp_path, "method.flow=seeds"), None) if x.startswith("seeds "))
    assert "4 with context before their last exchange; left aside: 1 rejected answers" in line


def test_a_release_of_the_seeds_holds_their_conversations(tmp_path: Path) -> None:
    """None is dropped for one that ends alike; what is exported is the same seeds again."""
    forms = "release.formats=[alpaca,sharegpt,chat]"
    run = run_of(tmp_path, "method.flow=seeds", forms, "release.thoughts=column")
    manifest, rows = released(run)
    assert len(rows) == 6, manifest["dropped"]
    assert {json_text(plain(r["messages"])) for r in rows} == {
        json_text(messages_of(s.context, s.instruction, s.response)) for s in seeds_of(run).values()
    }
    assert sorted(r["tools"] or "" for r in rows) == ["", "", "", "", *[json_text(TOOLS)] * 2]
    card = (run.release / "README.md").read_text()
    page = (run.release / "report.html").read_text()
    assert "[user]\nName a moon.\n\n[assistant]\nIo.\n\n[user]\nAnother?</pre>" in page
    first = rows[0]["messages"][0]["content"]
    assert first in card
    assert "`messages` is the whole conversation" in card and "Left aside: 1 rejected answers." in card
    assert manifest["seeds"]["contexts"] == 4 and manifest["seeds"]["aside"] == {"rejected answers": 1}
    ids = set(seeds_of(run))
    for name in ("sharegpt-train.json", "chat-train.jsonl"):
        found = load_file(run.release / "exports" / name)
        assert {s.id for s in found.seeds} == ids and not found.rejects, name
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "x.parquet").symlink_to(next(run.release.glob("data/train-*.parquet")))
    assert {s.id for s in load_file(tmp_path / "rows").seeds} == ids
    alpaca = load_file(run.release / "exports" / "alpaca-train.json")
    assert {s.id for s in alpaca.seeds} == {i for i, s in seeds_of(run).items() if "tools" not in s.context}
    learned = read_examples(str(run.release))
    assert sorted(len(c.tools) for c in learned.conversations) == [0, 0, 0, 0, 1, 1]
    calls = [m["tool_calls"] for c in learned.conversations for m in c.messages if "tool_calls" in m]
    assert calls == [[{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]]
    info = read_json(run.release / "exports" / "dataset_info.json")
    assert {tuple(sorted(i["columns"])) for i in info.values()} == {
        ("history", "prompt", "query", "response", "system"), ("messages", "tools")
    }  # fmt: skip
    assert export(run.release, "chat", tmp_path / "out")[0].read_bytes() == (
        run.release / "exports" / "chat-train.jsonl").read_bytes()  # fmt: skip


def test_refined_responses_answer_the_conversation(tmp_path: Path) -> None:
    """Generator, Reviewers and summary see it; also round 0, and the pool keeps it."""
    words = ["method.flow=refine", "method.accept_mean=1", "method.accept_sd=9", "method.samples_per_seed=2"]
    run = run_of(tmp_path, *words)
    _, rows = released(run)
    seeds = seeds_of(run)
    assert len(rows) == 12 and {r["seed_id"] for r in rows} == set(seeds)
    for row in rows:
        seed = seeds[row["seed_id"]]
        assert plain(row["messages"]) == messages_of(seed.context, seed.instruction, row["response"])
    pool = list(read_records(run.round(1).pool))
    assert sum(bool(r.context) for r in pool) == 4 * 3
    text = "\n".join(rendered(run))
    for title in ("round 0 (describe)", "round 1, generator: refine", "round 1, reviewer-1: review_response"):
        part = text.split(f"--- {title}")[1].split("---")[0]
        assert "[system]\nBe brief.\n\n[user]\nName a moon.\n\n[assistant]\nIo.\n\n[user]\nAnother?" in part, title
        assert "Instruction:" not in part
    talk = next(s for s in seeds.values() if s.response == "Europa." and "moon" in s.context)
    id_ = next(r["id"] for r in rows if r["seed_id"] == talk.id)
    row, _, calls = find_sample(run, id_)
    assert "    Name a moon." in list(history(row, calls))


def test_what_is_generated_has_no_context_and_seeds_keep_theirs(tmp_path: Path) -> None:
    run = run_of(tmp_path, "method.accept_mean=1", "method.accept_sd=9")
    _, rows = released(run)
    assert rows and all(len(r["messages"]) == 2 and r["tools"] is None for r in rows)
    pool = list(read_records(run.round(1).pool))
    assert {r.id: r.context for r in pool if r.round == 0} == {s.id: s.context for s in seeds_of(run).values()}
    rejects = [t for f in run.release.glob("rejects/*.parquet") for t in pq.read_schema(f).names if t == "context"]
    assert len(rejects) == len(list(run.release.glob("rejects/*.parquet")))


def test_a_context_that_leads_elsewhere_is_no_release(tmp_path: Path) -> None:
    import pyarrow as pa

    from gra_hpc import storage

    run = run_of(tmp_path, "method.flow=seeds")
    released(run)
    path = next(run.release.glob("data/train-*.parquet"))
    table = pq.read_table(path)
    spoiled = [[{**m, "content": "Else?" if m["content"] == "Another?" else m["content"]} for m in row]
               for row in table["messages"].to_pylist()]  # fmt: skip
    at = table.schema.get_field_index("messages")
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(spoiled, table.schema.field(at).type)), path)
    manifest = read_json(run.release / "manifest.json")
    manifest["files"][f"data/{path.name}"] |= storage.entry(path)
    (run.release / "manifest.json").write_bytes(storage.sealed({k: v for k, v in manifest.items() if k != "seal"}))
    assert any("messages are not context, instruction and response" in p for p in verify(run.release))


@pytest.mark.parametrize("step", ["describe", "refine", "review_response", "adjudicate", "summary"])
def test_prompts_show_calls_and_tools(step: str) -> None:
    (seed,) = (
        s
        for s in [
            Record("i", "How cold is Oslo?", "3 degrees.", context=json.dumps({"messages": ASKED[:3], "tools": TOOLS}))
        ]
    )
    variables = {"instruction": seed.instruction, "context": shown(seed.context), "response": seed.response}
    more = {"keywords": 3, "summary_words": 30, "reviews": []}
    text = "\n".join(m["content"] for m in render(step, variables | more, PROMPTS))
    for words in (
        '[tools]\n[{"function"',
        "[user]\nHow cold is Oslo?",
        'weather({"city":"Oslo"})',
        '[tool]\n{"temp": 3}',
    ):
        assert words in text
    without = "\n".join(m["content"] for m in render(step, variables | more | {"context": ""}, PROMPTS))
    assert "Instruction:\nHow cold is Oslo?" in without or "Task:\nHow cold is Oslo?" in without
