"""labels.parquet, for_humans.csv, and the figures of a run."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gra_hpc.errors import GraError
from gra_hpc.flows.annotate.label import Item
from gra_hpc.flows.annotate.questions import Labels, Said
from gra_hpc.flows.annotate.settings import Aggregate, AnnotateConfig, Kind
from gra_hpc.flows.annotate.views import agreement, outputs
from gra_hpc.flows.annotate.views.collected import COLUMNS, Collected
from gra_hpc.flows.annotate.views.people import People, _csv, of_files
from gra_hpc.labels.spans import Span
from tests.flows.annotate.made_up import MEMBERS, item, planted, table

ABC = {"a": "", "b": "", "c": ""}


def collected(tables: list[pa.Table], config: AnnotateConfig) -> Collected:
    return Collected.of([t.select(COLUMNS) for t in tables], Labels.of(config), MEMBERS)


def written(items: list[Item], config: AnnotateConfig, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    tables = [table(items[:3]), table(items[3:])] if len(items) > 3 else [table(items)]
    found = collected(tables, config)
    outputs.write(lambda: tables, found, found.final(config), config, 1, out)
    people = csv.DictReader(io.StringIO((out / outputs.HUMANS).read_text(encoding="utf-8"), newline=""))
    return pq.read_table(out / outputs.LABELS).to_pylist(), list(people)


def test_every_item_has_its_label_and_who_said_what(tmp_path: Path) -> None:
    config = AnnotateConfig(labels=dict(ABC), audit=1, for_humans=2)
    items = [
        item(["a", "a", "b"], config, "text\nwith, commas"),
        item(["a", "b", "c"], config, verdict=Said("c", "the text says c")),
        item(["a", "b", "c"], config, verdict=Said("c", sure=False)),
        item(["b", None, "b"], config),
        item([None, None, None], config),
    ]
    rows, people = written(items, config, tmp_path)
    assert [r["label"] for r in rows] == ["a", "c", None, "b", None]
    assert [r["how"] for r in rows] == ["agreed", "settled", "undecided", "agreed", "failed"]
    assert rows[0]["annotators"][2] == {"member": "cyd", "label": "b", "reason": "cyd thinks so"}
    assert rows[1]["adjudicator"] == {"member": "fay", "label": "c", "reason": "the text says c"}
    assert [a["member"] for a in rows[3]["annotators"]] == ["ada", "cyd"]
    assert [p["why"] for p in people] == ["audit", "uncertain", "uncertain"]
    assert all(p["label"] == "" and set(p) == {"id", "why", "text", "label", "note"} for p in people)
    unsure = {r["id"] for r in rows if r["label"] is None}
    assert unsure <= {p["id"] for p in people}
    assert people[-1]["text"] in {r["text"] for r in rows}


@pytest.mark.parametrize(
    ("kind", "said", "label"),
    [
        ("score", [4, 4, 5], 4),
        ("multi", [frozenset("ab"), frozenset("b"), frozenset("b")], ["b"]),
        ("pair", ["first", "first", "tie"], "first"),
        ("spans", [frozenset([Span(2, 6, "a")])] * 3, [{"start": 2, "end": 6, "label": "a", "quote": "text"}]),
    ],
)
def test_labels_of_all_kinds_are_written_as_what_they_are(
    kind: str, said: list[Any], label: Any, tmp_path: Path
) -> None:
    config = AnnotateConfig(kind=Kind(kind), labels=dict(ABC) if Kind(kind).named else {})
    rows, people = written([item(said, config)], config, tmp_path)
    assert rows[0]["label"] == label
    assert rows[0]["annotators"][0]["label"] is not None
    assert ("second" in rows[0], "second" in people[0]) == (kind == "pair",) * 2
    assert agreement.facts(
        collected([table([item(said, config)])], config), collected([], config).final(config), config
    )


def test_an_empty_run_is_empty_tables(tmp_path: Path) -> None:
    config = AnnotateConfig(labels=dict(ABC), aggregate=Aggregate.dawid_skene)
    rows, people = written([], config, tmp_path)
    assert (rows, people) == ([], [])


def run_of(accuracies: list[float], config: AnnotateConfig, n: int = 600) -> tuple[np.ndarray, Collected, list[str]]:
    names = list(config.labels)
    truth, said = planted(n, accuracies, len(names), 3)
    if config.kind is Kind.multi:  # one label in two is there
        items = [item([frozenset([names[s]]) for s in row], config) for row in said.tolist()]
    else:
        items = [item([names[s] for s in row], config) for row in said.tolist()]
    of = table(items)
    return truth, collected([of], config), of["id"].to_pylist()


def test_dawid_and_skene_know_whom_to_believe() -> None:
    config = AnnotateConfig(labels=dict(ABC), agree=0.4)
    truth, found, _ = run_of([0.95, 0.9, 0.35, 0.35, 0.35], config)
    config.aggregate = Aggregate.dawid_skene
    agreed = found.agreed
    final = found.final(config)
    assert (final.code[agreed] == truth[agreed]).mean() > (found.label[agreed] == truth[agreed]).mean() + 0.05
    assert (final.code[~agreed] == -1).all()  # the Adjudicator was asked, and nothing came of it
    facts = agreement.facts(found, final, config)
    assert facts["members"]["ada"]["accuracy_estimated"] > 0.85 > 0.5 > facts["members"]["cyd"]["accuracy_estimated"]
    assert facts["how"]["agreed"] == agreed.sum()
    assert sum(facts["labels"].values()) == agreed.sum()


def test_dawid_and_skene_of_several_labels_each() -> None:
    config = AnnotateConfig(kind=Kind.multi, labels=dict(ABC), aggregate=Aggregate.dawid_skene, agree=0.5)
    truth, found, _ = run_of([0.95, 0.9, 0.35, 0.35, 0.35], config)
    agreed = found.agreed
    right = found.final(config).code == 1 << truth
    assert right[agreed].mean() > (found.label == 1 << truth)[agreed].mean() + 0.05
    assert set(agreement.among_members(found)) == set(ABC)


def test_the_audit_is_random_and_the_uncertain_are_the_least_certain() -> None:
    config = AnnotateConfig(labels=dict(ABC), audit=50, for_humans=80)
    _, found, _ = run_of([0.9, 0.8, 0.7], config)
    final = found.final(config)
    why = outputs.for_people(found, final, config, 7)
    audit = [i for i, w in why.items() if w == "audit"]
    rest = [i for i, w in why.items() if w == "uncertain"]
    assert (len(audit), len(rest)) == (50, 80)
    others = np.setdiff1d(np.arange(len(found)), list(why))
    worst = np.where(final.code < 0, final.confidence - 1, final.confidence)
    assert worst[rest].max() <= worst[others].min()
    turned = Collected(found.labels, found.members, *(a[::-1] for a in (
        found.said, found.margin, found.label, found.confidence, found.how, found.gold, found.keys)))  # fmt: skip
    same = [len(found) - 1 - i for i in outputs.for_people(turned, turned.final(config), config, 7)]
    assert same == list(why)  # whatever the order of the shards


def test_people_beside_committee_and_members(tmp_path: Path) -> None:
    config = AnnotateConfig(labels=dict(ABC))
    truth, found, ids = run_of([0.95, 0.85, 0.6], config)
    files = []
    for person, accuracy in (("pat", 0.9), ("quin", 0.9)):
        said = planted_person(truth, accuracy, person)
        rows = "".join(
            f"{i},{'audit' if n < 300 else 'uncertain'},{'abc'[s]}\n"
            for n, (i, s) in enumerate(zip(ids, said, strict=True))
        )
        (tmp_path / f"{person}.csv").write_text("id,why,label\n" + rows, encoding="utf-8-sig")
        files.append(People.read(tmp_path / f"{person}.csv"))
    got = agreement.with_people(ids, found, found.final(config), files)
    assert (got["items"], got["at_random"]) == (300, True)
    part = got["labels"][""]
    accuracy = {who: f["accuracy"].value for who, f in part["members"].items() if f["decided"]}
    assert accuracy["ada"] > accuracy["ben"] > accuracy["cyd"]
    assert part["committee"]["accuracy"].low < part["committee"]["accuracy"].value < part["committee"]["accuracy"].high
    assert part["alternative"].people > 0.5
    text = "\n".join(agreement.lines(got))
    assert "drawn at random" in text
    assert "committee's" not in text
    assert f"left out      {len(ids) - 300} items not drawn at random: {ids[300]}, " in text
    assert "on which people are split" in text and "nothing speaks against the committee" in text


def test_what_people_say_of_others_is_counted_and_nobody_counts_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    config = AnnotateConfig(labels=dict(ABC))
    _, found, ids = run_of([0.9, 0.9, 0.9], config)
    files = [tmp_path / who / "list.csv" for who in ("pat", "quin")]
    for file in files:
        file.parent.mkdir()
        file.write_text(f"id,label\n{ids[0]},a\n{ids[1]},b\nof-no-item,c\n")
    people = [p.of_items(ids, ids) for p in of_files(files)]
    text = list(agreement.lines(agreement.with_people(ids, found, found.final(config), people)))
    assert text[0].startswith("people        pat/list, quin/list; 2 items, ")
    assert "left out      1 item that this release does not have: of-no-item" in text
    assert "note          pat/list and quin/list say the same of every item: is one a copy of the other?" in text
    tables = [line for line in text if line.startswith(("committee", "ada", " "))]
    assert max(map(len, tables)) <= 80 and any("macro-F1" in line for line in tables)
    (tmp_path / "link.csv").symlink_to(files[0])
    with pytest.raises(GraError, match=r"link.csv: given twice, .* -> give each person's file once"):
        of_files([*files, tmp_path / "link.csv"])


def test_a_list_of_another_run_over_the_same_texts_is_of_all_of_them(tmp_path: Path) -> None:
    """Ids differ by round: where a link of a chain forwarded an item, another run's list has it by another id."""
    config = AnnotateConfig(labels=dict(ABC))
    _, found, ids = run_of([0.9, 0.9, 0.9], config)
    texts = [f"text {n}" for n in range(len(ids))]

    def said(which: list[str], labels: int = 20, has_text: bool = True) -> list[str]:
        rows = [f"{i},audit,{f'text {n}' if has_text else ''},{'a' if n < labels else ''}" for n, i in enumerate(which)]
        (tmp_path / "pat.csv").write_text("\n".join(["id,why,text,label", *rows]), encoding="utf-8")
        person = People.read(tmp_path / "pat.csv").of_items(texts, ids)
        return list(agreement.lines(agreement.with_people(ids, found, found.final(config), [person])))

    other = [*ids[:9], *(f"other-{n}" for n in range(9, 20))]
    both = said(other)
    assert both[0] == "people        pat; 20 items, drawn at random" == said(ids[:20])[0]
    assert not any(line.startswith("left out") for line in both)
    assert said(other, labels=15)[0] == "people        pat; 15 of 20 items drawn at random; nobody labelled 5"
    biased = said(other, has_text=False)
    assert biased[0].startswith(
        "people        pat; 9 of 20 items drawn; a biased part: 11 that people labelled are not"
    )
    assert biased[1].startswith("left out      11 items that this release does not have: other-9, ")
    rows = "".join(f"{i},text 3,{label}\n" for i, label in (("x", "a"), ("y", "b")))
    (tmp_path / "two.csv").write_text("id,text,label\n" + rows, encoding="utf-8")
    with pytest.raises(GraError, match=r"two: '.*' has two labels, 'a' and 'b'"):
        People.read(tmp_path / "two.csv").of_items(texts, ids)


