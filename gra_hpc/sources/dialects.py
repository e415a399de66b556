"""Dialects of conversations, brought into one form: who speaks, what is said, which tools are called with what.

Known are OpenAI's chat messages and the items of its responses API, ShareGPT's `{from, value}`, and Alpaca's `history`
of pairs, each also as text of JSON or as an object of lists. What the tables below do not know refuses the record: a
conversation is read whole, or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gra_hpc.conversation import Message, json_text, without_nulls
from gra_hpc.sources.files import excerpt
from gra_hpc.sources.texts import (
    WRONG_TYPE,
    Refused,
    is_absent,
    listed,
    paragraphs,
    says_nothing,
    text,
    text_of,
    unpacked,
)

UNKNOWN_TURN, NOT_TEXT = "unknown_turn", "not_text"

CALL = "call"
SPEAKERS = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool",
    "tool_response": "tool", "function_response": "tool", "function_call_output": "tool",
    "function_call": CALL, "tool_call": CALL,
}  # fmt: skip
"""Names of those who speak, by dialect, and the role that each has; `CALL`: the assistant, whose words are a call."""
NAMES = "system, user (human, prompter), assistant (gpt, model, bot, chatgpt) and tool"
"""Those of them that people give turns."""

WHO, WHAT = ("role", "from"), ("content", "value", "text", "output")
"""Keys that hold who speaks (of an item of the responses API also `type`), and what is said."""

TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Types of a message's parts that are text, and the key that holds it."""
THINKING_PARTS = ("thinking", "reasoning", "reasoning_text")
"""Types of a message's parts that hold thoughts."""
THINKING = ("reasoning_content", "reasoning", "thoughts", "thinking")
"""Fields that hold thoughts, of a message and of a record."""
READ = {*WHO, *WHAT, *THINKING, "type", "id", "status", "refusal", "tool_calls", "function_call", "weight"}
"""Keys of a message that are known; of a call and its result also `OF_CALLS`."""
OF_CALLS = {"name", "call_id", "tool_call_id", "arguments"}
MEDIA = ("audio", "image", "images", "video", "videos", "audios")
"""Fields that hold what is no text, of a message and of a record."""


@dataclass(slots=True)
class Turn:
    """One turn of a conversation."""

    role: str
    """One of `conversation.ROLES`."""
    content: str
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    """Of an assistant: id, name and arguments (JSON text) of each call of a tool."""
    answers: str = ""
    """Of a tool: id of the call that it answers, if said."""
    thoughts: str = ""
    """What it was thought out with, as it stands beside it."""
    learned: bool = True
    """Of an assistant: whether fine-tuning learns it (`weight`)."""
    unread: tuple[str, ...] = ()
    """Keys of the message that say something, and are not known."""

    @property
    def message(self) -> Message:
        """In the form of `conversation`."""
        if not self.calls:
            return {"role": self.role, "content": self.content}
        functions = [{"name": name, "arguments": arguments} for _, name, arguments in self.calls]
        calls = [{"type": "function", "function": f} for f in functions]
        return {"role": self.role, "content": self.content, "tool_calls": calls}


def is_conversation(value: object) -> bool:
    """Whether a field that may hold a text holds turns."""
    value = listed(value)
    if isinstance(value, dict):
        return any(isinstance(value.get(k), str) for k in WHO)
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def turns(value: object, name: str = "messages") -> list[Turn]:
    """The turns of a conversation.

    Args:
        name: of the field.

    Raises:
        Refused: no list of messages, or one with something in it that is not understood.
    """
    value = listed(unpacked(value))
    if is_absent(value):
        return []
    if isinstance(value, dict) and is_conversation(value):
        value = [value]
    if not isinstance(value, list):
        raise Refused(WRONG_TYPE, f"{name} is a {type(value).__name__}, expected a list", value)
    found: list[Turn] = []
    thoughts = ""
    for item in value:
        if isinstance(item, dict) and item.get("type") == "reasoning" and not _speaker(item):
            thoughts = paragraphs(thoughts, _thoughts_of_item(item))
            continue
        turn = _turn(item)
        if turn.role == "assistant" and thoughts:
            turn.thoughts, thoughts = paragraphs(thoughts, turn.thoughts), ""
        _add(found, turn)
    return found


