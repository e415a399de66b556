"""Layouts of seed records: which field of a record holds what, and the texts in it. See `seeds` for the list."""

from __future__ import annotations

import difflib
import functools
import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from gra_hpc.errors import SeedError, nearest
from gra_hpc.sources.files import excerpt
from gra_hpc.sources.rows import Source
from gra_hpc.text import lists
from gra_hpc.thoughts import apart, mark_in

NOT_OBJECT, UNKNOWN_LAYOUT = "not_an_object", "unknown_layout"
WRONG_TYPE, EMPTY, THOUGHTS = "wrong_type", "empty_instruction", "thoughts"

TARGETS: dict[str, tuple[str, ...]] = {
    "instruction": ("instruction", "prompt", "question", "query", "problem", "input"),
    "input": ("input", "context"),
    "response": ("response", "output", "completion", "answer", "solution"),
    "messages": ("messages", "conversations", "conversation"),
    "instances": ("instances",),
    "domain": ("domain",),
    "keywords": ("keywords",),
    "summary": ("summary",),
    "thoughts": ("reasoning_content", "reasoning", "thoughts", "thinking"),
}
"""Names of source fields by what they hold, the first found counts."""

MAPPABLE = tuple(t for t in TARGETS if t != "instances")
"""Keys of `seeds.fields`."""

USER, ASSISTANT = ("user", "human", "prompter"), ("assistant", "gpt", "model", "bot", "chatgpt")
NO_INPUT = ("<noinput>", "<no input>", "noinput")
MAX_KEYWORDS = 10
THINKING_PARTS = ("thinking", "reasoning", "reasoning_text")
"""Types of a message's parts that hold thoughts."""


