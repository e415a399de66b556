"""The replay of a recorded run: what it counts is what a bounded run of the same answers asks."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gra_hpc.config.settings import MethodConfig
from gra_hpc.errors import GraError
from gra_hpc.launch.round_end import finish_round
from gra_hpc.launch.tasks import ShardTask
from gra_hpc.records import CRITERIA, INSTRUCTION_CRITERIA
from tests.run.test_plan import make
from tools.bench.review_order import measure, orders, replay


def test_a_replay_asks_what_a_bounded_run_asks(tmp_path: Path) -> None:
    """Of the same answers: the simulated engine gives them by the request, which the order does not change."""
    runs = {}
    for order in ("together", "bounded"):
        words = ("launch.shards=1", "method.samples_per_seed=6", f"method.review_order={order}", "method.accept_mean=8")
        run = runs[order] = make(tmp_path, *words, name=order)
        ShardTask(str(run.path), 1, 0)()
        finish_round(run, 1)
    found = measure(runs["together"])
    calls = [
        [c for f in run.round(1).shards.glob("*/calls-*") for c in pq.read_table(f).to_pylist()]
        for run in runs.values()
    ]
    reviews = [[c for c in some if c["key"].split("/")[1].startswith("review_")] for some in calls]
    drawn = found["orders"]["drawn"]
    assert drawn["questions"] - drawn["asked"] == len(reviews[0]) - len(reviews[1]) > 0
    saved = sum(c["completion_tokens"] for c in reviews[0]) - sum(c["completion_tokens"] for c in reviews[1])
    assert drawn["tokens"] - drawn["tokens_asked"] == saved
    assert found["orders"]["strictest"]["asked"] <= found["orders"]["most lenient"]["asked"]
    assert measure(runs["together"], 9.5)["orders"]["drawn"]["asked"] < drawn["asked"]
    with pytest.raises(GraError, match="one after another already"):
        measure(runs["bounded"])


def test_the_strictest_first_ends_soonest() -> None:
    """One Reviewer always gives a zero, or scores that no other can make up for: it alone is asked."""
    rows = []
    for i in range(6):
        seats = ["a", "b", "c"][i % 3 :] + ["a", "b", "c"][: i % 3]
        good = dict.fromkeys(INSTRUCTION_CRITERIA, 1)
        first = [{"member": m, **(good if i < 3 or m != "c" else good | {"clarity": 0})} for m in seats]
        second = [{"member": m, **dict.fromkeys(CRITERIA, 3 if m == "c" else 9)} for m in seats]
        rows.append(
            {"id": str(i), "reviewers": seats, "instruction_reviews": first, "reviews": second if i < 3 else []}
        )
    no = {"a": 0.0, "b": 0.1, "c": 0.9}
    asked = {name: replay(rows, {}, MethodConfig(), order).asked for name, order in orders(no).items()}
    assert asked == {"drawn": 9 + 6 + 6, "strictest": 9 + 3 + 3, "most lenient": 9 + 9 + 9}
