"""What of a configuration is frozen, and how two of them differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from enum import Enum
from typing import Any


def differences(planned: Any, now: Any, prefix: str = "") -> Iterator[str]:
    """`key: planned A, now B` for every leaf that differs."""
    return (f"{key}: planned {old!r}, now {new!r}" for key, old, new in changes(planned, now, prefix))


def changes(planned: Any, now: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Key, what was planned and what is now, of every leaf that differs."""
    if planned and now is None and isinstance(planned, dict):
        now = {}
    if now and planned is None and isinstance(now, dict):
        planned = {}
    if isinstance(planned, dict) and isinstance(now, dict):
        for key in sorted({*planned, *now}):
            yield from changes(planned.get(key), now.get(key), f"{prefix}{key}.")
    elif planned != now:
        yield prefix[:-1], planned, now


def fingerprinted(value: Any) -> Any:
    """The part of a config that a run freezes: plain dicts, lists and scalars without the `unfrozen` fields."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: fingerprinted(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.metadata.get("fingerprint", True)
        }
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(k): fingerprinted(v) for k, v in sorted(value.items())}
    if isinstance(value, (list, tuple)):
        return [fingerprinted(v) for v in value]
    return value
