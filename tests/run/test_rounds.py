"""Rounds as one chain, here with the simulated engine: growth, targets, and resuming between any two steps."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gra_hpc.errors import GraError, IncompleteError
from gra_hpc.launch.round_end import finish_round
from gra_hpc.launch.tasks import ShardTask
from gra_hpc.records import Record
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.rounds import current_round, remaining
from gra_hpc.run.run import Run
from gra_hpc.sources.seeds import read_records
from gra_hpc.storage import read_json
from gra_hpc.views.logs import show
from gra_hpc.views.status import collect
from gra_hpc.views.status_lines import next_command
from tests.run.test_plan import make


def work(run: Run) -> None:
    """Everything that is left, in order."""
    while steps := remaining(run):
        for shard in steps[0].shards:
            ShardTask(str(run.path), steps[0].round, shard)()
        finish_round(run, steps[0].round)


def test_three_rounds_grow_the_pool_and_draw_from_it(tmp_path: Path) -> None:
    run = make(tmp_path, "method.rounds=3", "launch.shards=2", "merge.fuzzy=false", described=False)
    assert [s.round for s in remaining(run)] == [0, 1, 2, 3]
    work(run)
    sizes = [len(list(read_records(run.round(r).pool))) for r in range(4)]
    assert sizes[0] == 12 and sizes == sorted(sizes) and sizes[3] > sizes[1] > 12
    pools: list[dict[str, Record]] = [{r.id: r for r in read_records(run.round(n).pool)} for n in range(3)]
    drawn = set()
    for shard in range(2):
        m = read_json(run.round(3).shard(shard).manifest)
        rows = pq.read_table(run.round(3).shard(shard).path / m["samples"]["file"]).to_pylist()
        drawn |= {e for row in rows for e in row["examples"]}
    assert drawn <= set(pools[2])  # examples come from seeds and all accepted so far
    assert drawn - set(pools[0])  # and not from the seeds alone
    assert (run.release / "manifest.json").is_file()
    release = read_json(run.release / "manifest.json")
    assert sum(s["rows"] for s in release["splits"].values()) == sizes[3] - 12


@pytest.mark.parametrize(("target", "expected"), [(6, 0.9), (500, 0.5)])
def test_a_target_is_met_exactly_or_the_shortfall_is_told(tmp_path: Path, target: int, expected: float) -> None:
    run = make(
        tmp_path,
        "method.rounds=2",
        f"method.target_accepted={target}",
        f"method.expected_acceptance={expected}",
        "merge.fuzzy=false",
    )
    work(run)
    first = read_json(run.round(1).manifest)
    kept = first["counts"]["kept"]
    assert kept <= target
    assert first["target"] == {"wanted": target, "shortfall": target - kept}
    table = pq.read_table(run.round(1).kept)
    assert table.num_rows == kept and table["score"].to_pylist() == sorted(table["score"].to_pylist(), reverse=True)
    second = RoundPlan.load(run.round(2))
    survivors = kept + first["counts"]["dropped"].get("surplus", 0)
    measured = survivors / (first["ledger"]["planned"])
    assert second.acceptance == pytest.approx(measured)
    margin = max(0.05, 2 * math.sqrt((1 - measured) / target))
    assert second.candidates == math.ceil((1 + margin) * target / measured)


def test_a_round_without_survivors_stops_the_chain(tmp_path: Path) -> None:
    """Nothing measures how many candidates the next round would need."""
    run = make(tmp_path, "method.rounds=2", "method.target_accepted=6", "engine.simulated_failures=1")
    with pytest.raises(IncompleteError, match="candidates of rounds 1 to 1 survived: round 2 is not planned"):
        work(run)
    assert run.round(1).manifest.is_file() and not run.round(2).plan_file.exists()
    for ask in (remaining, current_round):  # merging and resuming say the same again, and nothing untrue
        with pytest.raises(IncompleteError, match="survived: round 2 is not planned -> gra inspect"):
            ask(run)
    with pytest.raises(GraError, match="round 1 shard 0: no log"):  # nothing ran as a job here
        list(show(run, 0, None, False, 5))
    seen = collect(run, ask_slurm=False)
    assert "survived: round 2 is not planned" in seen.stopped
    assert next_command(seen).startswith(f"gra inspect {run.path} --status rejected")


def test_the_current_round_is_the_first_unmerged(tmp_path: Path) -> None:
    run = make(tmp_path, "method.rounds=2", described=False)
    seen = []
    while remaining(run):
        seen.append(current_round(run))
        for shard in remaining(run)[0].shards:
            ShardTask(str(run.path), seen[-1], shard)()
        finish_round(run, seen[-1])
    assert seen == [0, 1, 2] and current_round(run) == 2
