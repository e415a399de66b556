"""What a response answers where that is more than one instruction: the turns before it, and the tools it may call.

Records and samples carry it as one text, `context`, which is empty where there is none. Its form is that of OpenAI's
chat messages, made normal: a context has one text, in whatever dialect it came.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

ROLES = ("system", "user", "assistant", "tool")

Message = dict[str, Any]
"""`{role, content}`, both texts. An assistant that calls tools has `tool_calls` too: `[{type: "function", function:
{name, arguments}}]`, where the arguments are JSON text."""


def pack(before: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> str:
    """The text of a context.

    Args:
        before: the turns before the response; one of them is the user's, and its last words are the instruction.
        tools: JSON descriptions of the tools, as OpenAI has them.

    Returns:
        Empty where an instruction alone says as much.
    """
    if not tools and len(before) == 1 and before[0]["role"] == "user":
        return ""
    return json_text({"messages": before, **({"tools": tools} if tools else {})})


def json_text(value: Any) -> str:
    """A value as JSON, keys in order: equal values have one text."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # integers of more than 64 bits, decimals, bytes: tables and JSON may hold them
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def messages_before(context: str, instruction: str) -> list[Message]:
    """The turns before a response."""
    return list(orjson.loads(context)["messages"]) if context else [{"role": "user", "content": instruction}]


def tools_of(context: str) -> list[dict[str, Any]]:
    """The tools that a response may call."""
    return list(orjson.loads(context).get("tools", ())) if context else []


def messages_of(context: str, instruction: str, response: str) -> list[Message]:
    """The whole conversation."""
    return [*messages_before(context, instruction), {"role": "assistant", "content": response}]


def asked(context: str, instruction: str) -> str:
    """What of it counts when texts are compared: the instruction, then what was said before it, the latest first.

    The system's words and the tools are left out: many records share them.
    """
    if not context:
        return instruction
    said = []
    for message in messages_before(context, instruction):
        if message["role"] != "system":
            calls = (call["function"] for call in message.get("tool_calls", ()))
            said.append("\n".join((message["content"], *(f"{c['name']} {c['arguments']}" for c in calls))).strip())
    said.reverse()
    if instruction in said:
        said.remove(instruction)
    return "\n\n".join((instruction, *said))


def shown(context: str) -> str:
    """A context as text for a prompt: who says what, turn by turn, up to what the response answers; empty: none."""
    return "\n\n".join(_shown(orjson.loads(context))) if context else ""


def _shown(context: dict[str, Any]) -> Iterator[str]:
    if tools := context.get("tools"):
        yield f"[tools]\n{json_text(tools)}"
    for message in context["messages"]:
        if message["content"] or "tool_calls" not in message:
            yield f"[{message['role']}]\n{message['content']}"
        for call in message.get("tool_calls", ()):
            yield f"[call of a tool]\n{call['function']['name']}({call['function']['arguments']})"


def without_nulls(value: Any) -> Any:
    """A JSON value without the keys that hold null: where a table has one type for all rows, that is what it fills."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list) else value


def as_object(arguments: str) -> Any:
    """The arguments of a call, out of their JSON text; a text that is none stays."""
    try:
        return orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
