"""The merge benchmark: how what was dropped is scored against what was planted."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tools.bench.merge import score
from tools.bench.merge_corpus import NEAR, SEMANTIC, THRESHOLD, TWIN, identity, truth

ROWS = 2000


def dropped(by: dict[str, np.ndarray]) -> pa.Table:
    """Rows dropped by each step, every one beaten by its original."""
    t = truth(ROWS)
    rows = np.concatenate(list(by.values()))
    return pa.table(
        {
            "id": identity(rows),
            "step": [step for step, some in by.items() for _ in some],
            "winner": identity(t.base[rows]),
            "similarity": np.ones(len(rows)),
        }
    )


@pytest.mark.parametrize(("step", "recall"), [("exact", 1.0), ("fuzzy", 1.0), ("semantic", 0.0)])
def test_only_the_exact_and_near_steps_count_for_near_recall(step: str, recall: float) -> None:
    """Near-duplicates lie close in the embedding too: what they missed, the semantic step drops."""
    t = truth(ROWS)
    near = np.flatnonzero((t.kind == NEAR) & (t.jaccard >= THRESHOLD))
    manifest = {"steps": {"semantic": {"method": "exact", "recall": None}}}
    result = score(ROWS, dropped({step: near}), manifest)
    assert len(near) > 50
    assert result["near"]["recall"] == pytest.approx(recall, abs=0.05)
    assert result["exact"]["recall"] == pytest.approx(0, abs=0.05)


def test_each_step_has_found_what_was_planted_for_it() -> None:
    t = truth(ROWS)
    near = np.flatnonzero((t.kind == NEAR) & (t.jaccard >= THRESHOLD))
    by = {"exact": np.flatnonzero(t.kind == TWIN), "fuzzy": near, "semantic": np.flatnonzero(t.kind == SEMANTIC)}
    result = score(ROWS, dropped(by), {"steps": {"semantic": {"method": "exact", "recall": None}}})
    assert [result[s]["recall"] for s in ("exact", "near", "semantic")] == [1.0, 1.0, 1.0]
    assert [result[s]["precision"] for s in ("exact", "near", "semantic")] == [1.0, 1.0, 1.0]
