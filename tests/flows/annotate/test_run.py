"""A whole run that labels, with the simulated engine: from records to a merged round."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gra_hpc import parquet
from gra_hpc.config import presets
from gra_hpc.errors import ConfigError, SeedError
from gra_hpc.flows.annotate.examples import Pool, check_labels, text_of
from gra_hpc.flows.annotate.questions import Labels
from gra_hpc.flows.annotate.settings import AnnotateConfig, Examples, Kind
from gra_hpc.flows.own_templates import variables
from gra_hpc.flows.registry import find
from gra_hpc.flows.render import render
from gra_hpc.flows.tools import is_use
from gra_hpc.launch.round_end import finish_round
from gra_hpc.launch.tasks import ShardTask
from gra_hpc.records import Record
from gra_hpc.release.people import agreement
from gra_hpc.release.verify.verify import verify
from gra_hpc.run import planning
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json
from gra_hpc.views import sample
from gra_hpc.views.unpublished import newest_calls

WORDS = ("engine.kind=simulated", "merge.semantic=false")


def planned(tmp_path: Path, *words: str, records: int = 40, labels: str = "") -> Run:
    rows = [{"instruction": f"Remark {i} of a customer.", "response": labels if i % 2 else ""} for i in range(records)]
    seeds = tmp_path / "remarks.jsonl"
    seeds.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return planning.make(tmp_path / "run", presets.compose("annotate", [f"seeds.path={seeds}", *WORDS, *words]))


def rows_of(run: Run) -> list[dict[str, Any]]:
    shards = [run.round(1).shard(n) for n in range(2)]
    tables = [shard.samples(read_json(shard.manifest)["attempt"]) for shard in shards]
    names = ["id", "status", "stage", "reason", "text", "label", "confidence", "how", "annotations", "verdict", "gold"]
    return [row for table in tables for row in parquet.read_table(table, names).to_pylist()]


@pytest.mark.parametrize("kind", ["choice", "multi", "score", "pair"])
def test_every_record_gets_a_label_or_is_undecided(kind: str, tmp_path: Path) -> None:
    words = [f"annotate.kind={kind}", "annotate.aggregate=majority", "annotate.agree=0.7"]
    words += ["annotate.labels={}"] if not Kind(kind).named else []
    run = planned(tmp_path, *words)
    for n in range(2):
        ShardTask(str(run.path), 1, n)()
    rows = rows_of(run)
    assert len(rows) == 40
    assert not [r for r in rows if r["status"] == "failed"]
    assert all(len(r["annotations"]) == 3 for r in rows)
    for row in rows:
        assert (row["status"] == "accepted") == (row["label"] != "") == (row["how"] in ("agreed", "settled"))
        assert (row["verdict"] is not None) == (row["how"] != "agreed")
        if row["status"] == "rejected":
            assert (row["stage"], row["reason"], row["how"]) == ("adjudication", "undecided", "undecided")
    assert len(Counter(r["how"] for r in rows)) >= 2
    manifest = read_json(run.round(1).shard(0).manifest)
    assert manifest["ledger"]["accepted"] + sum(manifest["ledger"]["rejected"].values()) == 20


def test_records_that_come_with_a_label_are_examples_and_gold(tmp_path: Path) -> None:
    run = planned(tmp_path, "annotate.examples=random", "annotate.shots=3", labels="neutral")
    for n in range(2):
        ShardTask(str(run.path), 1, n)()
    assert Counter(r["gold"] for r in rows_of(run)) == {"neutral": 20, "": 20}
    (tmp_path / "wrong").mkdir()
    with pytest.raises(
        SeedError, match=r"jsonl:2: .*'lukewarm': no such label \(and in 19 more.*positive, negative, neutral"
    ):
        planned(tmp_path / "wrong", labels="lukewarm")
    assert not (tmp_path / "wrong" / "run").exists()
    labels = Labels.of(AnnotateConfig(labels={"Yes": "", "yes": "", "no": ""}))
    written = ("no", " NO", "YES", "rant", "rant")
    with pytest.raises(SeedError) as e:  # yes and Yes are two
        check_labels([Record(str(i), "x", w, source=f"p.jsonl:{i}") for i, w in enumerate(written)], labels)
    assert str(e.value).startswith(
        "p.jsonl:2: its label 'YES': no such label; "
        "p.jsonl:3: its label 'rant': no such label (and in 1 more); expected Yes, yes, no"
    )


def test_nearest_examples_are_like_the_item_and_never_itself() -> None:
    """Planted: records are noisy copies of a few; a record's nearest examples are its siblings."""
    rng = np.random.default_rng(0)
    of = {f"r{i}": rng.normal(size=8) for i in range(10)}
    records = [Record(f"{name}-{i}", f"{name} {i}", "ab"[n % 2]) for n, name in enumerate(of) for i in range(4)]

    def embed(texts: list[str]) -> np.ndarray:
        found = np.array([of[t.split()[0]] + rng.normal(0, 0.01, 8) for t in texts])
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    config = AnnotateConfig(labels={"a": "", "b": ""}, examples=Examples.nearest, shots=3)
    pool = Pool.of(config, records, records, embed)  # type: ignore[arg-type]
    labels = Labels.of(config)
    assert pool.nearest is not None
    for record in records:
        shown = pool.at(pool.nearest.work(item=record.id), labels)
        assert {e.text.split()[0] for e in shown} == {record.instruction.split()[0]}
        assert text_of(record) not in [e.text for e in shown]
        assert all(json.loads(e.answer) == {"label": record.response} for e in shown)


