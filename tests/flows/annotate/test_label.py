"""One item's way: who is asked, what the answers come to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from gra_hpc.config.settings import Settle
from gra_hpc.flows.annotate.decide import decide
from gra_hpc.flows.annotate.label import Item, Seat, label
from gra_hpc.flows.annotate.questions import Labels, Said
from gra_hpc.flows.annotate.settings import AnnotateConfig, Kind
from gra_hpc.flows.ask import Question, Unanswered
from gra_hpc.flows.calls import Draining
from gra_hpc.labels.spans import Span

CONFIG = AnnotateConfig(labels={"a": "", "b": "", "c": ""})


class Script:
    """Answers by member: a label, or an error."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers, self.asked = answers, []  # type: ignore[var-annotated]

    async def __call__(self, question: Question[Any], member: str, seat: str, **variables: Any) -> Any:
        self.asked.append((question.step, member, seat, variables))
        await asyncio.sleep(0)
        answer = self.answers[member]
        if isinstance(answer, BaseException):
            raise answer
        return answer if isinstance(answer, Said) else Said(answer, f"{member} says so")


def labelled(
    answers: Mapping[str, Any], config: AnnotateConfig = CONFIG, settle: Settle = Settle.adjudicator
) -> tuple[Item, Script]:
    item, script = Item("a text", "another"), Script(answers)
    seats = [Seat("ada"), Seat("ben", swapped=True), Seat("cyd")]
    asyncio.run(label(item, seats, "eve", script, config, settle))
    return item, script


def test_who_agree_are_believed() -> None:
    item, script = labelled({"ada": "b", "ben": "b", "cyd": "a"})
    assert (item.label, item.how, item.verdict) == ("b", "agreed", None)
    assert item.confidence == pytest.approx(2 / 3)
    assert [a[:3] for a in script.asked] == [
        ("annotate", m, f"annotator-{i}") for i, m in enumerate(["ada", "ben", "cyd"], 1)
    ]


def test_disagreement_is_settled_with_all_labels_and_reasons_in_view() -> None:
    item, script = labelled({"ada": "a", "ben": "b", "cyd": "c", "eve": "c"})
    assert (item.label, item.how, item.verdict) == ("c", "settled", ("eve", Said("c", "eve says so")))
    step, _, seat, variables = script.asked[-1]
    assert (step, seat) == ("settle", "adjudicator")
    assert variables["others"][1] == {"label": "b", "reason": "ben says so"}


def test_undecided_is_an_outcome() -> None:
    item, _ = labelled({"ada": "a", "ben": "b", "cyd": "c", "eve": Said("c", sure=False)})
    assert (item.label, item.how) == (None, "undecided")
    item, script = labelled({"ada": "a", "ben": "b", "cyd": "c"}, settle=Settle.majority)
    assert (item.label, item.how, len(script.asked)) == (None, "undecided", 3)


def test_who_cannot_answer_abstains() -> None:
    died = Unanswered("annotation", "engine died", "")
    item, _ = labelled({"ada": died, "ben": "b", "cyd": "b"})
    assert (item.label, item.confidence, len(item.annotations)) == ("b", 1.0, 2)
    with pytest.raises(Unanswered, match="engine died"):
        labelled({"ada": died, "ben": died, "cyd": died})
    with pytest.raises(Draining):  # the item is not at its end: nothing is decided
        labelled({"ada": "a", "ben": Draining(), "cyd": "a"})


def test_half_of_the_annotators_see_a_pair_the_other_way_round() -> None:
    _, script = labelled({"ada": "first", "ben": "first", "cyd": "first"}, AnnotateConfig(kind=Kind.pair))
    assert [v["swapped"] for *_, v in script.asked] == [False, True, False]
    _, script = labelled({"ada": "a", "ben": "a", "cyd": "a"})
    assert not any(v["swapped"] for *_, v in script.asked)


def decided(kind: str, said: list[Any], weights: list[float] | None = None, **more: Any) -> tuple[Any, float, bool]:
    config = AnnotateConfig(kind=Kind(kind), labels=dict(CONFIG.labels) if Kind(kind).named else {}, **more)
    found = decide(said, weights or [1.0] * len(said), Labels.of(config), config)
    return found.label, round(found.confidence, 3), found.agreed(config)


def test_what_labels_of_each_kind_come_to() -> None:
    assert decided("choice", ["a", "b"]) == ("a", 0.5, False)
    assert decided("choice", ["a", "b", "b"], [3.0, 1.0, 1.0]) == ("a", 0.6, True)
    assert decided("pair", ["tie", "tie", "first"]) == ("tie", 0.667, True)
    assert decided("score", [1, 4, 5]) == (4, 0.667, True)
    assert decided("score", [1, 3, 5]) == (3, 0.333, False)
    assert decided("score", [1, 3, 5], near=2) == (3, 1.0, True)
    ab, b = frozenset("ab"), frozenset("b")
    assert decided("multi", [ab, b, b]) == (b, 0.667, True)
    assert decided("multi", [ab, b]) == (b, 0.5, False)
    assert decided("multi", [frozenset(), frozenset()]) == (frozenset(), 1.0, True)
    long, short = Span(0, 9, "a"), Span(0, 5, "a")
    assert decided("spans", [frozenset([long]), frozenset([long, short]), frozenset([long])]) == ({long}, 0.667, True)
