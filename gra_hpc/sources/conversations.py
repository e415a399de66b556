"""What the fields of a record say together: one conversation, read whole, or the reason why it is none.

In their order: the system's words, the history, what is asked (an instruction with its input, a prompt or messages),
and the answer (a text, or turns that may repeat the prompt). Of preferences the chosen answer is read; what is left
aside, of this and of anything else, is named.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gra_hpc.conversation import json_text
from gra_hpc.sources import dialects
from gra_hpc.sources.dialects import NOT_TEXT, Turn
from gra_hpc.sources.files import excerpt
from gra_hpc.sources.texts import EMPTY, WRONG_TYPE, Refused, has_content, paragraphs, says_nothing, text, text_of
from gra_hpc.thoughts import Apart, apart, mark_in, unmarked

THOUGHTS, EMPTY_TURN, OTHER_PROMPT = "thoughts", "empty_turn", "other_prompt"

REJECTED, BAD, OTHERS = "rejected answers", "answers labelled as bad", "other answers"
EARLIER, UNANSWERED = "thoughts of earlier turns", "thoughts without an answer"
INSTANCES, MESSAGES = "further instances", "messages beside an instruction"
"""Kinds of what is left aside."""

NO_INPUT = ("<noinput>", "<no input>", "noinput")


@dataclass(slots=True)
class Conversation:
    """A record, whole."""

    turns: list[Turn]
    """One of them at least is the user's, with text. Thoughts stand beside the last turn alone."""
    tools: list[dict[str, Any]]
    """What the assistant may call, as OpenAI describes it."""
    aside: list[str] = field(default_factory=list)
    """Kinds of what was left aside."""


def read(values: dict[str, Any]) -> Conversation:
    """A conversation out of a record's fields.

    Args:
        values: what they hold, by target (`layouts.TARGETS`).

    Raises:
        Refused: something in it is of a wrong type, no text, or not understood; nothing is asked; an empty turn.
    """
    if not says_nothing(values.get("media")):
        raise Refused(NOT_TEXT, "images, sound or video beside the text; seeds.fields.media= leaves them aside", values)
    aside: list[str] = []
    turns = _asked(values, aside)
    if not says_nothing(values.get("history")):
        turns = dialects.pairs(values["history"]) + turns
    system = text(values.get("system"), "system")
    if system and (not turns or (turns[0].role, turns[0].content) != ("system", system)):
        turns.insert(0, Turn("system", system))
    turns = _answered(turns, values, aside)
    if turns and turns[-1].role == "assistant":
        turns[-1].thoughts = paragraphs(*dict.fromkeys((turns[-1].thoughts, text_of(values.get("thoughts")))))
    aside += dict.fromkeys(f"{key} of messages" for turn in turns for key in turn.unread)
    for number, turn in enumerate(turns, 1):
        if turn.role == "assistant":
            _tell_thoughts_apart(turn, "response" if number == len(turns) else f"turn {number}")
    return Conversation(_whole(turns, values, aside), dialects.tools(values.get("tools")), aside)


_PLAIN = frozenset(("instruction", "input", "response", "domain", "keywords", "summary"))


def read_plain(values: dict[str, Any]) -> tuple[str, str] | None:
    """What `read` finds in a record of one question and its answer, in a quarter of the time; none: ask `read`.

    Returns:
        What is asked, with its input, and the answer, which may be empty.
    """
    told, added, said = values.get("instruction"), values.get("input"), values.get("response")
    if type(told) is not str or not values.keys() <= _PLAIN:
        return None
    if (said is not None and type(said) is not str) or (added is not None and type(added) is not str):
        return None
    told, added, said = told.strip(), (added or "").strip(), (said or "").strip()
    # a character that is printed is at the beginning, nearly always
    if not told or not (told[0].isprintable() or has_content(told)):
        return None
    if said and not ((said[0].isprintable() or has_content(said)) and thoughtless(said)):
        return None
    if added and added.casefold() not in NO_INPUT:
        told = paragraphs(told, added)
    return told, said


def _asked(values: dict[str, Any], aside: list[str]) -> list[Turn]:
    """The turns that lead to an answer; of messages all."""
    told = values.get("instruction")
    found = dialects.turns(values.get("messages"))
    if "instruction" not in values:
        return found
    if dialects.is_conversation(told):
        found = dialects.turns(told, "instruction")
        return _with_input(found, values.get("input"))
    asked = Turn("user", text(told, "instruction"))
    added = values.get("input")
    if "instances" in values:
        added = _first_instance(values, aside).get("input")
    (asked,) = _with_input([asked], added)
    if found:  # a release has both
        if asked.content == next((t.content for t in reversed(found) if t.role == "user"), ""):
            return found
        aside.append(MESSAGES)
    return [asked]


def _with_input(turns: list[Turn], value: object) -> list[Turn]:
    """The input is the last paragraph of what the user says last."""
    added = text(value, "input", numbers=True)
    if not added or added.casefold() in NO_INPUT or not turns:
        return turns
    last = turns[-1]
    if last.role != "user":
        raise Refused(WRONG_TYPE, f"input beside a prompt that ends with the {last.role}", value)
    if has_content(last.content):
        last.content = paragraphs(last.content, added)
    return turns


