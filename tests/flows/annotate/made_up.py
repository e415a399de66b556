"""Labels of made-up items, as a run's tables hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from gra_hpc.flows.annotate.decide import decide
from gra_hpc.flows.annotate.label import Item
from gra_hpc.flows.annotate.questions import Label, Labels, Said
from gra_hpc.flows.annotate.records import Labelled
from gra_hpc.flows.annotate.settings import AnnotateConfig
from gra_hpc.records import digest

SAID = pa.struct(
    [
        ("member", pa.string()),
        ("said", pa.string()),
        ("reason", pa.string()),
        ("sure", pa.bool_()),
        ("margin", pa.float64()),
    ]
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        *((name, pa.string()) for name in ("text", "second", "label")),
        ("confidence", pa.float64()),
        ("how", pa.string()),
        ("annotations", pa.list_(SAID)),
        ("verdict", SAID),
        ("gold", pa.string()),
    ]
)
MEMBERS = ("ada", "ben", "cyd", "dee", "eve")


def item(
    said: Sequence[Label | None], config: AnnotateConfig, text: str = "a text", verdict: Said | None = None
) -> Item:
    """An item that members have labelled; None: one abstains."""
    out = Item(text)
    out.annotations = [(m, Said(s, f"{m} thinks so")) for m, s in zip(MEMBERS, said, strict=False) if s is not None]
    if out.annotations:
        found = decide([s.label for _, s in out.annotations], [1.0] * len(out.annotations), Labels.of(config), config)
        out.label, out.confidence, out.how = found.label, found.confidence, "agreed"
        if not found.agreed(config):
            out.verdict = ("fay", verdict) if verdict else None
            out.label, out.how = (verdict.label, "settled") if verdict and verdict.sure else (None, "undecided")
    return out


def table(items: Sequence[Item]) -> pa.Table:
    """As a shard's table has them."""
    rows: list[dict[str, Any]] = [{"id": digest("item", i), **asdict(Labelled.of(it))} for i, it in enumerate(items)]
    return pa.Table.from_pylist(rows, SCHEMA)


def planted(n: int, accuracies: Sequence[float], labels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """True labels [n], and what members of such accuracies say [n, m]."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, labels, n)
    wrong = (truth[:, None] + rng.integers(1, labels, (n, len(accuracies)))) % labels
    return truth, np.where(rng.random(wrong.shape) < np.array(accuracies), truth[:, None], wrong)
