"""YAML for typed places: what belongs into a text stays as it was typed."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, get_args, get_type_hints

import yaml

from gra_hpc.foreign import load_yaml

# both make plain data only; the one in C is ten times faster
_SAFE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TEXTS = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
"""Makes every value the text that was typed."""


class _Loader(_SAFE):
    """What looks like a number or a date and is none (thousands of digits, a 13th month) stays a text."""

    @staticmethod
    def or_text(construct: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def made(loader: Any, node: Any) -> Any:
            try:
                return construct(loader, node)
            except (ValueError, OverflowError):
                return node.value

        return made


for _tag in ("int", "float", "timestamp"):
    _full = f"tag:yaml.org,2002:{_tag}"
    _Loader.add_constructor(_full, _Loader.or_text(_SAFE.yaml_constructors[_full]))


types_of: Callable[[Any], dict[str, Any]] = functools.cache(get_type_hints)
"""The types of a dataclass's fields, by name; made out of their texts once."""


def parsed(text: str, hint: Any) -> Any:
    """The data of a YAML text for a place of some type.

    Raises:
        yaml.YAMLError: not YAML.
    """
    return _as_typed(hint, load_yaml(text, _Loader), yaml.load(text, Loader=_TEXTS))


def _as_typed(hint: Any, value: Any, typed: Any) -> Any:
    """A value as it was typed where a text belongs: YAML reads `no`, `012` and `2024.10` as a truth value and
    numbers."""
    args = get_args(hint)
    if isinstance(value, dict) and isinstance(typed, dict) and len(value) == len(typed):
        hints = types_of(hint) if dataclasses.is_dataclass(hint) else {}
        inner = args[1] if len(args) == 2 else Any
        return {
            (key if isinstance(key, str) else name): _as_typed(hints.get(key, inner), item, word)
            for (key, item), (name, word) in zip(value.items(), typed.items(), strict=True)
        }
    if isinstance(value, list) and isinstance(typed, list):
        inner = args[0] if args else Any
        return [_as_typed(inner, item, word) for item, word in zip(value, typed, strict=True)]
    if value is None or not isinstance(typed, str):
        return value
    if hint is str or (isinstance(hint, type) and issubclass(hint, Enum)):
        return typed
    if hint is int and re.fullmatch(r"[+-]?0\d{1,20}", typed):
        return int(typed)  # `010` is ten
    return value


def hint_of(kind: Any, parts: Sequence[str]) -> Any:
    """The type of the field that dotted words lead to; anything, if there is none."""
    for part in parts:
        args = get_args(kind)
        if dataclasses.is_dataclass(kind):
            kind = types_of(kind).get(part, Any)
        else:
            kind = args[1] if len(args) == 2 else Any
    return kind


def parts_of(kind: type, key: str, data: Mapping[str, Any]) -> list[str]:
    """The parts of a dotted key. A name in a map may have dots itself (`models.llama-3.1-8b.path`): one that is there
    already, else what stands before the first of its settings.

    Args:
        kind: of the configuration.
        data: what is in its maps so far.
    """
    first, *words = key.split(".")
    args = get_args(types_of(kind).get(first))
    if words and len(args) == 2 and dataclasses.is_dataclass(args[1]):
        there = data[first] or {}
        ends = range(len(words), 1, -1)
        known = next((n for n in ends if ".".join(words[:n]) in there), 0)
        before = next((n for n, word in enumerate(words) if n and word in types_of(args[1])), 1)
        name = known or (1 if words[0] in there else before)
        words = [".".join(words[:name]), *words[name:]]
    return [first, *words]


def typed(kind: type, key: str, value: bool | int | float | str) -> str:
    """A setting of a kind of configuration as a user types it, `key=value`: so that it is read back as it is."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, str):
        with contextlib.suppress(yaml.YAMLError):
            if parsed(text, hint_of(kind, key.split("."))) == value:
                return f"{key}={text}"
        text = json.dumps(value, ensure_ascii=False)
    return f"{key}={text}"
