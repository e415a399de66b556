"""Thoughts in texts: how models mark them, told apart from the answer that they lead to.

A reasoning model writes its thoughts before its answer, between marks that differ by family. Servers usually give both
apart; seeds, and answers of a server that was not told of the family, hold them in one text. No part of a thought may
pass for an answer: what is left of marks in an answer is found by `mark_in`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

_NAME = r"(?:[A-Za-z]\w*[:|])?(?:[A-Za-z]+_)?(?i:think(?:ing)?|thoughts?|reasoning)(?:[:_]\w+)?"
_HARMONY = r"(?:<\|start\|>assistant)?<\|channel\|>\s*"
_MESSAGE = r"[^<]{0,60}(?:<\|constrain\|>\w+)?<\|message\|>"
_FAMILIES = (
    # Qwen, DeepSeek, Granite, GLM, OLMo, ...; <seed:think>, <mm:think>, <ifm|think_fast>, <longcat_think>; <thought>
    (rf"<({_NAME})\s*>", r"</(?i:{0})\s*>"),
    (r"\[THINK\]", r"\[/THINK\]"),  # Magistral
    (r"◁think▷", r"◁/think▷"),  # Kimi-VL
    (r"<\|begin_of_(thought|reasoning)\|>", r"<\|end_of_{0}\|>"),  # OpenThinker, Sky-T1
    (r"<\|START_(THINKING|REASONING)\|>", r"<\|END_{0}\|>"),  # Command A
    (r"<\|(\w+):begin_think:\w+\|>", r"<\|{0}:end_think:{0}\|>"),  # PLaMo
    (r"<\|(think(?:ing)?|thought|reasoning)\|>", r"<\|/{0}\|>"),
    (rf"{_HARMONY}(?:analysis|commentary){_MESSAGE}", r"<\|end\|>|(?=<\|start\|>|<\|channel\|>final)"),  # gpt-oss
    (r"<\|channel>\s*thought\b", r"<channel\|>"),  # Gemma 4
    (r"<unused94>\s*thought\b", r"<unused95>"),  # MedGemma
)
"""By family: the opening mark, and the closing one, in which `{0}` is the opening one's name."""
_AT_START = (
    (
        r"(?i:here(?:'s| is) my thought process:)(?=.*(?i:here(?:'s| is) my response:))",
        r"(?i:here(?:'s| is) my response:)",
    ),  # Granite 3
    (r"analysis(?=.*assistantfinal)", r"assistantfinal"),  # gpt-oss without its special tokens
)
"""Words of any text, which are marks where an answer begins with the first and holds the second."""
_CLOSINGS = (
    rf"</{_NAME}\s*>|\[/THINK\]|◁/think▷|<\|end_of_(?:thought|reasoning)\|>|<\|END_(?:THINKING|REASONING)\|>"
    r"|<\|\w+:end_think:\w+\|>|<\|/(?:think(?:ing)?|thought|reasoning)\|>|<channel\|>|<unused95>"
)
_OPENINGS = "|".join(f"(?:{opening})" for opening, _ in _FAMILIES)
_ANYWHERE = re.compile(rf"{_OPENINGS}|{_CLOSINGS}|<\|channel\|>|<\|channel>|<unused94>")
_CLOSING = re.compile(_CLOSINGS)
_BEGIN = re.compile(r"[<\[◁]")
_WORDS = ("think", "thought", "reasoning", "channel", "unused9")
"""Every mark begins with one of the letters and holds one of the words: most texts need no closer look."""
_MARKS = [(re.compile(opening, re.S), closing) for opening, closing in (*_FAMILIES, *_AT_START)]
_ENVELOPES = (
    re.compile(rf"{_HARMONY}final{_MESSAGE}(.*?)(?:<\|(?:return|end)\|>)?", re.S),
    re.compile(r"<(?P<tag>(?i:answer|response))>(.*)</(?P=tag)>", re.S),
    re.compile(r"<\|begin_of_solution\|>(.*?)(?:<\|end_of_solution\|>)?", re.S),
    re.compile(r"<\|START_RESPONSE\|>(.*?)(?:<\|END_RESPONSE\|>)?", re.S),
)
"""What some families put around the answer behind their thoughts."""


class Thoughts(Enum):
    """What becomes of the thoughts behind the responses in a release."""

    drop = "drop"
    column = "column"
    inline = "inline"