def pairs(value: object, name: str = "history") -> list[Turn]:
    """The turns of a history: pairs of what the user and the assistant said, or messages.

    Raises:
        Refused: neither.
    """
    value = listed(unpacked(value))
    if not isinstance(value, list):
        hint = f"; seeds.fields.{name}= leaves it aside" if not is_absent(value) else ""
        raise Refused(WRONG_TYPE, f"{name} is a {type(value).__name__}, expected a list of pairs{hint}", value)
    if any(isinstance(p, dict) and _speaker(p) for p in value):
        return turns(value, name)
    found: list[Turn] = []
    for pair in value:
        if isinstance(pair, dict):  # {"user": ..., "assistant": ...}
            said = {SPEAKERS[k.casefold()]: v for k, v in pair.items() if k.casefold() in SPEAKERS and not is_absent(v)}
            pair = [said.get("user"), said.get("assistant")]
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise Refused(WRONG_TYPE, f"{name} holds {excerpt(pair, 40)}, expected pairs of texts", pair)
        found += [
            Turn(role, text(said, f"a turn of {name}")) for role, said in zip(("user", "assistant"), pair, strict=True)
        ]
    return found


def tools(value: object) -> list[dict[str, Any]]:
    """Descriptions of tools, as OpenAI's chat API has them, out of those of either API, bare functions, or text.

    Raises:
        Refused: no such list.
    """
    value = listed(unpacked(value))
    if says_nothing(value):
        return []
    items = value if isinstance(value, list) else [value]
    out: list[dict[str, Any]] = []
    for item in map(unpacked, items):
        if not isinstance(item, dict):
            raise Refused(WRONG_TYPE, "tools is no list of functions; seeds.fields.tools= leaves it aside", value)
        tool = without_nulls(item)
        function = tool.get("function")
        if not isinstance(function, dict) and "name" in tool:
            function = {k: v for k, v in tool.items() if k != "type"}
        out.append({"type": "function", "function": function} if function else tool)
    return out


def speakers(value: object) -> list[str]:
    """Who speaks in a conversation, each once, as it is written there."""
    items = listed(unpacked(value))
    said = (
        (_speaker(i) or text_of(i.get("type")) for i in items if isinstance(i, dict)) if isinstance(items, list) else ()
    )
    return list(dict.fromkeys(filter(None, said)))


def _speaker(item: dict[str, Any]) -> str:
    return next((who for key in WHO if isinstance(who := item.get(key), str) and who.strip()), "")


def _turn(item: object) -> Turn:
    if not isinstance(item, dict):
        raise Refused(WRONG_TYPE, f"a message is a {type(item).__name__}, expected an object", item)
    who = _speaker(item) or text_of(item.get("type"))
    role = SPEAKERS.get(who.strip().casefold())
    if role is None:
        raise Refused(UNKNOWN_TURN, f"a turn of {excerpt(who, 40) or 'nobody'}; known are {NAMES}", json_text(item))
    for key in MEDIA:
        if not says_nothing(item.get(key)):
            raise Refused(NOT_TEXT, f"{key} in a message", item)
    said = next((item[key] for key in WHAT if not is_absent(item.get(key))), None)
    known = READ | OF_CALLS if role in (CALL, "tool") else READ
    unread = tuple(k for k in item if k not in known and not says_nothing(item[k]))
    if role == CALL:
        calls = item if is_absent(said) else unpacked(said)  # an item of the responses API is the call itself
        found = [_call(c) for c in (calls if isinstance(calls, list) else [calls])]
        return Turn("assistant", "", found, unread=unread)
    if role == "tool":
        answers = text_of(item.get("tool_call_id")) or text_of(item.get("call_id"))
        return Turn(role, _result(said), answers=answers, unread=unread)
    turn = Turn(role, _content(said), thoughts=_thoughts_beside(item, said), unread=unread)
    if role == "assistant":
        turn.learned = item.get("weight") != 0
        turn.content = turn.content or text_of(item.get("refusal"))
        asked = listed(unpacked(item.get("tool_calls")))
        asked = [] if says_nothing(asked) else asked if isinstance(asked, list) else [asked]
        if not says_nothing(item.get("function_call")):
            asked = [*asked, item["function_call"]]
        turn.calls = [_call(c) for c in asked]
    return turn


