"""Rows of a flow that brings its own columns: dropped as duplicates, split and checked by the texts that it names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq
import pytest

from gra_hpc.conversation import asked, pack
from gra_hpc.flows.keys import RECORDS, Keys
from gra_hpc.flows.payload import Made
from gra_hpc.flows.registry import Flow
from gra_hpc.release.verify.rows import check
from gra_hpc.release.verify.verify import verify
from gra_hpc.storage import read_json
from gra_hpc.training.examples import read_examples
from tests.flows.foreign.brought import brought
from tests.flows.foreign.quiz.flow import Solved, run
from tests.flows.test_conversation_run import run_of
from tests.flows.test_variants import released
from tests.merge.fabricate import WORDS, sample

LONG = " ".join(WORDS[:60])
TALK, TALKS = "let Total grow by one\nshow total", "let total grow by One\nshow Total"
"""As code two texts, as prose one."""
SEEDS = [
    ("prose: What rhymes?", LONG),
    ("verse: What  RHYMES?", LONG.replace(" ", "\n")),
    ("prose: What rhymes?", LONG.replace(WORDS[30], "silence")),
    ("prose: Say when.", TALK),
    ("verse: Say when.", TALKS),
    ("programs: Count.", TALK),
    ("scripts: Count.", TALKS),
    *((f"prose: What is {word}?", f"It is {word}.") for word in WORDS[100:130]),
]


@pytest.fixture
def quiz() -> Iterator[None]:
    with brought("quiz"):
        yield


@pytest.mark.usefixtures("quiz")
def test_rows_are_compared_by_the_columns_that_the_flow_names(tmp_path: Path) -> None:
    """Exactly and nearly; a group that is code by its indents, another not."""
    records = [{"instruction": text, "response": program} for text, program in SEEDS]
    made = run_of(tmp_path, "method.flow=quiz", "release.validation=0.3", records=records)
    manifest, rows = released(made)
    dropped = [r for f in (made.release / "rejects").glob("dropped*") for r in pq.read_table(f).to_pylist()]
    assert Counter((r["stage"], r["question"].split()[0]) for r in dropped) == {
        ("exact", "What"): 1,
        ("fuzzy", "What"): 1,
        ("exact", "Say"): 1,
    }
    assert len(rows) + len(dropped) == len(SEEDS) == manifest["ledger"]["accepted"]
    assert {r["program"] for r in rows if r["question"] == "Count."} == {TALK, TALKS}
    for row in rows:
        assert [m["content"] for m in row["messages"]] == [row["question"], row["program"]]
    assert [e.messages[-1] for e in read_examples(str(made.path)).conversations] == [
        {"role": "assistant", "content": row["program"]}
        for f in sorted((made.release / "data").glob("train*"))
        for row in pq.read_table(f).to_pylist()
    ]
    signed = read_json(made.round(1).shard(0).manifest)["signatures"]
    assert signed["rows"] and {"digests", "bands"} == {*signed["parts"]}, "shards sign what they publish"


@pytest.mark.usefixtures("quiz")
def test_a_text_is_in_one_split_alone(tmp_path: Path) -> None:
    """Rows of different seeds that ask the same are held out together; `gra release verify` would tell."""
    records = [{"instruction": f"prose: Number {n // 5}", "response": word} for n, word in enumerate(WORDS[:200])]
    made = run_of(tmp_path, "method.flow=quiz", "release.validation=0.5", "merge.fuzzy=false", records=records)
    manifest, rows = released(made)
    data = made.release / "data"
    train, held_out = (
        {r["question"] for f in data.glob(s) for r in pq.read_table(f).to_pylist()} for s in ("t*", "v*")
    )
    assert len(rows) == 200 and train and held_out and not train & held_out
    moved = next(data.glob("v*"))
    table = pq.read_table(moved)
    at = table.column_names.index("question")
    names = [next(iter(train)), *table["question"].to_pylist()[1:]]
    pq.write_table(table.set_column(at, table.schema.field(at), [names]), moved)
    assert manifest["splits"]["validation"]["rows"] == len(table)
    assert any("1 texts are in both splits" in p for p in check(made.release, manifest, list(manifest["files"])))
    assert verify(made.release)


def test_what_is_embedded_is_the_text_with_what_was_said_before() -> None:
    result = Solved("prose", "What rhymes?", "hat")
    one: Made[Solved] = Made("i", 1, "s", 0, flow="quiz", result=result)
    assert Keys("question", "program").embedded(one) == "What rhymes?"
    answer = sample(0, "Another?", "Io.")
    answer.context = pack([{"role": "user", "content": "Name a moon."}, {"role": "assistant", "content": "Titan."}])
    assert RECORDS.embedded(answer) == asked(answer.context, "Another?") != "Another?"


@dataclass
class Pooled:
    """What a record has, and more."""

    question: str
    instruction: str
    response: str
    domain: str
    summary: str
    keywords: tuple[str, ...]


@dataclass
class Counts:
    """A result whose columns are no texts but one."""

    title: str
    number: int
    kind: Literal["a", "b"]
    said: str | None = None
    sort: Literal["a", "b"] | None = None
    level: Literal["a", 1] = "a"


@pytest.mark.parametrize("name", ["number", "instruction", "level"])
def test_keys_that_are_no_texts_of_the_result_are_refused(name: str) -> None:
    said = f"keys: '{name}' is no text of the flow's result; its texts: title, kind, said, sort$"
    with pytest.raises(TypeError, match=said):
        Flow("x", "", (), (), run, result=Counts, keys=Keys(name))


def test_keys_are_texts_or_some_of_them_and_the_first_is_never_null() -> None:
    """An answer or a group may be missing: the row is compared by what it has."""
    for keys in (Keys("title", "said", "sort"), Keys("kind", "title", "kind")):
        assert Flow("x", "", (), (), run, result=Counts, keys=keys).keys == keys
    for name in ("said", "sort"):
        with pytest.raises(TypeError, match=f"keys: '{name}' may be null, .*; expected str"):
            Flow("x", "", (), (), run, result=Counts, keys=Keys(name))


def test_a_pool_holds_records_alone() -> None:
    """Results have their columns, and are compared by them: a later round's rows meet them as records."""
    with pytest.raises(TypeError, match="pools: the flow's result has no domain, instruction, keywords"):
        Flow("x", "", (), (), run, result=Counts, pools=True)
    with pytest.raises(TypeError, match="so keys are instruction, response"):
        Flow("x", "", (), (), run, result=Pooled, pools=True, keys=Keys("question", "response"))
    flow = Flow(
        "x", "", (), (), run, result=Pooled, pools=True, keys=Keys("instruction", group="domain", code=("sql",))
    )
    assert flow.keys and flow.keys.of_records == Keys("instruction", group="domain", code=("coding", "sql"))