KILLED = (
    "import os, sys; from gra_hpc.run import journal; from gra_hpc.launch.tasks import ShardTask\n"
    "kept, seen = journal.Journal.append, []\n"
    "def append(self, call):\n"
    "    kept(self, call); self.flush(); seen.append(call)\n"
    "    if len(seen) == 6: os.kill(os.getpid(), 9)\n"
    "journal.Journal.append = append\n"
    "ShardTask(sys.argv[1], 1, 0)()"
)


@pytest.mark.slow
def test_nearest_examples_are_kept_as_answers_are(minilm: Path, tmp_path: Path) -> None:
    """Killed in the middle and resumed: what was found before is not looked for again."""
    words = ("annotate.examples=nearest", "annotate.shots=2", "merge.semantic=true", f"merge.embed_model={minilm}")
    run = planned(tmp_path, *words, "launch.shards=1", "launch.window=2", records=8, labels="neutral")
    died = subprocess.run([sys.executable, "-c", KILLED, str(run.path)], capture_output=True, check=False)
    assert died.returncode == -9, died.stderr
    shard = run.round(1).shard(0)
    journal = next(iter(shard.path.glob("attempts/*/*.log")))
    before = {call.key: call for call in newest_calls(journal) if is_use(call.key)}
    ShardTask(str(run.path), 1, 0)()
    manifest = read_json(shard.manifest)
    assert manifest["tools"] == {"nearest": 8}
    assert not [key for key in manifest["tokens"] if key.startswith("tool")]
    calls = parquet.read_table(shard.calls(manifest["attempt"]), ["key", "at", "text"]).to_pylist()
    uses = {c["key"]: c for c in calls if is_use(c["key"])}
    assert len(uses) == 8
    assert all(len(json.loads(c["text"])) == 2 for c in uses.values())
    assert before
    assert {key: (c.at, c.text) for key, c in before.items()} == {k: (uses[k]["at"], uses[k]["text"]) for k in before}
    finish_round(run, 1)
    rows = sample.table(shard.samples(manifest["attempt"])).to_pylist()
    rows.sort(key=lambda r: r["gold"], reverse=True)
    plain = "\n".join(sample.history(rows[0], shard.calls(manifest["attempt"])))
    assert "  nearest            tool " in plain and "annotations: member ada, said " in plain
    told = "\n".join(sample.history(rows[0], shard.calls(manifest["attempt"]), run))
    assert "annotator ada: " in told and "came with the label: neutral" in told and "released: " in told
    for shown in (plain, told):
        assert "{" not in shown.partition("calls (")[0] and "None" not in shown and "second" not in shown
    page = (run.release / "report.html").read_text(encoding="utf-8")
    assert "nearest" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["annotate.kind=score"], "annotate.labels"),
        (["annotate.labels={}"], "annotate.labels"),
        (["annotate.labels={'': x, b: y}"], "annotate.labels"),
        (['annotate.labels={"a\\x1b[31m": x, b: y}'], "annotate.labels"),
        (["annotate.kind=spans"], "annotate.aggregate"),
        (["annotate.aggregate=weighted"], "annotate.weights"),
        (["annotate.weights={ada: 2}"], "annotate.weights"),
        (["annotate.examples=nearest"], "merge.semantic"),
        (["method.rounds=2"], "method.rounds"),
        (["method.policy=performance"], "method.policy"),
        (["method.flow=synthesize"], "annotate"),
    ],
)  # fmt: skip
def test_settings_that_labels_have_no_use_for(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        presets.compose("annotate", [*WORDS, *words])


def test_templates_can_be_rendered_and_say_what_is_asked() -> None:
    flow = find("annotate")
    for question in flow.questions:
        given = flow.trial(question.step)
        text = (flow.prompts / f"{question.step}.j2").read_text(encoding="utf-8")
        assert variables(text) <= given.keys()
        messages = render(question.step, given, question.prompts)
        assert messages[-1]["role"] == "user"
        assert "The tea was cold." in messages[-1]["content"]
        said = "A: praise (the writer is pleased)" if question.choices else '"praise": the writer is pleased'
        assert said in messages[0]["content"]


def test_a_run_ends_in_a_release_that_people_can_be_laid_beside(tmp_path: Path) -> None:
    run = planned(tmp_path, "annotate.audit=10", "annotate.for_humans=5", labels="neutral")
    for n in range(2):
        ShardTask(str(run.path), 1, n)()
    finish_round(run, 1)
    rows = rows_of(run)
    ledger = read_json(run.round(1).manifest)["ledger"]
    assert ledger["planned"] == len(rows) == 40
    assert ledger["accepted"] == sum(r["status"] == "accepted" for r in rows)
    assert verify(run.release) == []
    labels = parquet.read_table(
        run.release / "labels.parquet", ["id", "label", "how", "annotators", "gold"]
    ).to_pylist()
    assert [r["id"] for r in labels] == [r["id"] for r in rows]
    assert all((r["label"] is None) == (r["how"] == "undecided") for r in labels)
    facts = read_json(run.release / "manifest.json")["added"]["facts"]
    assert facts["how"]["agreed"] == sum(r["how"] == "agreed" for r in labels)
    assert facts["cost"]["committee"]["calls"] >= 3000
    assert facts["gold"]["items"] == 20
    card = (run.release / "README.md").read_text(encoding="utf-8")
    assert "Krippendorff's alpha" in card
    assert "Beside the labels that came with the records" in card
    people = []
    for person in ("pat", "quin"):
        lines = (run.release / "for_humans.csv").read_text(encoding="utf-8").splitlines()
        assert len(lines) == 16
        filled = [
            lines[0],
            *(line.removesuffix(",") + f"{('positive', 'negative')[i % 2]}," for i, line in enumerate(lines[1:])),
        ]
        people.append(tmp_path / f"{person}.csv")
        people[-1].write_text(
            "\n".join(line.replace(",,", ",", 1) if i else line for i, line in enumerate(filled)), encoding="utf-8"
        )
    said = "\n".join(agreement(run.release, people))
    assert "pat, quin; 10 items, drawn at random" in said
    assert "with the committee in one's place" in said


CHAIN = (
    "annotate.route=chain",
    "annotate.chain=[ada, ben, cyd]",
    "annotate.margins=[2, 1]",
    "annotate.aggregate=majority",
)


@pytest.mark.parametrize("rank", ["true", "false"])
def test_a_chain_keeps_what_each_link_is_sure_of(rank: str, tmp_path: Path) -> None:
    run = planned(tmp_path, *CHAIN, f"annotate.rank={rank}", "annotate.examples=random", labels="neutral", records=80)
    for n in range(2):
        ShardTask(str(run.path), 1, n)()
    finish_round(run, 1)
    rows = rows_of(run)
    assert {r["status"] for r in rows} == {"accepted"}
    for row in rows:
        margins = [a["margin"] for a in row["annotations"]]
        assert [a["member"] for a in row["annotations"]] == ["ada", "ben", "cyd"][: len(margins)]
        stopped = [margin >= bound for margin, bound in zip(margins, (2, 1), strict=False)]
        assert stopped == [False] * (len(margins) - 1) + ([True] if len(margins) < 3 else [])
        assert row["label"] == row["annotations"][-1]["said"]
        assert 1 / 3 < row["confidence"] <= 1
    links = read_json(run.release / "manifest.json")["added"]["facts"]["chain"]
    assert [c["saw"] for c in links] == [80, links[0]["saw"] - links[0]["kept"], links[1]["saw"] - links[1]["kept"]]
    assert sum(c["kept"] for c in links) == 80
    released = parquet.read_table(run.release / "labels.parquet", ["label"])["label"].to_pylist()
    changed = sum(new != row["label"] for new, row in zip(released, rows, strict=True))
    assert (changed > 0) == (rank == "true")
    assert verify(run.release) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["annotate.chain=[ada, ada]"], "annotate.chain"),
        (["annotate.chain=[ada, zoe, cyd]"], "annotate.chain"),
        (["annotate.margins=[1]"], "annotate.margins"),
        (["annotate.route=all"], "annotate.chain"),
        (["annotate.aggregate=dawid_skene"], "annotate.aggregate"),
        (["annotate.kind=multi"], "annotate.kind"),
    ],
)
def test_chains_that_are_none(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        presets.compose("annotate", [*WORDS, *CHAIN, *words])
