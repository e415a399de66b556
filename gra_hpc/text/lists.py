"""Lists as people and models write them, taken apart: JSON, numbers, bullets, lines, the commas of any script."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

import orjson

_SEPARATORS = ",;|"
_WEAKER = ("・", "·", " / ", "／")
"""Between items only where nothing else is: they are also within them."""
_NUMBER = re.compile(r"(?<![\w.:])[(（\[]?(\d{1,2})(?:[.):．）、：\]](?!\d)|\s[-–]\s)\s*")
"""The number of an item, in the digits of any script; not the 3 of `3.5` or `12:30`."""
_BULLET = re.compile(r"\A[-*•‣◦▪●・–—]\s*")
_QUOTED = re.compile(r"""(["'])((?:\\.|(?!\1).)+)\1""")
_JSON_LISTS = 20
"""So many `[` are tried as the beginning of a JSON list."""


def items(text: str) -> list[str]:
    """The items of a list, as they are written; some may be empty.

    A JSON list goes first, then numbers that count from one on a line, then the separators of the first line (commas
    and semicolons of any script), then the middle dots and strokes that are weaker, else every line is an item.
    """
    listed = _json_list(text)
    if listed is not None:
        return listed
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith((":", "：")):  # what introduces a list is no item of it
        lines = lines[1:]
    if not lines:
        return []
    plain = [_digits(line) for line in lines]
    numbered = _numbered(plain[0])
    if numbered:
        return [part.strip(" ,;" + _commas(part)) for part in numbered]
    lines = [_unnumbered(line) for line in plain]
    for separators in (_SEPARATORS + _commas(lines[0]), *_WEAKER):
        pattern = re.escape(separators) if separators in _WEAKER else f"[{re.escape(separators)}]"
        if re.search(pattern, lines[0]):
            return re.split(pattern, lines[0])
    return lines


def split(text: str) -> list[str]:
    """The items of a list whose separators may stand on any line: a field that holds keywords."""
    listed = _json_list(text)
    return re.split(f"[{re.escape(_SEPARATORS + _commas(text))}\n]", text) if listed is None else listed


def _commas(text: str) -> str:
    """The commas and semicolons outside ASCII that are in a text: those that Unicode names so, of any script."""
    return "".join(c for c in dict.fromkeys(text) if not c.isascii() and _is_comma(c))


def _is_comma(char: str) -> bool:
    name = unicodedata.name(char, "")
    return unicodedata.category(char) == "Po" and ("COMMA" in name or "SEMICOLON" in name)


def _digits(line: str) -> str:
    """Numbers in circles and the like as numbers with a point: `①` is `1. `."""
    if line.isascii():
        return line
    return "".join(f" {unicodedata.digit(c)}. " if _is_numeral(c) else c for c in line).strip()


def _is_numeral(char: str) -> bool:
    compatible = unicodedata.decomposition(char).startswith(("<circle>", "<compat>"))
    return not char.isascii() and compatible and unicodedata.digit(char, None) is not None


def _numbered(line: str) -> list[str]:
    """The items of a line that are counted from one; empty if they are not."""
    found = list(_NUMBER.finditer(line))
    if len(found) < 2 or found[0].start() or [int(m[1]) for m in found] != list(range(1, len(found) + 1)):
        return []
    ends = [m.start() for m in found[1:]] + [len(line)]
    return [line[m.end() : end] for m, end in zip(found, ends, strict=True)]


def _unnumbered(line: str) -> str:
    """A line without its number or bullet."""
    found = _NUMBER.match(line)
    return line[found.end() :] if found else _BULLET.sub("", line)


def _json_list(text: str) -> list[str] | None:
    """The texts of the last JSON list of texts in a text (or of a Python one, with its other quotes)."""
    for begin in list(_brackets(text))[::-1]:
        end = text.find("]", begin) + 1
        if not end:
            continue
        try:
            value = orjson.loads(text[begin:end])
        except orjson.JSONDecodeError:
            inside = text[begin + 1 : end - 1].strip().rstrip(",")
            value = [m[2] for m in _QUOTED.finditer(inside)]
            if _QUOTED.sub("", inside).strip(" ,\n\t"):
                continue
        if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
            return value
    return None


def _brackets(text: str) -> Iterator[int]:
    """Places of `[` that a quote follows."""
    for n, found in enumerate(re.finditer(r"\[(?=\s*[\"'])", text)):
        if n == _JSON_LISTS:
            return
        yield found.start()