def test_pairs_are_told_apart_by_both_texts(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,second,label\none,=two,first\none,three,second\n", encoding="utf-8")
    found = People.read(tmp_path / "x.csv").of_items(["one", "one"], ["1", "2"], ["=two", "three"])
    assert (found.labels, found.elsewhere) == ({"1": "first", "2": "second"}, ())


def planted_person(truth: np.ndarray, accuracy: float, name: str) -> list[int]:
    rng = np.random.default_rng(len(name))
    found: list[int] = np.where(rng.random(len(truth)) < accuracy, truth, (truth + 1) % 3).tolist()
    return found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,label\n1,\n", "nobody has given a label"),
        ("item,label\n1,a\n", "no columns id and label"),
        ("id,label\n1,\xff\n", "not CSV"),
        ("", "nobody"),
        ("id,label\n1,a\n1,b\n", "'1' has two labels, 'a' and 'b'"),
    ],
)
def test_files_of_people_that_are_none(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(GraError, match=message):
        People.read(tmp_path / "x.csv")
    with pytest.raises(GraError, match="No such file"):
        People.read(tmp_path / "y.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 200_000, "not CSV or JSON lines"),
        ('{"text": "t", "label": "a"}\n{"id": "1", "label": "b"}\n', "in every row"),
    ],
)
def test_json_lines_of_people_that_are_none(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(GraError, match=message):
        People.read(tmp_path / "x.jsonl")
    os.mkfifo(tmp_path / "f.jsonl")
    with pytest.raises(GraError):
        People.read(tmp_path / "f.jsonl")


def test_a_list_for_people_holds_no_formulas_and_is_read_back_whole(tmp_path: Path) -> None:
    """Whatever a text begins with, and however long it is."""
    texts = ["=1+1", "+1", "-2", "@SUM(1)", "\t=1", "plain", "a\x1b[31m", "-" + "x" * 200_000]
    with (tmp_path / "x.csv").open("wb") as file:
        outputs._csv(file, [{"id": str(i), "why": "audit", "text": t} for i, t in enumerate(texts)], Kind.choice)
    data = (tmp_path / "x.csv").read_bytes().decode()
    cells = [row["text"] for row in _csv(data)]
    assert all(c.lstrip()[:1] not in "=+-@" for c in cells) and "\x1b" not in data and cells[5] == "plain"
    filled = "text,label\n" + "".join(f'"{c}",a\n' for c in cells)
    (tmp_path / "y.csv").write_text(filled, encoding="utf-8")
    found = People.read(tmp_path / "y.csv").of_items(texts, [str(i) for i in range(len(texts))])
    assert set(found.labels) == {str(i) for i in range(len(texts))}


def test_labels_as_people_write_them() -> None:
    def codes(kind: str, *written: str) -> list[int]:
        labels = Labels.of(AnnotateConfig(kind=Kind(kind), labels=dict(ABC) if Kind(kind).named else {}))
        person = People("pat", {str(i): w for i, w in enumerate(written)}, frozenset())
        return person.codes([str(i) for i in range(len(written) + 1)], labels).tolist()

    assert codes("choice", " a", "c") == [0, 2, -1]
    assert codes("score", "5") == [4, -1]
    assert codes("multi", "a; c", "none", '["b"]') == [5, 0, 2, -1]
    assert codes("choice", "A", " b\t") == [0, 1, -1] and codes("multi", "A; C", '["B"]') == [5, 2, -1]
    with pytest.raises(
        GraError, match=r"^pat: item 0: 'x': no such label \(and in 1 more\); item 1: 'y': no such label -> "
    ):
        codes("choice", "x", "y", "x")
    seven = ["a", *"stuvwxy"]
    with pytest.raises(GraError, match=r"item 5: 'w': no such label; and 2 others -> one of a, b, c$"):
        codes("choice", *seven)
    for kind, wrong in (("choice", "d"), ("score", "6"), ("score", "good"), ("multi", "a, b"), ("pair", "third")):
        with pytest.raises(GraError, match="no such label"):
            codes(kind, wrong)


def test_cost_for_a_thousand_items() -> None:
    tokens = {
        "annotator small": [300, 30_000, 3_000],
        "annotator big": [100, 10_000, 2_000],
        "adjudicator big": [10, 2_000, 100],
    }
    found = agreement.cost(tokens, 100)
    assert found["committee"] == {"calls": 4100.0, "prompt_tokens": 420_000.0, "completion_tokens": 51_000.0}
    assert found["alone"]["big"] == {"calls": 1000.0, "prompt_tokens": 100_000.0, "completion_tokens": 20_000.0}
