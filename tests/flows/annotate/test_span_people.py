"""People's spans beside the committee's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gra_hpc.config import presets
from gra_hpc.errors import GraError
from gra_hpc.flows.annotate.questions import Labels, label_written
from gra_hpc.flows.annotate.settings import AnnotateConfig, Kind
from gra_hpc.flows.annotate.views import outputs, span_people
from gra_hpc.flows.annotate.views.collected import Collected
from gra_hpc.flows.annotate.views.people import People
from gra_hpc.flows.annotate.views.release import people
from gra_hpc.flows.parsing import Unparsable
from gra_hpc.labels.spans import Span, locate
from tests.flows.annotate.made_up import MEMBERS, item, table

LABELS = Labels.of(AnnotateConfig(kind=Kind.spans, labels={"food": "", "staff": "", "staff room": ""}))
TEXT = "Cold tea; rude waiter. Good cake: nice waiter."


def shown(*spans: tuple[str, str]) -> list[dict[str, Any]]:
    found = locate(TEXT, spans)
    return [{"start": s.start, "end": s.end, "label": s.label, "quote": TEXT[s.start : s.end]} for s in found]


def row(id_: str, label: list[dict[str, Any]] | None, **members: list[dict[str, Any]]) -> dict[str, Any]:
    said = [{"member": name, "label": spans, "reason": ""} for name, spans in members.items()]
    return {"id": id_, "text": TEXT, "label": label, "annotators": said}


ROWS = [
    row("1", shown(("food", "tea"), ("staff", "waiter")), ada=shown(("food", "tea")), ben=shown()),
    row("2", shown(), ada=shown(("food", "tea")), ben=shown(("food", "cake"))),
    row("3", None, ada=shown(("staff", "rude waiter")), ben=shown()),
]


def person(path: Path, name: str, **labels: str) -> People:
    lines = "".join(f'{id_[1:]},audit,"{label}"\n' for id_, label in labels.items())
    (path / f"{name}.csv").write_text("id,why,label\n" + lines, encoding="utf-8")
    return People.read(path / f"{name}.csv")


@pytest.mark.parametrize(
    ("written", "spans"),
    [
        ("none", []),
        ("[]", []),
        ("food: tea", [Span(5, 8, "food")]),
        (" food : Cold tea; rude ;staff:waiter;", [Span(0, 14, "food"), Span(15, 21, "staff")]),
        ("staff room: rude", [Span(10, 14, "staff room")]),
        ("staff: waiter; staff: waiter", [Span(15, 21, "staff"), Span(39, 45, "staff")]),
        ("food: cake: nice", [Span(28, 38, "food")]),
        ('[{"label": "food", "quote": "tea"}]', [Span(5, 8, "food")]),
    ],
)
def test_spans_as_people_write_them(written: str, spans: list[Span]) -> None:
    written = written.removesuffix(";")
    assert label_written(written, LABELS, TEXT) == frozenset(spans)


@pytest.mark.parametrize("written", ["tea", "drink: tea", "food: coffee", "food:", "food", "tea; food: tea"])
def test_spans_that_are_none(written: str) -> None:
    with pytest.raises(Unparsable):
        label_written(written, LABELS, TEXT)


def test_figures_are_counted_over_spans(tmp_path: Path) -> None:
    pat = person(tmp_path, "pat", _1="food: tea; staff: rude waiter", _2="food: cake", _3="staff: rude waiter")
    found = span_people.beside(ROWS, LABELS, [pat])
    figures = found["figures"]
    assert (found["items"], found["at_random"], found["among_people"]) == (3, True, None)
    # of pat's three spans in the two items that it has decided on, the committee gives one of its own two
    committee = figures["committee"]
    assert committee["decided"] == 2
    assert [committee[k].value for k in ("precision", "recall", "f1")] == pytest.approx([1 / 2, 1 / 3, 2 / 5])
    assert [figures["ada"][k].value for k in ("precision", "recall", "f1")] == pytest.approx([2 / 3, 2 / 4, 4 / 7])
    assert [figures["ben"][k].value for k in ("precision", "recall", "f1")] == pytest.approx([1, 1 / 4, 2 / 5])
    assert figures["ada"]["f1"].low <= 4 / 7 <= figures["ada"]["f1"].high
    text = "\n".join(span_people.lines(found))
    assert "pat; 3 items, drawn at random" in text
    assert "among people" not in text


def test_each_of_several_people_is_the_truth_in_turn(tmp_path: Path) -> None:
    pat = person(tmp_path, "pat", _1="food: tea", _2="none")
    quin = person(tmp_path, "quin", _1="food: tea; staff: waiter", _3="none")
    found = span_people.beside(ROWS, LABELS, [pat, quin])
    assert found["among_people"].value == pytest.approx(2 / 3)
    assert found["figures"]["committee"]["f1"].value == pytest.approx(2 * 3 / (4 + 3))
    assert found["figures"]["ben"]["recall"].value == pytest.approx(0)
    assert "among people  F1 of two people's spans 0.67" in "\n".join(span_people.lines(found))


def test_spans_of_other_items_or_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GraError, match="no label of an item of this run"):
        span_people.beside(ROWS, LABELS, [person(tmp_path, "pat", _9="food: tea")])
    with pytest.raises(GraError, match=r"pat: item 1: 'food: coffee': not in the text: coffee"):
        span_people.beside(ROWS, LABELS, [person(tmp_path, "pat", _1="food: coffee")])


def test_a_release_of_spans_is_compared_with_a_filled_in_list(tmp_path: Path) -> None:
    config = presets.compose(
        "annotate",
        [
            "seeds.path=x.jsonl",
            "annotate.kind=spans",
            "annotate.aggregate=majority",
            "annotate.labels={food: '', staff: ''}",
        ],
    )
    own: AnnotateConfig = config.annotate  # type: ignore[attr-defined]
    tea = frozenset(locate(TEXT, [("food", "tea")]))
    rows = table([item([tea, tea, frozenset()], own, TEXT) for _ in range(3)])
    found = Collected.of([rows], Labels.of(own), MEMBERS)
    outputs.write(lambda: [rows], found, found.final(own), own, 1, tmp_path)
    lines = (tmp_path / "for_humans.csv").read_text(encoding="utf-8").splitlines()
    filled = [lines[0], *(line.removesuffix(",,") + ",food: tea," for line in lines[1:])]
    (tmp_path / "pat.csv").write_text("\n".join(filled), encoding="utf-8")
    said = list(people(config, tmp_path, [tmp_path / "pat.csv"]))
    assert said[0] == "people        pat; 3 items, drawn at random"
    assert next(line for line in said if line.startswith("committee")).split()[1:3] == ["3", "1.00"]
