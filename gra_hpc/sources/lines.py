"""Lines of text files and the JSON in them: no line is taken into memory that is too long, no number loses a digit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import partial
from itertools import chain
from typing import IO, Any

import orjson

LINE_BYTES = 16 << 20
"""Longest line, in bytes, that is taken into memory."""

_LONG_NUMBER = re.compile(rb"\d{16}")
_TEXT = {str}


def loads(data: bytes) -> Any:
    """Parsed JSON, numbers with all their digits.

    Raises:
        orjson.JSONDecodeError: not JSON.
    """
    value = orjson.loads(data)
    if type(value) is dict and _TEXT.issuperset(map(type, value.values())):  # no number in it
        return value
    if _LONG_NUMBER.search(data):  # orjson would round it to a float of 64 bits
        try:
            return json.loads(data, parse_float=Decimal)
        except RecursionError:
            return value
        except ValueError as e:  # more digits than Python takes
            raise orjson.JSONDecodeError(str(e), "", 0) from None
    return value


def pieces_of(f: IO[bytes]) -> Iterator[bytes]:
    """Lines, those that are too long in several pieces."""
    return iter(partial(f.readline, LINE_BYTES), b"")


def numbered(pieces: Iterator[bytes], before: int = 0) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines; none in place of one that is too long.

    Args:
        before: so many lines stand before them.
    """
    for number, line in enumerate(pieces, before + 1):
        if len(line) == LINE_BYTES and not line.endswith(b"\n"):
            rest = next(pieces, b"")
            if rest:
                while rest and not rest.endswith(b"\n"):
                    rest = next(pieces, b"")
                yield number, None
                continue
        yield number, line


def parsed(lines: Sequence[bytes]) -> list[Any] | None:
    """What lines hold, numbers with all their digits; none: one of them may hold something else."""
    try:
        values = list(map(orjson.loads, lines))
    except orjson.JSONDecodeError:
        return None
    texts = set(map(type, values)) == {dict} and _TEXT.issuperset(
        map(type, chain.from_iterable(map(dict.values, values)))
    )
    return values if texts or not _LONG_NUMBER.search(b"".join(lines)) else None


def one_object_each(f: IO[bytes]) -> bool:
    """Whether a `.json` file holds one object per line. Leaves the position as it was."""
    start = f.tell()
    objects = 0
    for _, line in numbered(pieces_of(f)):
        if line is None:
            break
        if not line.strip():
            continue
        if objects:  # an object on a line of its own, and more to come
            objects += 1
            break
        try:
            objects = int(isinstance(orjson.loads(line), dict))
        except orjson.JSONDecodeError:
            break
        if not objects:
            break
    f.seek(start)
    return objects == 2
