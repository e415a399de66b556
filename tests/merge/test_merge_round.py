"""The merge of a round, end to end, on shards as attempts publish them."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from fabricate import FAILED, REJECTED, change, configure, make_run, publish_shard, rows, sample, seed, tables, text

from gra_hpc import storage
from gra_hpc.errors import IncompleteError
from gra_hpc.merge.described_seeds import merge_described
from gra_hpc.merge.round import merge_round
from gra_hpc.run.run import Run


def small_run(path: Path, **merge: object) -> Run:
    """Four shards: an exact twin, a near-duplicate, a twin of a seed, a rejected and a failed sample."""
    seeds = [seed(i) for i in range(5)]
    run = make_run(path, seeds, shards=4, **merge)
    rng = random.Random(7)
    a, b = text(rng, 20), text(rng, 60)
    shards = [
        [sample(0, a, b, 8.5), sample(1), sample(2, status=REJECTED, score=5.0)],
        [sample(3, a.upper(), b.replace(" ", "  "), 9.5), sample(4), sample(5, status=FAILED, score=None)],
        [sample(6, seeds[2].instruction, seeds[2].response, 10.0), sample(7)],
        [sample(8, a, change(b, [30]), 9.0), sample(9), sample(10)],
    ]
    for n, s in enumerate(shards):
        publish_shard(run, 1, n, s)
    return run


def test_small_run_keeps_the_best_and_says_why(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    summary = merge_round(run, 1)
    assert (summary.accepted, summary.kept, summary.pool) == (9, 6, 11)
    assert {k: n for k, n in summary.dropped.items() if n} == {"exact": 2, "fuzzy": 1}
    dropped = {r["id"]: r for r in rows(run.round(1).dropped)}
    assert dropped[sample(0).id]["winner"] == sample(3).id
    assert dropped[sample(8).id] | {"similarity": 0} == {
        "id": sample(8).id, "step": "fuzzy", "winner": sample(3).id, "similarity": 0, "detail": ""
    }  # fmt: skip
    assert 0.8 <= dropped[sample(8).id]["similarity"] < 1
    assert dropped[sample(6).id]["winner"] == seed(2).id
    kept = rows(run.round(1).kept)
    assert kept[0]["id"] == sample(3).id  # 9.5, the best left
    assert [r["id"] for r in kept[1:]] == sorted(sample(i).id for i in (1, 4, 7, 9, 10))  # 9.0 each: by id
    pool = rows(run.round(1).pool)
    assert [r["id"] for r in pool] == [*(seed(i).id for i in range(5)), *(r["id"] for r in kept)]
    manifest = storage.read_json(run.round(1).manifest)
    assert manifest["ledger"]["planned"] == 11
    assert manifest["ledger"]["accepted"] == 9
    assert manifest["coverage"] == {
        "complete": True, "published": 4, "expected": 4, "missing": [], "missing_ranges": "",
        "seeds": {"covered": 4, "all": 5},
    }  # fmt: skip
    for name, file in manifest["files"].items():
        assert file["sha256"] == storage.sha256(run.round(1).merged / name)
    assert not list(run.round(1).path.glob(".*"))


def test_again_says_it_is_done(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    first = merge_round(run, 1)
    before = tables(run)
    again = merge_round(run, 1)
    assert again.done_before
    assert again.kept == first.kept
    assert "nothing to do" in str(again)
    assert tables(run) == before


def test_same_shards_in_another_order_and_place(tmp_path: Path) -> None:
    """Which shard holds a sample, and in which order, changes no byte."""
    run = small_run(tmp_path / "one")
    merge_round(run, 1)
    every = [[sample(i) for i in range(9)], [sample(i) for i in range(9, 20)]]
    runs = []
    for k, shards in enumerate((every, [list(reversed(every[1])), list(reversed(every[0]))])):
        run = make_run(tmp_path / f"run{k}", [seed(0)], shards=2)
        for n in (0, 1) if k else (1, 0):
            publish_shard(run, 1, n, shards[n], attempt=f"attempt{k}{n}")
        merge_round(run, 1)
        runs.append(run)
    assert tables(runs[0]) == tables(runs[1])


def test_twice_gives_the_same_manifest(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    merge_round(run, 1)
    before = tables(run), run.round(1).manifest.read_bytes()
    shutil.rmtree(run.round(1).merged)
    merge_round(run, 1)
    assert (tables(run), run.round(1).manifest.read_bytes()) == before


def test_buckets_on_disk_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gra_hpc.merge import tables as module

    run = small_run(tmp_path / "run")
    merge_round(run, 1)
    before = tables(run)
    shutil.rmtree(run.round(1).merged)
    monkeypatch.setattr(module, "_BUCKET", 1000)
    merge_round(run, 1)
    assert tables(run) == before


def test_worker_processes_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gra_hpc.merge import index, round
    from gra_hpc.merge import tables as module

    run = small_run(tmp_path / "run")
    merge_round(run, 1)
    before = tables(run)
    shutil.rmtree(run.round(1).merged)
    monkeypatch.setattr(round, "INLINE_ROWS", 1)
    monkeypatch.setattr(module, "_BUCKET", 1000)
    monkeypatch.setattr(index.Index.units, "__defaults__", (2,))
    merge_round(run, 1)
    assert tables(run) == before


def test_missing_shards_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [seed(0)], shards=12)
    for n in (0, 4, 5, 6, 11):
        publish_shard(run, 1, n, [sample(n)])
    with pytest.raises(IncompleteError) as e:
        merge_round(run, 1)
    assert "1-3,7-10" in e.value.what
    assert "gra resume" in e.value.then
    assert not run.round(1).merged.exists()


def test_partial_merge_declares_coverage_and_is_replaced(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [seed(0)], shards=3, allow_partial=True)
    with pytest.raises(IncompleteError):
        merge_round(run, 1)  # nothing is published at all
    publish_shard(run, 1, 0, [sample(0), sample(1)])
    summary = merge_round(run, 1)
    assert (summary.published, summary.expected, summary.kept) == (1, 3, 2)
    assert "PARTIAL" in str(summary)
    coverage = storage.read_json(run.round(1).manifest)["coverage"]
    assert (coverage["complete"], coverage["missing"], coverage["missing_ranges"]) == (False, [1, 2], "1-2")
    assert merge_round(run, 1).done_before
    publish_shard(run, 1, 2, [sample(2)])
    assert merge_round(run, 1).kept == 3
    publish_shard(run, 1, 1, [sample(3)])
    summary = merge_round(run, 1)
    assert (summary.published, summary.kept, summary.done_before) == (3, 4, False)
    assert not list(run.round(1).path.glob(".*"))


def test_partial_merge_stays_once_the_next_round_has_drawn_from_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [seed(0)], shards=2, rounds=2, allow_partial=True)
    publish_shard(run, 1, 0, [sample(0)])
    merge_round(run, 1)
    before = tables(run)
    publish_shard(run, 2, 0, [sample(2, round_=2)])
    publish_shard(run, 1, 1, [sample(1)])
    assert merge_round(run, 1).done_before
    assert tables(run) == before


def test_second_round_counts_the_first_and_the_seeds(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [seed(0)], shards=1, rounds=2)
    publish_shard(run, 1, 0, [sample(0), sample(1)])
    twin = sample(0)
    publish_shard(run, 2, 0, [sample(5, twin.instruction, twin.response, 10.0, round_=2), sample(6, round_=2)])
    with pytest.raises(IncompleteError, match="round 1 is not merged"):
        merge_round(run, 2)
    merge_round(run, 1)
    summary = merge_round(run, 2)
    assert (summary.kept, summary.pool) == (1, 4)
    (lost,) = rows(run.round(2).dropped)
    assert (lost["winner"], lost["step"]) == (twin.id, "exact")


def test_target_keeps_exactly_the_best(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [seed(0)], shards=1, target_accepted=3)
    publish_shard(run, 1, 0, [sample(i, score=8 + i / 10) for i in range(8)])
    summary = merge_round(run, 1)
    assert (summary.kept, summary.dropped["surplus"], summary.shortfall) == (3, 5, 0)
    assert [r["id"] for r in rows(run.round(1).kept)] == [sample(i).id for i in (7, 6, 5)]
    assert {r["winner"] for r in rows(run.round(1).dropped)} == {None}


def test_shortfall_is_reported(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [seed(0)], shards=1, target_accepted=10)
    publish_shard(run, 1, 0, [sample(i) for i in range(8)])
    summary = merge_round(run, 1)
    assert (summary.kept, summary.shortfall) == (8, 2)
    assert "2 short" in str(summary)


def test_stage_0_describes_the_seeds(tmp_path: Path) -> None:
    seeds = [seed(0), seed(1, domain="", keywords=(), summary=""), seed(2, domain="", keywords=(), summary="")]
    run = make_run(tmp_path / "run", seeds, shards=2, undescribed=2)
    s = sample(1, seeds[1].instruction, seeds[1].response, None, round_=0, seed_of=seeds[1].id)
    s.domain = "math"
    publish_shard(run, 0, 0, [s])
    failed = sample(2, seeds[2].instruction, seeds[2].response, None, FAILED, round_=0, seed_of=seeds[2].id)
    publish_shard(run, 0, 1, [failed])
    merge_described(run)
    pool = rows(run.round(0).pool)
    assert [r["id"] for r in pool] == [s.id for s in seeds]
    assert [(r["domain"], r["summary"]) for r in pool] == [("qa", "A summary."), ("math", "In short."), ("", "")]
    publish_shard(run, 1, 0, [sample(10)])
    publish_shard(run, 1, 1, [sample(11)])
    assert merge_round(run, 1).pool == 5


def test_empty_shards_merge(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [seed(0)], shards=2)
    publish_shard(run, 1, 0, [])
    publish_shard(run, 1, 1, [sample(0, status=REJECTED)])
    summary = merge_round(run, 1)
    assert (summary.accepted, summary.kept, summary.pool) == (0, 0, 1)


def test_steps_can_be_turned_off(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", exact=False, fuzzy=False)
    assert merge_round(run, 1).kept == 9
    configure(run, exact=True)
    shutil.rmtree(run.round(1).merged)
    assert merge_round(run, 1).kept == 7