class Refused(ValueError):
    """A record that a rule rejects: reason, detail, and the text it is about."""

    def __init__(self, reason: str, detail: str, text: object = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.text = reason, detail, text


@dataclass(frozen=True, slots=True)
class Texts:
    """What a record says, before the rules of `seeds` are applied."""

    instruction: str
    response: str
    domain: str
    keywords: tuple[str, ...]
    summary: str
    thoughts: str = ""
    """What the response was thought out with."""

    def named(self) -> list[tuple[str, str]]:
        """The texts that models get to see, by name."""
        return [
            ("instruction", self.instruction),
            ("response", self.response),
            ("summary", self.summary),
            ("keywords", ", ".join(self.keywords)),
        ]


class Layout:
    """Which field of a record holds what.

    Args:
        fields: the user's map, from what a field holds to its name. Dots lead into nested objects; an empty name
            means that no field holds it.

    Raises:
        SeedError: a key that is not one of `MAPPABLE`.
    """

    def __init__(self, fields: dict[str, str]) -> None:
        for target in fields:
            if target not in MAPPABLE:
                raise SeedError(
                    f"seeds.fields.{target}: unknown key{nearest(str(target), MAPPABLE)}",
                    f"valid here: {', '.join(MAPPABLE)}",
                )
        if "instruction" in fields and "messages" in fields:
            raise SeedError("seeds.fields: instruction and messages are both given", "leave one of them out")
        self.fields = dict(fields)
        self.missing = {target: name for target, name in fields.items() if name}
        """Mapped fields that no record has had so far."""
        self.known = 0
        """Records with a field that could hold an instruction."""
        self.resolve = functools.lru_cache(maxsize=1024)(self._resolve)

    @property
    def wanted(self) -> set[str]:
        """Names of all fields that may be looked at."""
        names = {name for options in TARGETS.values() for name in options}
        return names | set(self.fields.values()) | {name.split(".")[0] for name in self.fields.values()}

    def _resolve(self, keys: frozenset[str]) -> dict[str, str]:
        """Source fields by target, for a record with these keys; without `instruction` and `messages` if unknown."""
        by_name = {k.casefold(): k for k in sorted(keys, reverse=True) if isinstance(k, str)}
        found = {
            target: by_name[name]
            for target, names in TARGETS.items()
            if (name := next((n for n in names if n in by_name), None))
        }
        if "instruction" in self.fields or "messages" in self.fields:
            described = ("domain", "keywords", "summary")
            found = {t: n for t, n in found.items() if t in ("input", "response", *described, "thoughts")}
        elif "messages" in found and found.get("instruction", "").casefold() == "instruction":
            del found["messages"]
        elif "messages" in found:  # `prompt` beside messages only repeats them
            found = {t: n for t, n in found.items() if t not in ("instruction", "input", "response", "instances")}
        found = {target: name for target, name in (found | self.fields).items() if name}
        if "input" in found and found["input"] in (found.get("instruction"), found.get("response")):
            del found["input"]
        if "response" in found and found["response"] == found.get("instruction"):
            del found["response"]
        return found

    def texts(self, record: dict[str, Any]) -> Texts:
        """The texts of a record; the instruction may still be empty.

        Raises:
            Refused: no field that could hold an instruction, or a field of a wrong type.
        """
        places = self.resolve(frozenset(record))
        if "instruction" not in places and "messages" not in places:
            raise Refused(UNKNOWN_LAYOUT, f"fields: {excerpt(', '.join(map(str, record)))}", record)
        self.known += 1
        values = {target: self._value(record, target, name) for target, name in places.items()}
        if "messages" in places:
            instruction, response, thoughts = exchange(values["messages"])
        else:
            instruction = text(values["instruction"], "instruction")
            if "instances" in places:
                first = first_instance(values["instances"])
                values |= {"input": first.get("input"), "response": first.get("output")}
            added = text(values.get("input"), "input", numbers=True)
            if has_content(instruction) and added.casefold() not in NO_INPUT:
                instruction = paragraphs(instruction, added)
            response = text(values.get("response"), "response", numbers=True)
            thoughts = ""
        inline = apart(response)
        if not inline.ended:
            raise Refused(THOUGHTS, "the thoughts in the response do not end", response)
        if mark := mark_in(inline.answer):
            raise Refused(THOUGHTS, f"{mark} within the response", response)
        domain, summary = values.get("domain"), values.get("summary")
        return Texts(
            instruction,
            inline.answer,
            domain if isinstance(domain, str) else "",
            keywords(values.get("keywords")),
            summary.strip() if isinstance(summary, str) else "",
            paragraphs(*dict.fromkeys((thoughts, text_of(values.get("thoughts")), inline.thoughts))),
        )

    def _value(self, record: dict[str, Any], target: str, name: str) -> Any:
        value: Any = record
        if name in record:
            value = record[name]
        else:
            for part in name.split("."):
                if not isinstance(value, dict) or part not in value:
                    return None
                value = value[part]
        self.missing.pop(target, None)
        return value

    def check(self, source: Source) -> None:
        """Refuse a dataset in which no record has the fields needed.

        Raises:
            SeedError: with the columns found and what to type.
        """
        columns = [str(c) for c in source.columns]
        found = f"found: {excerpt(', '.join(columns), 300)}"
        for target, name in self.missing.items():
            close = difflib.get_close_matches(name, columns, n=1, cutoff=0.0)
            raise SeedError(
                f"{source.label}: no record has the field {name} of seeds.fields.{target}; {found}",
                f"for example: seeds.fields.{target}={close[0] if close else 'FIELD'}",
            )
        if not self.known:
            example = columns[0] if columns else "FIELD"
            raise SeedError(
                f"{source.label}: no known layout; {found}",
                f"say which field holds what, for example: seeds.fields.instruction={example}"
                + (f" seeds.fields.response={columns[1]}" if len(columns) > 1 else ""),
            )


def text(value: object, name: str, numbers: bool = False) -> str:
    """A text field without outer white space; missing is empty. A number is text only where that makes sense.

    Raises:
        Refused: another type.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value.strip()
    if numbers and isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return str(value)
    raise Refused(WRONG_TYPE, f"{name} is a {type(value).__name__}, expected text", value)


def first_instance(value: object) -> dict[str, Any]:
    """Input and output of a self-instruct record's first instance; empty if it has none."""
    if value is None or value == []:
        return {}
    if isinstance(value, list) and isinstance(value[0], dict):
        return value[0]
    raise Refused(WRONG_TYPE, "instances: expected a list of objects", value)


def exchange(messages: object) -> tuple[str, str, str]:
    """The first user message, after a system message before it as a paragraph; the answer to it, and its thoughts.

    Raises:
        Refused: not a list of messages, or no user message.
    """
    if messages is None:
        return "", "", ""
    if not isinstance(messages, list):
        raise Refused(WRONG_TYPE, f"messages is a {type(messages).__name__}, expected a list", messages)
    system = user = response = thoughts = ""
    for message in messages:
        role, content = one_message(message)
        if role == "system" and not user:
            system = paragraphs(system, content)
        elif role in USER:
            if user:
                break
            user = content
        elif role in ASSISTANT and user:
            response, thoughts = content, thoughts_of(message)
            break
    if not has_content(user):
        raise Refused(EMPTY, "no user message with text", messages)
    return paragraphs(system, user), response, thoughts


def one_message(message: object) -> tuple[str, str]:
    """Role, in lower case, and text of a chat message; of a message in parts, the parts that are text.

    Raises:
        Refused: not a message.
    """
    if not isinstance(message, dict):
        raise Refused(WRONG_TYPE, f"a message is a {type(message).__name__}, expected an object", message)
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    if isinstance(content, list):
        parts = [p.get("text") for p in content if isinstance(p, dict) and p.get("type", "text") == "text"]
        content = paragraphs(*(p for p in parts if isinstance(p, str)))
    return role.casefold() if isinstance(role, str) else "", text(content, "message")


def thoughts_of(message: object) -> str:
    """The thoughts that a message carries beside its content (`reasoning_content` and its like), or among its parts."""
    if not isinstance(message, dict):
        return ""
    found = [text_of(message.get(name)) for name in TARGETS["thoughts"]]
    content = message.get("content", message.get("value"))
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and part.get("type") in THINKING_PARTS:
            found += [text_of(part.get(name)) for name in ("thinking", "reasoning", "text")]
    return paragraphs(*dict.fromkeys(found))


def text_of(value: object) -> str:
    """A text without outer white space; of anything else nothing."""
    return value.strip() if isinstance(value, str) else ""


def paragraphs(*parts: str) -> str:
    """The parts that are not empty, as paragraphs."""
    return "\n\n".join(p for p in parts if p)


def has_content(value: str) -> bool:
    """Whether there is anything to see."""
    return any(c.isprintable() and not c.isspace() for c in value)


def keywords(value: object) -> tuple[str, ...]:
    """Keywords out of a list, or a text with commas of any script; of any other type: none."""
    if isinstance(value, str):
        value = lists.split(value)
    if not isinstance(value, (list, tuple)):
        return ()
    words: dict[str, str] = {}
    for word in value:
        if isinstance(word, str) and has_content(word):
            words.setdefault(word.strip().casefold(), word.strip())
    return tuple(words.values())[:MAX_KEYWORDS]
