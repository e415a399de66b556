"""Questions of annotators: what a guided engine can answer is what the parser takes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra_hpc.engines.simulated import simulate
from gra_hpc.flows.annotate import questions as q
from gra_hpc.flows.annotate.questions import Labels, Said, as_json, from_json, label_of, said, schema
from gra_hpc.flows.annotate.settings import AnnotateConfig, Kind
from gra_hpc.flows.calls import Request, Sampling
from gra_hpc.flows.choices import written
from gra_hpc.flows.parsing import Unparsable
from gra_hpc.labels.spans import Span

TOPICS = {"food": "what is eaten", "staff": "who serves it", "price": ""}


def labels(kind: str, **more: Any) -> Labels:
    names = TOPICS if Kind(kind).named else {}
    return Labels.of(AnnotateConfig(kind=Kind(kind), labels=dict(names), **more))


@pytest.mark.parametrize("kind", ["choice", "multi", "score", "pair"])
@pytest.mark.parametrize("reasons", [True, False])
@pytest.mark.parametrize("settles", [True, False])
def test_no_guided_answer_is_unparsable(kind: str, reasons: bool, settles: bool) -> None:
    these = labels(kind, reasons=reasons)
    for seed in range(50):
        messages = ({"role": "user", "content": f"text {seed}"},)
        request = Request("m", "i", messages, Sampling(1, 1, 99, seed), schema(these, settles))
        found = said(simulate(request).text, these, "text", settles)
        assert bool(found.reason) == reasons
        assert from_json(json.loads(json.dumps(as_json(found.label)))) == found.label


@given(st.data())
def test_quotes_out_of_the_text_are_spans(data: st.DataObject) -> None:
    text = data.draw(st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=5, max_size=40))
    start = data.draw(st.integers(0, len(text) - 1))
    quote = text[start : data.draw(st.integers(start + 1, len(text)))]
    found = said(json.dumps({"reason": "r", "spans": [{"label": "food", "quote": quote}]}), labels("spans"), text)
    ((where, end, name),) = found.label  # type: ignore[union-attr, misc]
    assert (text[where:end], name) == (quote, "food")


def test_what_a_label_is_not() -> None:
    wrong = {
        "choice": ['{"label": "Food"}', '{"label": ["food"]}', '{"score": 3}', "food", '{"label": null}'],
        "score": ['{"score": 6}', '{"score": 0}', '{"score": true}', '{"score": 2.5}', '{"score": "3"}'],
        "multi": ['{"labels": "food"}', '{"labels": ["food", "cost"]}'],
        "spans": ['{"spans": [{"label": "food", "quote": "cake"}]}', '{"spans": ["tea"]}', '{"spans": [{}]}'],
        "pair": ['{"label": "third"}'],
    }  # fmt: skip
    for kind, answers in wrong.items():
        for answer in answers:
            with pytest.raises(Unparsable):
                said(answer, labels(kind), "The tea was cold")
    with pytest.raises(Unparsable, match="sure"):
        said('{"label": "food", "sure": "yes"}', labels("choice"), "", settles=True)


def test_labels_of_each_kind() -> None:
    text = "Tea, more  tea"
    assert said('{"reason": "  so\\n so ", "label": "food"}', labels("choice"), text) == Said("food", "so so")
    assert said('{"labels": ["price", "food", "food"]}', labels("multi"), text).label == {"food", "price"}
    assert said('{"score": 4, "sure": false}', labels("score"), text, settles=True) == Said(4, "", False)
    spans = label_of(
        [{"label": "food", "quote": "Tea"}, {"label": "staff", "quote": "more tea"}], labels("spans"), text
    )
    assert spans == {Span(0, 3, "food"), Span(5, 14, "staff")}
    assert as_json(spans) == [[0, 3, "food"], [5, 14, "staff"]]
    assert q.in_words(spans, text) == "food: Tea; staff: more  tea"
    assert q.in_words(frozenset(), text) == "none"


def test_a_swapped_pair_is_named_as_it_was_given() -> None:
    pair = labels("pair")
    for shown, meant in (("first", "second"), ("second", "first"), ("tie", "tie")):
        assert said(f'{{"label": "{shown}"}}', pair, "", swapped=True).label == meant


def test_the_same_labels_have_the_same_schema_object() -> None:
    these = labels("choice")
    assert schema(these) is schema(replace(these))
    assert list(schema(these)["properties"]) == ["reason", "label"]  # thought of before it is said
    assert list(schema(these, settles=True)["properties"]) == ["reason", "label", "sure"]


def test_a_letter_and_how_sure_it_is() -> None:
    these = labels("choice")
    assert q.codes(these) == ("A", "B", "C")
    found = q.chosen(written("A", {"A": -2.0, "B": -0.5, "C": -4.0}), these)
    assert (found.label, found.margin) == ("staff", 1.5)
    assert found.share == pytest.approx(math.exp(-0.5) / (math.exp(-2) + math.exp(-0.5) + math.exp(-4)))
    assert q.chosen(written("C", {}), these) == Said("price", margin=0.0)
    assert q.chosen(written("B", {}), labels("score")).label == 2
    with pytest.raises(Unparsable):
        q.chosen(written("D", {}), these)
