"""Answers out of a few codes, with their log-probabilities."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from gra_hpc.engines.client import body, completion
from gra_hpc.engines.simulated import simulate
from gra_hpc.flows.calls import Request, Sampling
from gra_hpc.flows.choices import read, scores, written
from gra_hpc.flows.parsing import Unparsable
from gra_hpc.storage import to_json

PLAIN = Request("m", "", ({"role": "user", "content": "hello"},), Sampling(0.2, 0.9, 64, 7))
ASKED = replace(PLAIN, choices=("A", "B", "C"))
LISTED = [("A", -1.0), (" A", -1.0), ("B", -0.5), ("x", -7.0), ("y", float("-inf"))]


def reply(text: str, listed: list[tuple[str, float]] | None) -> bytes:
    top = [{"token": token, "logprob": max(score, -9999.0)} for token, score in listed or []]
    logprobs = {"content": [{"token": text, "logprob": -0.5, "top_logprobs": top}]} if listed else None
    choice = {"index": 0, "message": {"content": text}, "finish_reason": "stop", "logprobs": logprobs}
    return to_json({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})


def test_how_likely_each_code_is() -> None:
    found = scores(LISTED, ASKED.choices)
    assert found["A"] == pytest.approx(math.log(2) - 1)  # with and without a space
    assert found["B"] == -0.5
    assert found["C"] == -7.0  # not listed: no more likely than the least that is
    assert scores([], ASKED.choices) == {}


def test_a_servers_answer_is_kept_as_a_text_that_holds_both() -> None:
    found = read(completion(ASKED, reply("B", LISTED[:4]), 0.1).text, ASKED.choices)
    assert (found.code, found.scores["B"]) == ("B", -0.5)
    assert (
        found.scores["A"] > found.scores["B"] > found.scores["C"]
    )  # what it is surest of is not what it was made to say
    assert read(completion(ASKED, reply(" C\n", None), 0.1).text, ASKED.choices).scores == {}
    for text in (completion(PLAIN, reply("B", LISTED[:4]), 0.1).text, '{"choice": "B"}', "[]", written("D", {})):
        with pytest.raises(Unparsable):
            read(text, ASKED.choices)


def test_only_a_request_with_choices_says_so() -> None:
    assert b"logprobs" not in body("m", PLAIN, PLAIN.messages, 100)
    assert b'"structured_outputs":{"choice":["A","B","C"]}' in body("m", ASKED, ASKED.messages, 100)
    assert PLAIN.digest == "83071fc4ce2ca7406156a74609a234e5"  # as it was before there were choices
    assert len({PLAIN.digest, ASKED.digest, replace(PLAIN, choices=("A", "B")).digest}) == 3


def test_the_simulated_engine_chooses_what_it_is_surest_of() -> None:
    seen = set()
    for seed in range(40):
        found = read(simulate(replace(ASKED, sampling=Sampling(0.2, 0.9, 64, seed))).text, ASKED.choices)
        assert found.code == max(found.scores, key=lambda code: found.scores[code])
        assert sum(map(math.exp, found.scores.values())) == pytest.approx(1, abs=1e-4)
        seen.add(found.code)
    assert seen == set(ASKED.choices)
