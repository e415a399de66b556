"""What a run wrote, as digests that can be told apart: a test compares them with a file that was committed.

Only what users see is read: the run's directory (Parquet, JSON lines) and what commands print. Nothing here imports the
package, so moving its modules changes nothing here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

REWRITE = "GRA_REWRITE_GOLDEN"
"""Environment variable: when it is 1, the committed file is written anew and the test is skipped."""
_ROW = 6
"""Hex digits of a row's digest."""
_SHOWN = 600
"""Characters of a value that a message shows."""

Seen = dict[str, Any]
"""What was found, as plain JSON."""


def digest(value: object) -> str:
    """Sixteen hex digits of a value's JSON; floats count to their last bit, bytes as hex."""
    return hashlib.sha256(_text(value).encode()).hexdigest()[:16]


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=lambda b: b.hex(), separators=(",", ":"))


def rows_of(paths: Iterable[Path]) -> tuple[list[str], list[dict[str, Any]]]:
    """Tables one after another: their common schema, a line for each column, and their rows.

    Raises:
        AssertionError: no table, or tables of different schemas.
    """
    paths = list(paths)
    assert paths, "no table"
    tables = [pq.read_table(p) for p in paths]
    assert len({t.schema for t in tables}) == 1, f"tables of different schemas: {', '.join(map(str, paths))}"
    return schema_of(tables[0].schema), [row for t in tables for row in t.to_pylist()]


def schema_of(schema: pa.Schema) -> list[str]:
    """A line for each column: name, type, and whether nulls are refused."""
    return [f"{f.name}: {f.type}{'' if f.nullable else ' not null'}" for f in schema]


def table(schema: Sequence[str], rows: Sequence[dict[str, Any]], without: Sequence[str] = ()) -> Seen:
    """A table's digests: its schema in clear, a digest for each column, and a short one for each row.

    Args:
        schema: a line for each column.
        rows: the rows, in order.
        without: columns that are different in every run.
    """
    kept = [{k: v for k, v in row.items() if k not in without} for row in rows]
    return {
        "schema": list(schema),
        "rows": len(kept),
        "columns": columns(kept),
        "first": json.loads(_text(kept[0])) if kept else None,
        "digests": "".join(digest(row)[:_ROW] for row in kept),
    }


def columns(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """A digest for each column of some rows."""
    return {name: digest([row[name] for row in rows]) for name in (rows[0] if rows else ())}


def messages(printed: str) -> list[str]:
    """The prompts that `gra plan --prompts` prints, line by line, without their titles."""
    lines = printed.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("--- "))
    last = max(i for i, line in enumerate(lines) if line.startswith("next: "))
    return [line for line in lines[first:last] if line and not line.startswith("--- ")]


def check(file: Path, seen: Seen) -> None:
    """Compare what was seen with a committed file.

    Args:
        file: JSON.
        seen: by part: a table (see `table`), or anything plain.

    Raises:
        AssertionError: a line for each difference: part, column, row.
    """
    seen = json.loads(_text(seen))
    if os.environ.get(REWRITE) == "1":
        lines = (f"{json.dumps(name)}: {_pretty(part)}" for name, part in seen.items())
        file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        pytest.skip(f"{file} was written anew")
    golden = json.loads(file.read_text(encoding="utf-8"))
    found = [line for name in {**golden, **seen} for line in _differences(name, golden.get(name), seen.get(name))]
    assert not found, "\n".join(
        [f"not as in {file.name}:", *found, f"If it is meant: {REWRITE}=1, and say why in the commit."]
    )


def _pretty(part: Any) -> str:
    """Lists and objects a line for each item, long strings in one."""
    return json.dumps(part, ensure_ascii=False, indent=1)


def _differences(name: str, old: Any, new: Any) -> Iterable[str]:
    if old == new:
        return
    if old is None or new is None:
        yield f"{name}: {'is new' if old is None else 'is gone'}"
    elif isinstance(old, dict) and "digests" in old:
        yield from _table_differences(name, old, new)
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _differences(f"{name}: {key}", old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list):
        yield from _line_differences(name, old, new)
    else:
        yield f"{name}: was {_short(old)}, is {_short(new)}"


def _line_differences(name: str, old: list[Any], new: list[Any]) -> Iterable[str]:
    if len(old) != len(new):
        yield f"{name}: {len(old)} lines, now {len(new)}"
    at = next((i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), None)
    if at is not None:
        yield f"{name}: line {at + 1} was {_short(old[at])}, is {_short(new[at])}"


def _table_differences(name: str, old: Seen, new: Seen) -> Iterable[str]:
    yield from (f"{name}: column gone: {c}" for c in old["schema"] if c not in new["schema"])
    yield from (f"{name}: new column: {c}" for c in new["schema"] if c not in old["schema"])
    if sorted(old["schema"]) == sorted(new["schema"]) and old["schema"] != new["schema"]:
        yield f"{name}: the same columns in another order"
    for step in {**old.get("steps", {}), **new.get("steps", {})}:
        yield from _step_differences(f"{name}: {step}", old["steps"].get(step), new["steps"].get(step))
    if old["rows"] != new["rows"]:
        yield f"{name}: {old['rows']} rows, now {new['rows']}"
    changed = [c for c in old["columns"] if old["columns"][c] != new["columns"].get(c)]
    if changed:
        yield f"{name}: other values in {', '.join(changed)}"
    a, b = ([t["digests"][i : i + _ROW] for i in range(0, len(t["digests"]), _ROW)] for t in (old, new))
    rows = [i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]]
    if rows:
        yield f"{name}: {len(rows)} rows differ, the first is row {rows[0]}"
    if old["first"] and new["first"]:
        yield from _differences(f"{name}: row 0", old["first"], new["first"])
    for key in sorted({*old, *new} - {"schema", "rows", "columns", "first", "digests", "steps"}):
        yield from _differences(f"{name}: {key}", old.get(key), new.get(key))


def _step_differences(name: str, old: Seen | None, new: Seen | None) -> Iterable[str]:
    if old is None or new is None:
        yield f"{name}: {'not asked before' if old is None else 'not asked any more'}"
        return
    if old["calls"] != new["calls"]:
        yield f"{name}: {old['calls']} calls, now {new['calls']}"
    changed = [c for c in old if c != "calls" and old[c] != new.get(c)]
    if changed:
        yield f"{name}: other values in {', '.join(changed)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
