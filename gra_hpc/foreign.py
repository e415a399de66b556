"""Data that others wrote, read within bounds: YAML whose aliases multiply, values of another type than was promised."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
from collections.abc import Callable
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

NODES, DEPTH = 200_000, 100
"""A YAML text may come to so many values, aliases followed, nested so deeply."""
_PLAIN_CHARS, _PLAIN_NESTING = 20_000, 40
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # both make plain data only; the one in C is ten times faster


class TooMuch(yaml.YAMLError):
    """A YAML text that is refused, though it may be valid."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


def load_yaml(text: str, loader: Any = _LOADER) -> Any:
    """The plain data of a YAML text.

    Raises:
        yaml.YAMLError: not YAML, a value that it cannot be, or more than `NODES` and `DEPTH` allow.
    """
    if _suspect(text):
        _measure(text)
    try:
        return yaml.load(text, Loader=loader)
    except (ValueError, OverflowError, RecursionError) as e:  # a date of no calendar, a number of 5,000 digits
        raise TooMuch(str(e).splitlines()[0] if str(e) else type(e).__name__) from None


def _suspect(text: str) -> bool:
    """Whether a text could be more than it seems; nearly none is, and those are read once only."""
    nested = text.count("[") + text.count("{") + len(re.findall(r"[-?:]\s+[-?]\s", text))
    return len(text) > _PLAIN_CHARS or nested > _PLAIN_NESTING or ("&" in text and "*" in text)


def _measure(text: str) -> None:
    """Count what a text comes to, without making it.

    Raises:
        yaml.YAMLError: too much, or not YAML.
    """
    sizes: dict[str, int] = {}
    stack: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            stack.append((event.anchor, total))
            total += 1
            if len(stack) > DEPTH:
                raise TooMuch(f"nested more than {DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = stack.pop()
            if anchor:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in stack):
                raise TooMuch(f"*{event.anchor} is inside itself")
            total += sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor:
                sizes[event.anchor] = 1
        if total > NODES:
            raise TooMuch(f"more than {NODES} values, aliases followed")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type: plain ones, lists, maps and unions of them. Numbers are finite, no truth values."""
    return _check(hint)(value)


@functools.cache
def _check(hint: Any) -> Callable[[Any], bool]:
    """What `fits` asks for one type; made once, since a status asks it of every value of 20,000 files."""
    kind, args = get_origin(hint) or hint, get_args(hint)
    if hint is Any:
        return lambda _: True
    if kind in (Union, types.UnionType):
        kinds = [_check(a) for a in args]
        return lambda value: any(check(value) for check in kinds)
    if kind is list or (kind is tuple and args[-1:] == (...,)):
        item = _check(args[0])
        return lambda value: isinstance(value, kind) and all(map(item, value))
    if kind is dict:
        key, item = _check(args[0]), _check(args[1])
        return lambda value: isinstance(value, dict) and all(map(key, value)) and all(map(item, value.values()))
    if kind is float:
        return lambda value: type(value) in (int, float) and math.isfinite(value)
    if kind is int:
        return lambda value: type(value) is int
    if hint is type(None):
        return lambda value: value is None
    return lambda value: isinstance(value, kind)


def _fields(record: type) -> list[tuple[str, Callable[[Any], bool]]]:
    """A dataclass's fields, and what each must be."""
    hints = get_type_hints(record)
    return [(f.name, _check(hints[f.name])) for f in dataclasses.fields(record)]


_checks: Callable[[type], list[tuple[str, Callable[[Any], bool]]]] = functools.cache(_fields)


def all_fit(record: Any) -> bool:
    """Whether every field of a dataclass holds what its type says."""
    return all(check(getattr(record, name)) for name, check in _checks(type(record)))
