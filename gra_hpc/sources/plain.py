"""Plain records: a question and its answer as texts, and nothing else that is read. Most data sets hold no others.

They are read a batch at a time, field by field: a rule is asked once about all texts together, and text by text only
where one of them breaks it. What is not plain, or may be refused, is left to `layouts` and `seeds`, record by record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gra_hpc.sources.conversations import NO_INPUT, may_think, thoughtless
from gra_hpc.sources.layouts import BLANK, TEXT, Layout, kind_of
from gra_hpc.sources.texts import encodes

FEW = 8
"""Fewer records of the same fields are not worth it."""
Pair = tuple[str, str]
"""Question and answer; the answer may be empty."""


def pairs(values: Sequence[Any], layout: Layout, max_chars: int, special: re.Pattern[str]) -> list[Pair | None]:
    """Question and answer of each plain record that no rule refuses, as `Layout.plain` finds them; none: look closer.

    Args:
        values: records; what is no object is no record.
        layout: which field holds what.
        max_chars: longest text.
        special: finds a special token.
    """
    if set(map(type, values)) == {dict} and len(shapes := set(map(tuple, values))) == 1:
        return _of_fields(shapes.pop(), values, layout, max_chars, special)
    found: list[Pair | None] = [None] * len(values)
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, value in enumerate(values):
        if type(value) is dict:
            groups.setdefault(tuple(value), []).append(i)
    for fields, rows in groups.items():
        if len(rows) >= FEW:
            pairs_of_them = _of_fields(fields, [values[i] for i in rows], layout, max_chars, special)
            for i, pair in zip(rows, pairs_of_them, strict=True):
                found[i] = pair
    return found


def _of_fields(
    fields: tuple[str, ...], records: Sequence[dict[str, Any]], layout: Layout, max_chars: int, special: re.Pattern[str]
) -> list[Pair | None]:
    """The same of records of the same fields."""
    found: list[Pair | None] = [None] * len(records)
    columns = list(zip(*map(dict.values, records), strict=True))
    for at, texts in _by_places(fields, columns, layout):
        pairs_of_them = _accepted(*texts, max_chars, special)
        if len(at) == len(found):
            return pairs_of_them
        for i, pair in zip(at, pairs_of_them, strict=True):
            found[i] = pair
    return found


def _by_places(
    fields: tuple[str, ...], columns: list[tuple[Any, ...]], layout: Layout
) -> Iterator[tuple[Sequence[int], tuple[list[str], list[str], list[str]]]]:
    """Instructions, inputs and responses of records of the same fields, without outer white space, by which fields
    hold them: of what is blank in a record, another field may say it."""
    stripped: list[list[str]] = []
    kinds: list[list[int | None]] = []
    for column in columns:
        if set(map(type, column)) == {str}:
            stripped.append(list(map(str.strip, column)))
            kinds.append([TEXT if text else BLANK for text in stripped[-1]])
        else:
            stripped.append([value.strip() if type(value) is str else "" for value in column])
            kinds.append(list(map(kind_of, column)))
    shapes = list(zip(*kinds, strict=True))
    places = {shape: layout.plain_places(fields, shape) for shape in set(shapes)}
    for names in {names for names in places.values() if names}:
        at = [i for i, shape in enumerate(shapes) if places[shape] == names]
        told, added, said = (stripped[fields.index(name)] if name else [""] * len(shapes) for name in names)
        if len(at) == len(shapes):
            yield at, (told, added, said)
            return
        yield at, ([told[i] for i in at], [added[i] for i in at], [said[i] for i in at])


def _accepted(
    told: list[str], added: list[str], said: list[str], max_chars: int, special: re.Pattern[str]
) -> list[Pair | None]:
    """Instructions with their inputs, and responses; none: there may be something about it."""
    bad: set[int] = set()

    def ask(all_fit: bool, fits: Callable[[str], object], texts: list[str]) -> None:
        """Look for the texts that do not fit, unless all of them do."""
        if not all_fit:
            bad.update(i % len(told) for i, text in enumerate(texts) if not fits(text))

    ask(all(told), bool, told)
    if any(added):
        told = [f"{t}\n\n{a}" if a and a.casefold() not in NO_INPUT else t for t, a in zip(told, added, strict=True)]
    both = [*told, *said]
    joined = "\0".join(both)
    ask("".join([text[:1] for text in both]).isprintable(), lambda t: t[:1].isprintable(), both)
    ask(max(map(len, both)) <= max_chars, lambda t: len(t) <= max_chars, both)
    ask(joined.count("\0") == len(both) - 1, lambda t: "\0" not in t, both)
    ask(encodes(joined), encodes, both)
    ask(not special.search(joined), lambda t: not special.search(t), both)
    ask(not may_think("\0".join(said)), thoughtless, said)
    return [None if i in bad else pair for i, pair in enumerate(zip(told, said, strict=True))]
