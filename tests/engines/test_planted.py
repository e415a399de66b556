"""A planted committee is right as often as its table says, and otherwise as the simulated engine is."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from typing import Any

import orjson
import pytest

from gra_hpc.config.presets import compose
from gra_hpc.engines.planted import Planted
from gra_hpc.engines.simulated import SimulatedEngine, simulate
from gra_hpc.errors import ConfigError
from gra_hpc.flows.calls import Answer, Request, Sampling
from gra_hpc.flows.choices import read

TRUTH = r"\[is (?P<truth>\w+)(?: in (?P<by>\w+))?\]"
LABELS = ["sports", "politics", "weather"]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": LABELS}, "reason": {"type": "string", "maxLength": 60}},
    "required": ["label", "reason"],
}
SKILL = {
    "ada": {"*": 0.9},
    "ben": {"label": {"sports": 0.6, "*": 0.8}},
    "cyd": {"label": {"*": {"sports": 0.5, "politics": 0.5}}},
    "dee": {"label": {"de": 1.0, "en": 0.0}},
}
N = 600


def request(member: str, n: int, truth: str, more: str = "", **of: Any) -> Request:
    text = {"role": "user", "content": f"A: sports\nB: politics\nC: weather\nText {n} [is {truth}{more}]"}
    return Request("m", "", (text,), Sampling(0.2, 0.9, 64, n), member=member, step="label", **of)


def asked(requests: list[Request]) -> list[Answer]:
    engine = SimulatedEngine(planted=Planted(TRUTH, SKILL))

    async def all_of() -> list[Answer]:
        return list(await asyncio.gather(*map(engine.ask, requests)))

    return asyncio.run(all_of())


def labels(member: str, truth: str, more: str = "") -> Counter[str]:
    answers = asked([request(member, n, truth, more, schema=SCHEMA) for n in range(N)])
    return Counter(orjson.loads(a.text)["label"] for a in answers)


@pytest.mark.parametrize(
    ("member", "truth", "more", "shares"),
    [
        ("ada", "sports", "", {"sports": 0.9, "politics": 0.05, "weather": 0.05}),
        ("ben", "sports", "", {"sports": 0.6, "politics": 0.2, "weather": 0.2}),
        ("ben", "weather", "", {"weather": 0.8, "politics": 0.1, "sports": 0.1}),
        ("cyd", "weather", "", {"sports": 0.5, "politics": 0.5}),
        ("dee", "sports", " in de", {"sports": 1.0}),
        ("dee", "sports", " in en", {"politics": 0.5, "weather": 0.5}),
    ],
)
def test_answers_are_right_as_often_as_planted(member: str, truth: str, more: str, shares: dict[str, float]) -> None:
    found = labels(member, truth, more)
    for label in LABELS:
        p = shares.get(label, 0.0)
        assert abs(found[label] / N - p) <= 4 * (p * (1 - p) / N) ** 0.5, (label, found)


def test_codes_are_answered_with_their_likelihoods() -> None:
    codes = ("A", "B", "C")
    chosen = [read(a.text, codes) for a in asked([request("ben", n, "politics", choices=codes) for n in range(N)])]
    assert abs(sum(c.code == "B" for c in chosen) / N - 0.8) < 0.07
    assert chosen[0].scores["B"] == pytest.approx(-0.2231, abs=1e-3)


def test_who_is_not_in_the_table_knows_nothing_and_answers_are_the_same_again() -> None:
    other = request("eve", 1, "sports", schema=SCHEMA)
    (answer,) = asked([other])
    assert answer == simulate(other)
    mine = [request("ada", n, "sports", schema=SCHEMA) for n in range(20)]
    assert asked(mine) == asked(mine[::-1])[::-1]
    assert mine[0].digest == Request("m", "", mine[0].messages, mine[0].sampling, SCHEMA).digest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["engine.simulated_skill={zoe: {'*': 0.5}}", "engine.simulated_truth=(x)"], "simulated_skill.zoe"),
        (["engine.simulated_skill={ada: {'*': 1.5}}", "engine.simulated_truth=(x)"], "shares from 0 to 1"),
        (["engine.simulated_skill={ada: {'*': 0.5}}"], "a group that is the right answer"),
        (["engine.simulated_truth=("], "a regular expression"),
    ],
)
def test_tables_that_no_engine_could_follow_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        compose("demo", words)