@dataclass(frozen=True, slots=True)
class Apart:
    """A text, as thoughts and answer."""

    thoughts: str
    """Without their marks; several are paragraphs. Empty: none."""
    answer: str
    """The text itself where there are no thoughts."""
    ended: bool = True
    """Whether the thoughts came to their end; otherwise there is no answer."""


def unmarked(text: str) -> bool:
    """Whether a text has no thoughts, no marks of any and no envelope, by a look that is quick; false: look closer."""
    folded = text.lower()
    return not (
        "think" in folded
        or "thought" in folded
        or "reasoning" in folded
        or "channel" in folded
        or "unused9" in folded
        or "assistantfinal" in folded
        or folded.lstrip().startswith("<|")
    )


def apart(text: str, opened: bool = False) -> Apart:
    """Tell the thoughts at the beginning of a text from what follows them.

    Args:
        text: an answer as a model wrote it.
        opened: the prompt ended with the opening mark, so that the text begins within a thought.
    """
    found: list[str] = []
    rest = text.lstrip()
    while begin := _opening(rest):
        at, closing = begin
        end = re.compile(closing).search(rest, at)
        if end is None:
            return Apart(_joined([*found, rest[at:]]), "", ended=False)
        found.append(rest[at : end.start()])
        rest = rest[end.end() :].lstrip()
    if not found:
        end = next(_all(_CLOSING, rest), None)
        if end and not _quoted(rest, end) and mark_in(rest[: end.start()]) == "":
            found, rest = [rest[: end.start()]], rest[end.end() :]
        elif opened:
            return Apart(rest.strip(), "", ended=False)
        elif not rest.startswith("<|"):
            return Apart("", text)
    return Apart(_joined(found), _unwrapped(rest.strip()))


def _opening(text: str) -> tuple[int, str] | None:
    """Where the thought that a text begins with begins, and the pattern of its end."""
    for opening, closing in _MARKS:
        if found := opening.match(text):
            return found.end(), closing.replace("{0}", re.escape(found[1])) if found.re.groups else closing
    return None


def _joined(thoughts: list[str]) -> str:
    return "\n\n".join(t.strip() for t in thoughts if t.strip())


def _unwrapped(answer: str) -> str:
    """An answer without its family's envelope."""
    for envelope in _ENVELOPES:
        if found := envelope.fullmatch(answer):
            return str(found[found.re.groups]).strip()
    return answer


MAY_MARK = (
    r"(?i)[<\[◁][^\s<]{0,60}?(?:think|thought|reasoning|channel|unused9)|here(?:'s| is) my thought|assistantfinal"
)
"""What every text with a mark holds, and few others: for engines of patterns that are faster and know less."""


def mark_in(text: str) -> str:
    """A mark of thoughts in a text, opening or closing, of any family; empty if there is none.

    One that stands between backticks is spoken of, and no mark.
    """
    for found in _all(_ANYWHERE, text):
        if not _quoted(text, found):
            return found[0]
    for opening, _ in _MARKS[-len(_AT_START) :]:
        if begin := opening.match(text.lstrip()):
            return begin[0]
    return ""


def _all(marks: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """What `finditer` finds, in a tenth of the time."""
    folded = text.lower()
    if any(word in folded for word in _WORDS):
        for begin in _BEGIN.finditer(text):
            if found := marks.match(text, begin.start()):
                yield found


def _quoted(text: str, found: re.Match[str]) -> bool:
    return text[found.start() - 1 : found.start()] == "`" == text[found.end() : found.end() + 1]


def without_marks(thoughts: str) -> str:
    """Thoughts without what would end them early, or begin others, once they stand inline; quoted or not."""
    while next(_all(_ANYWHERE, thoughts), None):
        thoughts = _ANYWHERE.sub("", thoughts)
    while mark := mark_in(thoughts):
        thoughts = thoughts.lstrip()[len(mark) :]
    return thoughts.strip()


OPENING, CLOSING = "<think>\n", "\n</think>\n\n"
"""What trainers put around thoughts, whatever the model's own marks were."""


def inline(thoughts: str, answer: str) -> str:
    """Thoughts and answer in one text."""
    return f"{OPENING}{thoughts}{CLOSING}{answer}" if thoughts else answer
