"""What a run has written, read from its files: all of it, or only what no machine changes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.golden import pinned

MEASURED = ("at", "seconds")
"""Columns of calls that are times."""


def everything(run: Path, rounds: int) -> pinned.Seen:
    """Of a run with simulated engines, by table; with round 0.

    Args:
        run: its directory.
        rounds: how many follow round 0.
    """
    seen: pinned.Seen = {"seeds": pinned.table(*pinned.rows_of([run / "seeds.parquet"]))}
    seen["seeds refused"] = [json.loads(line) for line in (run / "seeds.rejects.jsonl").read_text().splitlines()]
    for number in range(rounds + 1):
        directory, name = run / "rounds" / f"{number:02d}", f"round {number}"
        schema, calls = pinned.rows_of(sorted(directory.glob("shards/*/calls-*.parquet")))
        by_step: dict[str, list[dict[str, Any]]] = {}
        for call in calls:
            row = {k: v for k, v in call.items() if k not in MEASURED}
            by_step.setdefault(call["key"].split("/")[1], []).append(row)
        steps = {s: {"calls": len(rows), **pinned.columns(rows)} for s, rows in by_step.items()}
        seen[f"{name} calls"] = pinned.table(schema, calls, MEASURED) | {"steps": steps}
        schema, samples = pinned.rows_of(sorted(directory.glob("shards/*/samples-*.parquet")))
        seen[f"{name} samples"] = pinned.table(schema, samples) | {
            "ends": _counts(": ".join(filter(None, (s["status"], s["stage"], s["reason"]))) for s in samples)
        }
        for merged in ("pool", "kept", "dropped") if number else ("pool",):
            schema, rows = pinned.rows_of([directory / "merged" / f"{merged}.parquet"])
            seen[f"{name} {merged}"] = pinned.table(schema, rows)
            if merged == "dropped":
                seen[f"{name} {merged}"]["by"] = _counts(row["step"] for row in rows)
    release = run / "release"
    for part in ("data/train", "data/validation", "rejects/rejected", "rejects/failed", "rejects/dropped"):
        seen[f"release {part}"] = pinned.table(*pinned.rows_of(sorted(release.glob(f"{part}-*.parquet"))))
    for path in sorted([*release.glob("exports/**/*.json*"), release / "rejects" / "seeds.jsonl"]):
        seen[f"release {path.relative_to(release)}"] = pinned.digest(path.read_text())
    return seen


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def what_no_machine_changes(run: Path) -> pinned.Seen:
    """Of a run with real engines, one round and described seeds: ids, draws, first calls, schemas.

    A sample's first question follows from the seeds alone, and so do its key, its sampling seed and its length in
    tokens. All others hold answers.
    """
    first = run / "rounds" / "01"
    tables = {
        "samples": sorted(first.glob("shards/*/samples-*.parquet")),
        "calls": sorted(first.glob("shards/*/calls-*.parquet")),
        **{name: [first / "merged" / f"{name}.parquet"] for name in ("pool", "kept", "dropped")},
        "release data": sorted((run / "release").glob("data/train-*.parquet")),
    }
    _, seeds = pinned.rows_of([run / "seeds.parquet"])
    _, samples = pinned.rows_of(tables["samples"])
    _, calls = pinned.rows_of(tables["calls"])
    drawn = ("id", "round", "seed_id", "index", "domain", "generator", "reviewers", "summarizer", "examples")
    asked = ("key", "member", "model", "prompt_tokens", "seed")
    return {
        "seeds": [{k: v for k, v in s.items() if k != "source"} for s in seeds],
        "samples": [{k: s[k] for k in drawn} for s in sorted(samples, key=lambda s: str(s["id"]))],
        "first calls": [
            {k: c[k] for k in asked}
            for c in sorted(calls, key=lambda c: str(c["key"]))
            if c["key"].endswith("/keywords/generator/0")
        ],
        "schemas": {name: pinned.schema_of(pq.read_schema(paths[0])) for name, paths in tables.items()},
    }
