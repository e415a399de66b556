"""The texts in a record's fields, and how a record is refused."""

from __future__ import annotations

import json
import math
from decimal import Decimal

import orjson

from gra_hpc.sources.files import excerpt

WRONG_TYPE, EMPTY = "wrong_type", "empty_instruction"


class Refused(ValueError):
    """A record that a rule rejects: reason, detail, and the text it is about."""

    def __init__(self, reason: str, detail: str, text: object = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.text = reason, detail, text

    @property
    def excerpt(self) -> str:
        """The start of the text; of a list or an object as JSON, in its order."""
        if not isinstance(self.text, (dict, list)):
            return excerpt(self.text)
        try:
            return excerpt(orjson.dumps(self.text))
        except TypeError:  # as of `conversation.json_text`; half characters, and more than 254 levels
            pass
        try:
            return excerpt(json.dumps(self.text, separators=(",", ":"), ensure_ascii=False, default=str))
        except RecursionError:
            return f"(a {type(self.text).__name__} of too many levels)"


def text(value: object, name: str, numbers: bool = False) -> str:
    """A text field without outer white space; missing is empty. A number is text only where that makes sense.

    Raises:
        Refused: another type.
    """
    if is_absent(value):
        return ""
    if isinstance(value, str):
        return value.strip()
    if numbers and isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return str(value)
    raise Refused(WRONG_TYPE, f"{name} is a {type(value).__name__}, expected text", value)


def text_of(value: object) -> str:
    """A text without outer white space; of anything else nothing."""
    return value.strip() if isinstance(value, str) else ""


def paragraphs(*parts: str) -> str:
    """The parts that are not empty, as paragraphs."""
    return "\n\n".join(p for p in parts if p)


def has_content(value: str) -> bool:
    """Whether there is anything to see."""
    for c in value:  # noqa: SIM110  (the first one, nearly always: `any` takes five times as long)
        if c.isprintable() and not c.isspace():
            return True
    return False


def encodes(value: str) -> bool:
    """Whether it has no half of a character."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_absent(value: object) -> bool:
    """Whether a field is not there: tables have null, or NaN, where a record has no such field."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def says_nothing(value: object) -> bool:
    """Whether a field is not there, or blank: no text, an empty list, an object of fields that are not there."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, dict):
        return all(says_nothing(v) for v in value.values())
    return is_absent(value) or value == []


def unpacked(value: object) -> object:
    """What a text of JSON holds, where it is a list or an object; any other value as it is. Tables of text have no
    other way to hold one."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def listed(value: object) -> object:
    """A list of objects, out of an object of lists of one length, which is how `datasets` and Arrow may keep it; any
    other value as it is."""
    if not isinstance(value, dict) or not value:
        return value
    lists = {k: v for k, v in value.items() if v is not None}
    if not lists or not all(isinstance(v, list) for v in lists.values()) or len({len(v) for v in lists.values()}) > 1:
        return value
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