def _first_instance(values: dict[str, Any], aside: list[str]) -> dict[str, Any]:
    """A self-instruct record's first instance; empty if it has none."""
    value = values["instances"]
    if says_nothing(value):
        return {}
    if not isinstance(value, list) or not isinstance(value[0], dict):
        raise Refused(WRONG_TYPE, "instances: expected a list of objects", value)
    if len(value) > 1:
        aside.append(INSTANCES)
    return value[0]


def _answered(turns: list[Turn], values: dict[str, Any], aside: list[str]) -> list[Turn]:
    """The same turns, and the answer."""
    value = values.get("response")
    if "instances" in values:
        value = _first_instance(values, []).get("output")
    if not says_nothing(values.get("rejected")):
        aside.append(REJECTED)
    if _is_bad(values.get("label")) and not says_nothing(value):
        aside.append(BAD)
        return turns
    if dialects.is_conversation(value):
        answer = dialects.turns(value, "response")
    else:
        said = text(value, "response", numbers=True)
        answer = [Turn("assistant", said)] if said else []
    if turns and turns[-1].role == "assistant" and (turns[-1].content or turns[-1].calls):
        if answer and answer[-1].content != turns[-1].content:
            aside.append(OTHERS)
        return turns
    return _joined(turns, answer)


def _is_bad(label: object) -> bool:
    """Whether an answer is labelled as bad. A table of text has no other way to hold a truth value; a number is none,
    but some class's."""
    return label is False or (isinstance(label, str) and label.strip().casefold() == "false")


def _joined(turns: list[Turn], answer: list[Turn]) -> list[Turn]:
    """A prompt and its answer, which may begin with the prompt.

    Raises:
        Refused: it begins with another one.
    """
    if not any(t.role in ("system", "user") for t in answer):
        return turns + answer
    said = [(t.role, t.content) for t in turns]
    for start in range(len(turns) + 1):  # the system's words may be in the prompt alone
        rest = said[start:]
        if [(t.role, t.content) for t in answer[: len(rest)]] == rest:
            return turns[:start] + answer
        if start == len(turns) or turns[start].role != "system":
            break
    if len(turns) == 1 and said[0] in [(t.role, t.content) for t in answer]:  # the prompt is what was asked last
        return answer
    raise Refused(OTHER_PROMPT, "the answer is a conversation that does not begin with the prompt", said)


def may_think(text: str) -> bool:
    """Whether a text, or any of several joined ones, may have thoughts or a mark of one; false: none has."""
    if "<" in text or "[" in text or "◁" in text:  # two families' marks are words: `thoughts.MAY_MARK`
        return True
    folded = text.lower()
    return "my thought" in folded or "assistantfinal" in folded


def thoughtless(said: str) -> bool:
    """Whether there is neither a thought nor a mark of one in an answer."""
    return not may_think(said) or unmarked(said) or (apart(said) == Apart("", said) and not mark_in(said))


def _tell_thoughts_apart(turn: Turn, name: str) -> None:
    """Move thoughts in the marks of any family from a turn's content beside it."""
    if unmarked(turn.content):
        return
    inline = apart(turn.content)
    if not inline.ended:
        raise Refused(THOUGHTS, f"the thoughts in the {name} do not end", turn.content)
    if mark := mark_in(inline.answer):
        raise Refused(THOUGHTS, f"{mark} within the {name}", turn.content)
    turn.content = inline.answer
    turn.thoughts = paragraphs(*dict.fromkeys((turn.thoughts, inline.thoughts)))


def _as_written(values: dict[str, Any]) -> object:
    """What an excerpt is of: a record's messages in its own words, else its fields."""
    return json_text(values["messages"]) if "messages" in values else values


def _others(values: dict[str, Any]) -> str:
    """Who speaks in a record whose user says nothing, and whom the user may be called."""
    names = [n for n in dialects.speakers(values.get("messages")) if dialects.SPEAKERS.get(n.casefold()) != "user"]
    read = ", ".join(f"{excerpt(n, 40)} (read as {dialects.SPEAKERS.get(n.casefold(), 'nobody')})" for n in names[:3])
    return f": turns of {read}; known are {dialects.NAMES}" if names else ""


def _whole(turns: list[Turn], values: dict[str, Any], aside: list[str]) -> list[Turn]:
    """The turns that say something, if nothing is missing between them; without thoughts before the last one."""
    turns = [t for t in turns if t.content or t.role != "system"]
    while turns and turns[-1].role == "assistant" and not turns[-1].content and not turns[-1].calls:
        if turns.pop().thoughts:
            aside.append(UNANSWERED)
    if not any(t.role == "user" and has_content(t.content) for t in turns):
        told = "messages" not in values and isinstance(values.get("instruction"), str | None)
        if told:
            raise Refused(EMPTY, "nothing printable in the instruction", values)
        raise Refused(EMPTY, f"no user message with text{_others(values)}", _as_written(values))
    for number, turn in enumerate(turns, 1):
        if turn.role != "tool" and not turn.calls and not has_content(turn.content):
            raise Refused(EMPTY_TURN, f"turn {number}, of the {turn.role}, says nothing", _as_written(values))
    for turn in turns[:-1]:
        if turn.thoughts:
            turn.thoughts = ""
            if EARLIER not in aside:
                aside.append(EARLIER)
    return turns