def _add(found: list[Turn], turn: Turn) -> None:
    """Append a turn. Calls that follow words of the assistant, or other calls, are one turn with them; results stand in
    the order of the calls that they answer."""
    last = found[-1] if found else None
    if last and last.role == turn.role == "assistant" and turn.calls and not turn.content:
        last.calls += turn.calls
        last.thoughts = paragraphs(last.thoughts, turn.thoughts)
        return
    found.append(turn)
    if turn.role != "tool" or not turn.answers:
        return
    first = next(i for i in range(len(found), 0, -1) if i == 1 or found[i - 2].role != "tool") - 1
    order = {id_: n for n, (id_, *_) in enumerate(found[first - 1].calls)} if first else {}
    if all(t.answers in order for t in found[first:]):
        found[first:] = sorted(found[first:], key=lambda t: order[t.answers])


def _content(said: object) -> str:
    """The text of a message; of one in parts, all its parts.

    Raises:
        Refused: a part that is no text.
    """
    said = listed(said)
    if not isinstance(said, list):
        return text(said, "message")
    return paragraphs(*(p for p in map(_part, said) if p))


def _part(part: object) -> str:
    if isinstance(part, str):
        return part.strip()
    if not isinstance(part, dict):
        raise Refused(WRONG_TYPE, f"a part of a message is a {type(part).__name__}, expected an object", part)
    kind = part.get("type") or "text"
    if kind in THINKING_PARTS:
        return ""
    if kind not in TEXT_PARTS or not isinstance(part.get(TEXT_PARTS[kind]), str):
        raise Refused(NOT_TEXT, f"a part of type {excerpt(kind, 40)}", part)
    return str(part[TEXT_PARTS[kind]]).strip()


def _result(said: object) -> str:
    """What a tool gave back: text, parts, or JSON."""
    if isinstance(said, (dict, list)) and not (isinstance(said, list) and said and isinstance(said[0], dict)):
        return json_text(without_nulls(said))
    if isinstance(said, list) and any(not isinstance(p, dict) or p.get("type") not in TEXT_PARTS for p in said):
        return json_text(without_nulls(said))
    return _content(said) if isinstance(said, list) else text(said, "result of a tool", numbers=True)


def _call(call: object) -> tuple[str, str, str]:
    """Id, name and arguments of a call."""
    call = unpacked(call)
    inner = call.get("function") if isinstance(call, dict) else None
    inner = inner if isinstance(inner, dict) else call
    if not isinstance(call, dict) or not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise Refused(WRONG_TYPE, f"a call of a tool is {excerpt(call, 40)}, expected its name and arguments", call)
    arguments = inner.get("arguments")
    arguments = unpacked(inner.get("parameters") if is_absent(arguments) else arguments)
    if not isinstance(arguments, str):
        arguments = json_text(without_nulls(arguments or {}))
    return text_of(call.get("call_id")) or text_of(call.get("id")), inner["name"].strip(), arguments


def _thoughts_beside(item: dict[str, Any], said: object) -> str:
    """The thoughts that a message carries beside its content (`reasoning_content` and its like), or among its parts."""
    found = [text_of(item.get(name)) for name in THINKING]
    said = listed(said)
    for part in said if isinstance(said, list) else ():
        if isinstance(part, dict) and part.get("type") in THINKING_PARTS:
            found += [text_of(part.get(name)) for name in ("thinking", "reasoning", "text")]
    return paragraphs(*dict.fromkeys(found))


def _thoughts_of_item(item: dict[str, Any]) -> str:
    """The thoughts of an item of the responses API: its content, or else its summary."""

    def parts(key: str) -> Iterator[str]:
        value = listed(item.get(key))
        for part in value if isinstance(value, list) else ():
            yield text_of(part.get("text")) if isinstance(part, dict) else text_of(part)

    return paragraphs(*parts("content")) or paragraphs(*parts("summary"))
