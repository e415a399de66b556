"""Parsing: tolerant of wrapping, strict about content."""

from __future__ import annotations

import pytest
from hypothesis import given
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
