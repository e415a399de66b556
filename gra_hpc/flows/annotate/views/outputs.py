"""What is written of a run: labels.parquet, every item with its label and all that was said of it; and for_humans.csv,
the items that people should see."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from gra_hpc import parquet
from gra_hpc.flows.annotate.questions import Labels
from gra_hpc.flows.annotate.records import of_text
from gra_hpc.flows.annotate.settings import AnnotateConfig, Kind
from gra_hpc.flows.annotate.views.collected import Collected, Final, value_of
from gra_hpc.storage import whole_file
from gra_hpc.terminal import printable

LABELS, HUMANS = "labels.parquet", "for_humans.csv"
_FORMULA = ("=", "+", "-", "@")
"""What a spreadsheet takes for the beginning of a formula."""
ROWS = ("id", "text", "second", "label", "confidence", "how", "annotations", "verdict", "gold")
"""Columns of the tables that labels are written from."""
AUDIT, UNCERTAIN = "audit", "uncertain"
"""Why people should see an item: it was drawn at random, or is among the least certain."""


def label_type(kind: Kind) -> pa.DataType:
    """A label's type in labels.parquet."""
    span = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("label", pa.string()), ("quote", pa.string())])
    return {
        Kind.choice: pa.string(),
        Kind.pair: pa.string(),
        Kind.score: pa.int32(),
        Kind.multi: pa.list_(pa.string()),
        Kind.spans: pa.list_(span),
    }[kind]


def schema(kind: Kind) -> pa.Schema:
    """Of labels.parquet."""
    label = label_type(kind)
    said = pa.struct([("member", pa.string()), ("label", label), ("reason", pa.string())])
    return pa.schema(
        [
            ("id", pa.string()),
            ("text", pa.string()),
            *([("second", pa.string())] if kind is Kind.pair else []),
            ("label", label),
            ("confidence", pa.float64()),
            ("how", pa.string()),
            ("annotators", pa.list_(said)),
            ("adjudicator", said),
            ("gold", label),
        ]
    )


def write(
    tables: Callable[[], Iterable[pa.Table]],
    found: Collected,
    final: Final,
    config: AnnotateConfig,
    seed: int,
    out: Path,
) -> None:
    """Write both files, a table at a time.

    Args:
        tables: gives tables with `ROWS`, in the order that `found` was read in.
        seed: draws the audit.
        out: directory.
    """
    why = for_people(found, final, config, seed)
    people: dict[int, dict[str, Any]] = {}
    at = 0
    with parquet.whole_table(out / LABELS, schema(config.kind)) as writer:
        for table in tables():
            here = slice(at, at + len(table))
            rows = list(_rows(table, found.labels, final.code[here], final.confidence[here]))
            writer.write_table(pa.Table.from_pylist(rows, schema(config.kind)))
            people |= {at + i: row | {"why": why[at + i]} for i, row in enumerate(rows) if at + i in why}
            at += len(table)
    with whole_file(out / HUMANS) as file:
        _csv(file, [people[index] for index in why], config.kind)


def for_people(found: Collected, final: Final, config: AnnotateConfig, seed: int) -> dict[int, str]:
    """The items that people should see, in the order of the list: the random sample of all, then the least certain of
    the others, what is undecided first."""
    n = len(found)
    drawn = np.random.default_rng(seed).permutation(np.argsort(found.keys, kind="stable"))[: config.audit]
    sure = np.where(final.code >= 0, final.confidence, final.confidence - 1) if n else np.empty(0)
    sure[drawn] = np.inf
    wanted = min(config.for_humans, n - len(drawn))
    least = np.lexsort((found.keys, sure))[:wanted]
    return dict.fromkeys(drawn.tolist(), AUDIT) | dict.fromkeys(least.tolist(), UNCERTAIN)


def _rows(table: pa.Table, labels: Labels, codes: np.ndarray, confidence: np.ndarray) -> Iterator[dict[str, Any]]:
    """Rows of labels.parquet."""
    spans = labels.kind is Kind.spans
    for row, code, sure in zip(table.to_pylist(), codes.tolist(), confidence.tolist(), strict=True):
        text = row["text"]
        label = shown(row["label"], labels.kind, text) if spans else value_of(code, labels)
        yield {
            "id": row["id"],
            "text": text,
            "second": row["second"],
            "label": label,
            "confidence": sure,
            "how": row["how"] or "failed",
            "annotators": [_said(a, labels.kind, text) for a in row["annotations"] or ()],
            "adjudicator": _said(row["verdict"], labels.kind, text) if row["verdict"] else None,
            "gold": shown(row["gold"], labels.kind, text),
        }


def _said(annotation: dict[str, Any], kind: Kind, text: str) -> dict[str, Any]:
    return {
        "member": annotation["member"],
        "label": shown(annotation["said"], kind, text),
        "reason": annotation["reason"],
    }


def shown(stored: str | None, kind: Kind, text: str) -> Any:
    """A stored label as labels.parquet has it."""
    if not stored:
        return None
    value = of_text(stored, kind)
    if kind is not Kind.spans:
        return value
    return [{"start": s, "end": e, "label": name, "quote": text[s:e]} for s, e, name in value]


def cell(text: str) -> str:
    """A text that a spreadsheet takes for one: nothing in front of it makes it a formula, nothing in it moves a cursor.
    Words are as they were."""
    safe = printable(text, lines=True)
    return f"'{safe}" if safe.lstrip()[:1] in _FORMULA else safe


def _csv(file: BinaryIO, people: list[dict[str, Any]], kind: Kind) -> None:
    """A list that people fill in: without the committee's label, which would be theirs before they have read."""
    columns = ["id", "why", "text", *(["second"] if kind is Kind.pair else []), "label", "note"]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(
        [row["id"], row["why"], cell(row["text"]), *([cell(row["second"])] if kind is Kind.pair else []), "", ""]
        for row in people
    )
    file.write(text.getvalue().encode())
