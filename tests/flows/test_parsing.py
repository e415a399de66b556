"""Parsing: tolerant of wrapping, strict about content."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gra_hpc.flows import parsing
from gra_hpc.flows.parsing import Unparsable
from gra_hpc.records import CRITERIA


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("tides, moon phases, gravity", ("tides", "moon phases", "gravity")),
        ("1. tides\n2. moon phases\n3. gravity", ("tides", "moon phases", "gravity")),
        ("Keywords: Tides, Moon phases, Gravity.", ("Tides", "Moon phases", "Gravity")),
        ("- tides\n- moon\n- gravity\n- extra", ("tides", "moon", "gravity")),
        ("```\ntides; moon; gravity\n```", ("tides", "moon", "gravity")),
        ("Sure! Here are three keywords:\ntides, moon, gravity", ("tides", "moon", "gravity")),
        ("tides, tides, TIDES, moon, gravity", ("tides", "moon", "gravity")),
    ],
)
def test_keywords(answer: str, expected: tuple[str, ...]) -> None:
    assert parsing.keywords(answer, 3) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("1. tides, 2. moon phases, 3. gravity.", ("tides", "moon phases", "gravity")),
        ("Keywords: 1) tides 2) moon phases 3) gravity", ("tides", "moon phases", "gravity")),
        ('```json\n["tides", "moon phases", "gravity"]\n```', ("tides", "moon phases", "gravity")),
        ("关键词：河流，长江，中国。", ("河流", "长江", "中国")),
        ("「湖」、「琵琶湖」、「日本」", ("湖", "琵琶湖", "日本")),
        ("نهر، جبل، بحر", ("نهر", "جبل", "بحر")),
        ("नदी, पर्वत, समुद्र।", ("नदी", "पर्वत", "समुद्र")),
    ],
)
def test_keywords_of_any_form_and_script(answer: str, expected: tuple[str, ...]) -> None:
    assert parsing.keywords(answer, 3) == expected


def test_a_summary_is_bounded_in_every_script() -> None:
    assert parsing.summary("Explain " * 40, 30).split() == ["Explain"] * 30
    assert parsing.summary("琵琶湖について説明する。" * 40, 30) == ("琵琶湖について説明する。" * 40)[:90]
    assert parsing.summary("Объясни, почему небо синее.", 30) == "Объясни, почему небо синее."


def test_a_sentence_without_spaces_is_no_keyword() -> None:
    with pytest.raises(Unparsable):
        parsing.keywords("我已经准备好为您提供您所需要的任何形式的帮助\n河流\n长江", 3)


@pytest.mark.parametrize("answer", ["", "tides", "tides, moon", "I am ready to help with anything that you need."])
def test_too_few_keywords(answer: str) -> None:
    with pytest.raises(Unparsable):
        parsing.keywords(answer, 3)


def test_keywords_of_the_examples_do_not_count() -> None:
    with pytest.raises(Unparsable):
        parsing.keywords("tides, moon, gravity", 3, taken=["Tides"])
    assert parsing.keywords("tides, moon, gravity, sea", 3, taken=["Tides"]) == ("moon", "gravity", "sea")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Task: Explain tides.", "Explain tides."),
        ('"Explain tides."', "Explain tides."),
        ('Say "tide" and "moon".', 'Say "tide" and "moon".'),
        ("**Instruction:** Explain tides.", "Explain tides."),
        ("```\nExplain tides.\n```", "Explain tides."),
        ("「潮汐を説明してください。」", "潮汐を説明してください。"),
        ("« Expliquez les marées. »", "Expliquez les marées."),
        ("„Erkläre die Gezeiten.“", "Erkläre die Gezeiten."),
        ("「潮」と「汐」", "「潮」と「汐」"),
        ("Write a task force report.", "Write a task force report."),
    ],
)
def test_text(answer: str, expected: str) -> None:
    assert parsing.text(answer) == expected


def verdict(**changes: object) -> dict[str, object]:
    return {"comment": "fine", **dict.fromkeys(CRITERIA, 8), **changes}


@pytest.mark.parametrize("wrap", ["{}", "Here you go:\n```json\n{}\n```", "I think {} is fair. {{not json}}"])
def test_scores_in_prose(wrap: str) -> None:
    import json

    scores, comment = parsing.response_scores(wrap.format(json.dumps(verdict())))
    assert set(scores) == set(CRITERIA) and comment == "fine"


@pytest.mark.parametrize(
    "answer",
    [
        "Draft: {draft}\nOn reflection: {final}",
        "```json\n{draft}\n```\nNo, better:\n```json\n{final}\n```",
        '{{"plan": "score it"}} {draft} {final} {{"done": true}}',
        "[{draft}, {final}]",
        '{draft}\n{{"scores": {final}}}',
    ],
)
def test_the_last_verdict_counts_and_no_draft(answer: str) -> None:
    draft, final = (orjson.dumps(verdict(correctness=c)).decode() for c in (2, 9))
    assert parsing.response_scores(answer.format(draft=draft, final=final))[0]["correctness"] == 9


def test_a_last_verdict_that_cannot_be_used_is_not_made_up_for_by_a_draft() -> None:
    draft = orjson.dumps(verdict()).decode()
    with pytest.raises(Unparsable):
        parsing.response_scores(f'{draft} Final: {{"correctness": 9}}')


def test_a_nul_that_json_hides_is_found() -> None:
    with pytest.raises(Unparsable, match="NUL"):
        parsing.response_scores(orjson.dumps(verdict(comment="a\0b")).decode())


@pytest.mark.parametrize(
    "bad",
    [
        verdict(correctness=11),
        verdict(correctness=0),
        verdict(correctness="8"),
        verdict(correctness=True),
        verdict(correctness=7.5),
        {k: v for k, v in verdict().items() if k != "clarity"},
        verdict(overall=9),
        {"scores": [8, 8, 8]},
        {"scores": [8, 8, 8, 8, 8, 8, 8]},
    ],
)
def test_wrong_scores_are_parse_failures(bad: dict[str, object]) -> None:
    import json

    with pytest.raises(Unparsable):
        parsing.response_scores(json.dumps(bad))


def test_a_list_of_the_right_length_counts() -> None:
    scores, _ = parsing.response_scores('{"scores": [9, 10, 10, 10, 10, 10]}')
    assert list(scores.values()) == [9, 10, 10, 10, 10, 10]


@given(st.text())
def test_garbage_never_raises_anything_else(answer: str) -> None:
    for parse in (
        parsing.text,
        parsing.verbatim,
        parsing.response_scores,
        parsing.instruction_scores,
        lambda a: parsing.keywords(a, 3),
        lambda a: parsing.summary(a, 30),
    ):
        try:
            parse(answer)
        except Unparsable as e:
            assert str(e)


@pytest.mark.parametrize(
    "task",
    [
        "Here is a list of numbers: 3, 5, 8. Sort it.",
        "Here's a short poem:\nRoses are red.\nName its metre.",
        "Sure, let us assume x = 3; find x^2.",
        "Of course you know Newton. Explain his laws.",
        "Topic: photosynthesis. Explain it to a child.",
        "Answer: true or false? The sky is blue.",
    ],
)
def test_a_tasks_own_beginning_stays(task: str) -> None:
    assert parsing.text(task) == task


def test_what_speaks_of_the_answer_goes() -> None:
    for said in (
        "Sure! Here is a task:\n",
        "Certainly, here is your new task about rivers: ",
        "**Task:** ",
        "Instruction: ",
    ):
        assert parsing.text(said + "Name a river.") == "Name a river."


def test_languages_keep_their_names() -> None:
    assert parsing.keywords("# C++, C#, F#", 3) == ("C++", "C#", "F#")


# ---- answers of any kind: bounded, and what ordinary ones give stays the same ----------------------------------------


def first_object_before(answer: str) -> Any:
    """How the first object was found once, by reading on from each `{`: right, and quadratic."""
    start = answer.find("{")
    while start >= 0:
        depth, quoted, escaped = 0, False, False
        for end in range(start, len(answer)):
            c = answer[end]
            if escaped:
                escaped = False
            elif c == "\\":
                escaped = quoted
            elif c == '"':
                quoted = not quoted
            elif not quoted and c in "{}":
                depth += 1 if c == "{" else -1
                if depth == 0:
                    try:
                        return orjson.loads(answer[start : end + 1])
                    except orjson.JSONDecodeError:
                        break
        start = answer.find("{", start + 1)
    return None


PIECES = ["{", "}", '"', "\\", "a", " ", ":", ",", "1", '{"a": 1}', '"a": ', '\\"', "{}", "[", "]", "\n", "é"]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text(alphabet='{}"\\a:1, ', max_size=60))
@settings(max_examples=1500)
def test_the_first_object_is_the_one_that_it_always_was(answer: str) -> None:
    assert parsing._first_object(answer) == first_object_before(answer)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text(alphabet='{}"\\ab ', max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='{}"a', max_size=4), inner),
        max_leaves=8,
    ),
    st.text(alphabet='{}"\\ab\n', max_size=12),
    st.text(alphabet='{}"\\ab\n', max_size=12),
)
@settings(max_examples=500)
def test_an_object_in_prose_is_the_one_that_it_always_was(value: Any, before: str, after: str) -> None:
    answer = f"{before}{orjson.dumps({'x': value}).decode()}{after}"
    assert parsing._first_object(answer) == first_object_before(answer)


LABEL_BEFORE = re.compile(
    r"\A[*_#\s]*(?:(?:new|the)\s+)?(?:task|instruction|keywords?|summary)\s*[*_]*\s*:[*_]*\s*", re.I
)
WORDS = ["Task", "the", "NEW", "keyword", "s", "summary", " ", "*", "_", "#", ":", "\n", "x"]


@given(st.lists(st.sampled_from(WORDS), max_size=14).map("".join))
@settings(max_examples=1500)
def test_a_label_is_the_one_that_it_always_was(answer: str) -> None:
    assert parsing._WRAPPING[2].sub("", answer, count=1) == LABEL_BEFORE.sub("", answer, count=1)


HOSTILE: dict[str, Callable[[int], str]] = {
    "open braces": lambda n: "{" * n,
    "pairs": lambda n: "{}" * n + "[",
    "nested": lambda n: "{" * n + "}" * n,
    "nested, wrong inside": lambda n: "{" * n + "x" + "}" * n,
    "quotes": lambda n: '{"' * n,
    "quotes in turns": lambda n: '{"}{' * n,
    "backslashes": lambda n: '{"\\' * n,
    "keys": lambda n: '{"a":' * n + "1" + "}" * n,
    "label": lambda n: "task" + " " * n + "x",
    "label, stars": lambda n: "the task" + " *" * n + " " * n + "x",
    "fence": lambda n: "```\n" + "``` " * n,
    "fence, lines": lambda n: "```\n" + "```\n" * n + "x",
    "hashes": lambda n: "#" * n,
    "here": lambda n: "here is the task " * n,
    "controls": lambda n: "<|a" * n,
    "commas": lambda n: "," * n,
    "spaces": lambda n: "a" + " " * n + "b",
    "lines": lambda n: "-\n" * n,
}
PARSERS: list[Callable[[str], object]] = [
    parsing.response_scores,
    parsing.text,
    lambda a: parsing.keywords(a, 3),
    lambda a: parsing.summary(a, 20),
    parsing.verbatim,
]


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_answer_holds_the_event_loop(kind: str) -> None:
    """Sixteen times the length takes sixteen times as long or so, where reading on from each beginning took 256."""

    def cost(parse: Callable[[str], object], answer: str) -> float:
        took = []
        for _ in range(3):
            began = time.thread_time()
            with contextlib.suppress(Unparsable):
                parse(answer)
            took.append(time.thread_time() - began)
        return min(took)

    for parse in PARSERS:
        short, long = cost(parse, HOSTILE[kind](1500)), cost(parse, HOSTILE[kind](24_000))
        assert long < 90 * max(short, 5e-4)


def test_tries_at_json_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each `{` has its `}`, and all are wrong at the same place: tried one after another, as far as the bound."""
    answer = '{"a":' * 900 + "[" + "1," * 20_000 + "x]" + "}" * 900
    lengths = [end + 1 - start for start, end in parsing._enclosed(answer)]
    assert len(lengths) == 900 and sum(lengths) > 4 * parsing._PARSED
    tried: list[int] = []
    spy = SimpleNamespace(
        loads=lambda text: (tried.append(len(text)), orjson.loads(text))[1], JSONDecodeError=orjson.JSONDecodeError
    )
    monkeypatch.setattr(parsing, "orjson", spy)
    assert parsing._first_object(answer) is None
    assert parsing._PARSED - lengths[0] < sum(tried) <= parsing._PARSED
    tried.clear()
    assert parsing._first_object('{"a": 1} and more') == {"a": 1} and tried == [8]


def test_an_answer_nested_deeply_is_no_value() -> None:
    """JSON may be nested deeper than Python can print."""
    deep = "[" * 1000 + "]" * 1000
    for comment in (deep, f'{{"a": {deep}}}'):
        scored = ", ".join(f'"{c}": 9' for c in CRITERIA)
        with pytest.raises(Unparsable):
            parsing.response_scores(f'{{{scored}, "comment": {comment}}}')
