"""One item of a run for people: what everybody said of it, what became of it, and the label that is released."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.config.settings import RunConfig
from gra_hpc.flows.annotate.settings import AnnotateConfig, Keep, Kind
from gra_hpc.flows.annotate.views.outputs import LABELS, shown
from gra_hpc.flows.units import settings_of
from gra_hpc.parquet import open_table

ROWS = 1 << 16
"""Rows of a release that are held at once."""


def lines(config: RunConfig, release: Path, row: Mapping[str, Any]) -> Iterator[str]:
    """An item as a link or a committee left it, then as it is released.

    Args:
        release: directory; what is released is not told where there is none yet.
        row: of a shard's samples.

    Raises:
        ReleaseError: a table of the release that cannot be read.
    """
    own: AnnotateConfig = settings_of(config)
    text = row["text"]
    yield from _block("text", text)
    if row["second"]:
        yield from _block("second text", row["second"])
    how = row["how"] or "no usable answer"
    if own.keep is Keep.quantile and row["how"]:  # whether it kept the item the merge has decided, not the link
        how = "this link's"
    yield f"label: {_words(shown(row['label'], own.kind, text), own.kind)}  ({how}, confidence {row['confidence']:.2f})"
    if row["gold"]:
        yield f"came with the label: {_words(shown(row['gold'], own.kind, text), own.kind)}"
    for said in row["annotations"] or ():
        margin = "" if said.get("margin") is None else f"  (margin {said['margin']:.2f})"
        yield _said("annotator", said["member"], shown(said["said"], own.kind, text), said["reason"], own.kind) + margin
    if verdict := row["verdict"]:
        label = shown(verdict["said"], own.kind, text)
        yield _said("adjudicator", verdict["member"], label, verdict["reason"], own.kind)
    if (release / LABELS).is_file():
        yield from _released(release / LABELS, row, own.kind)


def _released(path: Path, row: Mapping[str, Any], kind: Kind) -> Iterator[str]:
    """The item's label in a release; of a chain with the words of all links, whose rows have other ids."""
    found = _row_of(path, row)
    if found is None:
        yield "released: not in the release, which was made before, or without it"
        return
    yield f"released: {_words(found['label'], kind)}  ({found['how']}, confidence {found['confidence']:.2f})"
    here = {said["member"] for said in row["annotations"] or ()}
    for said in found["annotators"] or ():
        if said["member"] not in here:
            yield _said("annotator", said["member"], said["label"], said["reason"], kind) + "  (in another round)"


def _row_of(path: Path, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The row with an item's id, or else with its text."""
    by_text: dict[str, Any] | None = None
    with open_table(path) as file:
        columns = ["id", "text", "label", "confidence", "how", "annotators"]
        columns += ["second"] if "second" in file.schema_arrow.names else []
        for batch in file.iter_batches(ROWS, columns=columns):
            mine = pc.equal(batch["id"], row["id"])
            same = pc.and_(pc.equal(batch["text"], row["text"]), _same_second(batch, row["second"]))
            for found in batch.filter(pc.or_(mine, same)).to_pylist():
                if found["id"] == row["id"]:
                    return dict(found)
                by_text = by_text or found
    return by_text


def _same_second(batch: pa.RecordBatch, second: str) -> Any:
    """Whether rows have that second text: bool, or an array."""
    return pc.equal(batch["second"], second) if "second" in batch.schema.names else True


def _said(role: str, member: str, label: Any, reason: str, kind: Kind) -> str:
    return f"{role} {member}: {_words(label, kind)}{f'  {reason}' if reason else ''}"


def _words(label: Any, kind: Kind) -> str:
    """A label as people write it."""
    if label is None:
        return "undecided"
    if kind is Kind.spans:
        return "; ".join(f"{s['label']}: {s['quote']}" for s in label) or "none"
    return "; ".join(label) or "none" if kind is Kind.multi else str(label)


def _block(title: str, text: str) -> Iterator[str]:
    yield f"{title}:"
    yield from (f"    {line}" for line in text.splitlines() or [""])
