"""Thoughts told apart from answers: every family's marks, whole and in part."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra_hpc.thoughts import MAY_MARK, Apart, apart, inline, mark_in, unmarked, without_marks

FAMILIES = {
    "<think>Two and two.</think>\n\n4": "Qwen, DeepSeek",
    "<thinking>\nTwo and two.\n</thinking>4": "",
    "<THINK>Two and two.</Think> 4": "",
    "<thought>Two and two.</thought>4": "EXAONE",
    "<reasoning>Two and two.</reasoning>\n<answer>4</answer>": "",
    "<seed:think>Two and two.</seed:think>4": "Seed-OSS",
    "<mm:think>Two and two.</mm:think>4": "MiniMax",
    "<ifm|think_fast>Two and two.</ifm|think_fast>4": "K2",
    "<longcat_think>Two and two.</longcat_think>4": "LongCat",
    "[THINK]Two and two.[/THINK]4": "Magistral",
    "◁think▷Two and two.◁/think▷4": "Kimi-VL",
    "<|begin_of_thought|>Two and two.<|end_of_thought|><|begin_of_solution|>4<|end_of_solution|>": "OpenThinker",
    "<|START_THINKING|>Two and two.<|END_THINKING|><|START_RESPONSE|>4<|END_RESPONSE|>": "Command A",
    "<|plamo:begin_think:plamo|>Two and two.<|plamo:end_think:plamo|>4": "PLaMo",
    "<|channel|>analysis<|message|>Two and two.<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>": "",
    "<|channel|>analysis<|message|>Two and two.<|end|><|channel|>final <|constrain|>json<|message|>4": "gpt-oss",
    "analysisTwo and two.assistantfinal4": "gpt-oss, special tokens left out",
    "<|channel>thought\nTwo and two.<channel|>4": "Gemma 4",
    "<unused94>thought\nTwo and two.<unused95>4": "MedGemma",
    "Here is my thought process: Two and two. Here is my response: 4": "Granite 3",
    "<think>\nTwo and two.\n</think>\n<answer>\n4\n</answer>": "Hunyuan",
}


def suspected(text: str) -> bool:
    return bool(pc.match_substring_regex(pa.scalar(text), MAY_MARK).as_py())


@pytest.mark.parametrize("text", FAMILIES)
def test_every_family(text: str) -> None:
    assert apart(text) == Apart("Two and two.", "4")
    assert mark_in(text) and not mark_in("Two and two. 4")
    assert suspected(text)
    assert without_marks(f"So: {text}") == without_marks(without_marks(f"So: {text}"))


@pytest.mark.parametrize("text", [t for t in FAMILIES if "final" not in t and "Here" not in t])
def test_half_a_pair(text: str) -> None:
    """The prompt may have opened the thoughts; a limit may have cut them off."""
    begin, end = text.index("Two"), text.index("Two") + len("Two and two.")
    assert apart(text[begin:]) == Apart("Two and two.", "4")
    cut = apart(text[:end])
    assert (cut.thoughts.strip(), cut.answer, cut.ended) == ("Two and two.", "", False)
    assert mark_in(text[begin:].strip()) and mark_in(text[:end])
    assert suspected(text[begin:]) and suspected(text[:end])


def test_a_prompt_that_opens_the_thoughts() -> None:
    assert apart("Two and", opened=True) == Apart("Two and", "", ended=False)
    assert apart("</think>4", opened=True) == Apart("", "4")
    assert apart("4") == Apart("", "4")


def test_several_thoughts_and_none() -> None:
    assert apart("<think>a</think>\n<think>b</think>c") == Apart("a\n\nb", "c")
    assert apart("<think>\n\n</think>\n\n4") == Apart("", "4")
    assert apart(" 4\n") == Apart("", " 4\n")


def test_thoughts_that_stand_inline_end_where_they_end() -> None:
    """Marks within thoughts, quoted or in pieces, would end them early."""
    for thoughts in (
        "Two <think> and",
        "The `</think>` mark.",
        "a</think</think>>b",
        "[THINK]\n a",
        "x\n</think>\n<think>y",
    ):
        assert apart(inline(without_marks(thoughts), "4")) == Apart(without_marks(thoughts), "4")
        assert not mark_in(without_marks(thoughts)) and without_marks(thoughts)
    assert without_marks("I think, <b>so</b>.") == "I think, <b>so</b>."


def test_thoughts_within_an_answer_are_not_taken_out_but_found() -> None:
    for text in ("Sure. <think>Two</think> 4", "<think>a</think>b</think>c", "<think>a</think>b <think>c"):
        assert mark_in(apart(text).answer) in ("<think>", "</think>")


@pytest.mark.parametrize(
    "text",
    [
        "Models write `<think>` before and `</think>` behind their thoughts.",
        "I think, therefore <b>I</b> am. [think] <rethink> <|im_end|> a < think > b",
        "Analysis: the assistant's final words.",
        "What is here is my thought process: none.",
        "x [THINKER] <thin> 1 < 2",
    ],
)
def test_what_only_speaks_of_thoughts(text: str) -> None:
    assert mark_in(text) == "" and apart(text) == Apart("", text)


def test_in_one_text() -> None:
    assert inline("a", "b") == "<think>\na\n</think>\n\nb" and inline("", "b") == "b"
    assert apart(inline("a", "b")) == Apart("a", "b")


PIECES = [c for text in FAMILIES for c in (text[:9], text[-9:], text)] + [
    "<|",
    " ",
    "\n",
    "a",
    "İ",
    "<answer>4</answer>",
]


@given(st.lists(st.sampled_from(PIECES), max_size=5))
def test_the_quick_look_overlooks_nothing(pieces: list[str]) -> None:
    text = "".join(pieces)
    if unmarked(text):
        assert apart(text) == Apart("", text) and mark_in(text) == ""


def test_the_quick_look_spares_plain_texts() -> None:
    assert unmarked("What is 2 + 2? <b>Four</b> [1].") and not any(unmarked(text) for text in FAMILIES)