def test_what_a_round_has_pooled_is_no_row_of_a_later_one(tmp_path: Path) -> None:
    """Of a flow that asks nobody, and has no templates."""
    records = [{"instruction": f"Name {word}.", "response": f"{word}!"} for word in WORDS[:6]]
    with brought("echo"):
        manifest, rows = released(made := run_of(tmp_path, "method.flow=echo", "method.rounds=2", records=records))
    dropped = [r for f in (made.release / "rejects").glob("dropped*") for r in pq.read_table(f).to_pylist()]
    assert {r["round"] for r in rows} == {1} and {(r["round"], r["stage"]) for r in dropped} == {(2, "exact")}
    assert {r["winner"] for r in dropped} == {r["id"] for r in rows} and len(rows) == len(dropped) == 6
    assert manifest["rounds"][1]["survived"] == 0


@pytest.mark.usefixtures("quiz")
def test_a_row_that_an_earlier_round_kept_is_none_of_a_later_one(tmp_path: Path) -> None:
    """Also where rows are no records: they are compared with what is released of the run, not with the seeds."""
    records = [{"instruction": f"prose: Name {word}.", "response": f"{word}!"} for word in WORDS[:6]]
    made = run_of(tmp_path, "method.flow=quiz", "method.rounds=3", records=records)
    manifest, rows = released(made)
    dropped = [r for f in (made.release / "rejects").glob("dropped*") for r in pq.read_table(f).to_pylist()]
    assert {r["round"] for r in rows} == {1} and len(rows) == 6 and len(dropped) == 12
    assert {r["winner"] for r in dropped} == {r["id"] for r in rows} and {r["stage"] for r in dropped} == {"exact"}
    assert {r["seed_id"] for r in dropped if r["round"] == 3} == {r["seed_id"] for r in rows}
    counts = read_json(made.round(3).manifest)["counts"]
    assert (counts["pool_before"], counts["pool"], manifest["rounds"][2]["survived"]) == (6, 6, 0)
