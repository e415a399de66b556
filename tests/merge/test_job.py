"""The merge of a round, end to end, on shards as attempts publish them."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path

import pytest
from fabricate import (
    FAILED,
    REJECTED,
    change,
    configure,
    make_run,
    publish_shard,
    rows,
    sample,
    seed,
    tables,
    text,
)

from gra_hpc import benchmark_files, storage
from gra_hpc.errors import ConfigError, FingerprintError, IncompleteError, ReleaseError
from gra_hpc.merge.decontaminate import Benchmarks
from gra_hpc.merge.describe import merge_described
from gra_hpc.merge.job import merge_round
from gra_hpc.merge.normal import normalise
from gra_hpc.rundir import RunDir


def small_run(path: Path, **merge: object) -> RunDir:
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
    from gra_hpc.merge import index, job
    from gra_hpc.merge import tables as module

    run = small_run(tmp_path / "run")
    merge_round(run, 1)
    before = tables(run)
    shutil.rmtree(run.round(1).merged)
    monkeypatch.setattr(job, "INLINE_ROWS", 1)
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
    publish_shard(run, 1, 1, [sample(1)])
    assert merge_round(run, 1).done_before
    assert tables(run) == before


def test_second_round_counts_the_first_and_the_seeds(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [seed(0)], shards=1, rounds=2)
    publish_shard(run, 1, 0, [sample(0), sample(1)])
    twin = sample(0)
    publish_shard(
        run, 2, 0, [sample(5, twin.instruction, twin.response, 10.0, round_=2), sample(6, round_=2)]
    )
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
    seeds = [
        seed(0),
        seed(1, domain="", keywords=(), summary=""),
        seed(2, domain="", keywords=(), summary=""),
    ]
    run = make_run(tmp_path / "run", seeds, shards=2, undescribed=2)
    s = sample(1, seeds[1].instruction, seeds[1].response, None, round_=0, seed_of=seeds[1].id)
    s.domain = "math"
    publish_shard(run, 0, 0, [s])
    failed = sample(2, seeds[2].instruction, seeds[2].response, None, FAILED, round_=0, seed_of=seeds[2].id)
    publish_shard(run, 0, 1, [failed])
    merge_described(run)
    pool = rows(run.round(0).pool)
    assert [r["id"] for r in pool] == [s.id for s in seeds]
    assert [(r["domain"], r["summary"]) for r in pool] == [
        ("qa", "A summary."),
        ("math", "In short."),
        ("", ""),
    ]
    publish_shard(run, 1, 0, [sample(10)])
    publish_shard(run, 1, 1, [sample(11)])
    assert merge_round(run, 1).pool == 5


def test_empty_shards_merge(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [seed(0)], shards=2)
    publish_shard(run, 1, 0, [])
    publish_shard(run, 1, 1, [sample(0, status=REJECTED)])
    summary = merge_round(run, 1)
    assert (summary.accepted, summary.kept, summary.pool) == (0, 0, 1)


def damaged(tmp_path: Path) -> RunDir:
    run = make_run(tmp_path / "run", [seed(0)], shards=2)
    publish_shard(run, 1, 0, [sample(0)])
    publish_shard(run, 1, 1, [sample(1)])
    return run


def edit(run: RunDir, shard: int, change: dict) -> None:
    path = run.round(1).shard(shard).manifest
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_bad_tables_are_named(tmp_path: Path) -> None:
    run = damaged(tmp_path)
    table = run.round(1).shard(1).samples("a1")
    good = table.read_bytes()
    for bad, message in (
        (good[:-1], "bytes, its manifest says"),
        (good[:100] + bytes([good[100] ^ 1]) + good[101:], "SHA-256"),
        (None, "No such file"),
    ):
        table.unlink()
        if bad is not None:
            table.write_bytes(bad)
        with pytest.raises(ReleaseError, match=message) as e:
            merge_round(run, 1)
        assert "00001/samples-a1.parquet" in e.value.what
        assert not run.round(1).merged.exists()
        table.write_bytes(good)
    assert merge_round(run, 1).kept == 2


def test_bad_manifests_are_named(tmp_path: Path) -> None:
    run = damaged(tmp_path)
    path = run.round(1).shard(1).manifest
    good = path.read_text()
    ledger = json.loads(good)["ledger"]
    for change_, kind, message in (
        ({"fingerprint": "other"}, FingerprintError, "other settings"),
        ({"round": 2}, ReleaseError, "expected round 1"),
        ({"shard": 0}, ReleaseError, "says round 1 shard 0"),
        ({"samples": None}, ReleaseError, "not a shard manifest"),
        ({"ledger": ledger | {"accepted": 2, "planned": 2}}, ReleaseError, "ledger"),
        ({"ledger": ledger | {"planned": 2}}, ReleaseError, "does not balance"),
    ):
        edit(run, 1, change_)
        with pytest.raises(kind, match=message) as e:
            merge_round(run, 1)
        assert "00001/" in e.value.what
        path.write_text(good)
    path.write_text("{")
    with pytest.raises(ReleaseError, match="not a shard manifest"):
        merge_round(run, 1)


@pytest.mark.parametrize(
    ("change_", "message"),
    [
        ({"samples": {"file": 5}}, "samples.file is 5, expected 'samples-a1.parquet'"),
        ({"samples": {"file": "samples-\0.parquet"}}, r"samples.file is 'samples-\\x00.parquet', expected"),
        ({"samples": {"file": "../00000/samples-a1.parquet"}}, "expected 'samples-a1.parquet'"),
        ({"attempt": "a2"}, "samples.file is 'samples-a1.parquet', expected 'samples-a2.parquet'"),
        ({"attempt": "a\0"}, "expected an attempt's name"),
        ({"samples": {"rows": "1"}}, "samples.rows is '1', expected a count"),
        ({"samples": {"bytes": True}}, "samples.bytes is True, expected a count"),
        ({"ledger": {"accepted": "1"}}, "ledger.accepted is '1', expected a count"),
        ({"ledger": {"rejected": {"a": "x"}}}, r"ledger.rejected\['a'\] is 'x', expected a count"),
        ({"ledger": {"failed": {"a": None}}}, r"ledger.failed\['a'\] is nothing, expected a count"),
        ({"ledger": {"failed": [1]}}, r"ledger.failed is \[1\], expected an object"),
        ({"ledger": 7}, "ledger is 7, expected an object"),
        ({"round": None}, "round is nothing, expected a count"),
        ({"fingerprint": 5}, "fingerprint is 5, expected a text"),
        ({"attempts": [{}]}, r"attempts\[\].attempt is nothing, expected an attempt's name"),
        ({"format": 9}, "format is 9, this version reads 1"),
        (None, "samples is nothing, expected an object|attempt is nothing"),
        ([], r"it is \[\], expected an object"),
    ],
)
def test_manifests_of_wrong_types_are_named_and_nothing_is_removed(
    tmp_path: Path, change_: dict | list | None, message: str
) -> None:
    """As the job that ends a round does it: remains of attempts are swept first, then it merges."""
    from gra_hpc.publish import sweep

    run = damaged(tmp_path)
    for n in (0, 1):
        shard = run.round(1).shard(n)
        good = json.loads(shard.manifest.read_text())
        bad = change_ or ({} if change_ is None else [])
        if isinstance(bad, dict) and bad:
            (key, value), *_ = bad.items()
            inner = good[key] | value if isinstance(value, dict) else value
            bad = good | {key: inner}
        shard.manifest.write_text(json.dumps(bad))
        shard.attempt("a2").path.mkdir(parents=True)
        shard.attempt("a2").journal.write_text("answers")
        sweep(shard)
        assert shard.attempt("a2").journal.is_file() and shard.samples("a1").is_file()
    with pytest.raises(ReleaseError, match=message) as e:
        merge_round(run, 1)
    assert "00000/manifest.json: not a shard manifest" in e.value.what
    assert "00001/manifest.json: not a shard manifest" in e.value.what
    assert "\n" not in str(e.value) and "gra resume" in e.value.then


def test_nothing_is_swept_under_the_manifest_of_another_shard(tmp_path: Path) -> None:
    from gra_hpc.publish import sweep

    run = damaged(tmp_path)
    shard = run.round(1).shard(1)
    shard.manifest.write_bytes(run.round(1).shard(0).manifest.read_bytes())
    shard.attempt("a2").path.mkdir(parents=True)
    sweep(shard)
    assert shard.attempt("a2").path.is_dir() and shard.samples("a1").is_file()
    with pytest.raises(ReleaseError, match="says round 1 shard 0"):
        merge_round(run, 1)


def test_all_bad_shards_are_named_at_once(tmp_path: Path) -> None:
    run = damaged(tmp_path)
    for n in (0, 1):
        edit(run, n, {"round": 9})
    with pytest.raises(ReleaseError) as e:
        merge_round(run, 1)
    assert "00000/" in e.value.what
    assert "00001/" in e.value.what


def test_a_table_of_something_else_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from gra_hpc.publish import table_entry

    run = damaged(tmp_path)
    table = run.round(1).shard(1).samples("a1")
    pq.write_table(pa.table({"id": ["x"], "text": ["y"]}), table)
    edit(run, 1, {"samples": table_entry(table)})
    with pytest.raises(ReleaseError, match="no column round"):
        merge_round(run, 1)


def test_an_id_published_twice_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [seed(0)], shards=2)
    publish_shard(run, 1, 0, [sample(0)])
    publish_shard(run, 1, 1, [sample(0)])
    with pytest.raises(ReleaseError, match=sample(0).id) as e:
        merge_round(run, 1)
    assert "00000/" in e.value.what
    assert "00001/" in e.value.what


def test_foreign_files_are_named_and_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = damaged(tmp_path)
    shards = run.round(1).shards
    (shards / "notes.txt").write_text("mine")
    (shards / "00001.bak").mkdir()
    (shards / "00007").mkdir()
    (shards / "00000" / "core.1234").write_text("dumped")
    summary = merge_round(run, 1)
    assert summary.kept == 2
    ignored = summary.manifest["ignored"]
    assert ignored == [
        f"rounds/01/shards/{n}" for n in ("00000/core.1234", "00001.bak", "00007", "notes.txt")
    ]
    assert all(name in caplog.text for name in ignored)
    assert (shards / "notes.txt").read_text() == "mine"


def test_a_foreign_table_survives_the_sweep_of_a_shard(tmp_path: Path) -> None:
    from gra_hpc.publish import sweep

    run = damaged(tmp_path)
    shard = run.round(1).shard(0)
    shard.attempt("killed").path.mkdir(parents=True)
    gone = [shard.samples("killed"), shard.calls("killed"), shard.path / ".samples-killed.parquet.tmp"]
    foreign = [shard.path / n for n in ("my-analysis.parquet", "samples-foreign.parquet", ".mine.tmp")]
    for file in (*gone, *foreign):
        file.write_bytes(b"x")
    sweep(shard)
    assert not any(f.exists() for f in gone) and not shard.attempts.exists()
    assert all(f.exists() for f in foreign)
    assert merge_round(run, 1).manifest["ignored"] == [
        f"rounds/01/shards/00000/{n}" for n in ("my-analysis.parquet", "samples-foreign.parquet")
    ]
    assert all(f.exists() for f in foreign)


def test_a_foreign_merged_directory_is_not_touched(tmp_path: Path) -> None:
    run = damaged(tmp_path)
    run.round(1).merged.mkdir()
    (run.round(1).merged / "precious").write_text("x")
    with pytest.raises(ReleaseError, match="not a merged round"):
        merge_round(run, 1)
    assert (run.round(1).merged / "precious").exists()


def test_planted_benchmark_questions_are_found(tmp_path: Path) -> None:
    bench = tmp_path / "bench.jsonl"
    rng = random.Random(3)
    question, short = text(rng, 25), "What is the capital of Atlantis?"
    lines = [{"question": text(rng, 40)}, {"question": question, "choices": ["a", "b"]}, {"question": short}]
    bench.write_text("".join(json.dumps(x) + "\n" for x in lines))
    run = make_run(tmp_path / "run", [seed(0)], shards=1, decontamination__sources=[str(bench)])
    publish_shard(run, 1, 0, [
        sample(0, f"Please answer: {question.upper()}"),
        sample(1, response=f"As they say, {' '.join(question.split()[3:18])} and so on"),
        sample(2, "what is the  capital of atlantis"),
        sample(3, f"{short} Tell me more."),  # only shares a short text
        sample(4, response=" ".join(question.split()[:12])),  # one word short of a run
        sample(5),
    ])  # fmt: skip
    summary = merge_round(run, 1)
    assert summary.dropped["contaminated"] == 3
    lost = {r["id"]: r for r in rows(run.round(1).dropped)}
    assert set(lost) == {sample(i).id for i in (0, 1, 2)}
    assert lost[sample(0).id]["detail"].startswith("bench.jsonl:2 instruction words 3-27: ")
    assert lost[sample(1).id]["detail"].startswith("bench.jsonl:2 response words 4-18: ")
    assert (
        lost[sample(2).id]["detail"]
        == 'bench.jsonl:3 instruction words 1-6: "what is the capital of atlantis"'
    )
    step = summary.manifest["steps"]["decontamination"]
    assert (step["ngram"], step["dropped"]) == (13, 3)
    (source,) = step["sources"]
    assert (source["source"], source["texts"], source["dropped"]) == (str(bench), 5, 3)
    assert len(source["sha256"]) == 64 and not source["revision"]


def test_benchmarks_meet_rows_across_the_border_as_wholes_and_each_for_itself(tmp_path: Path) -> None:
    rng = random.Random(5)
    shared, answered, long = (
        text(rng, 30),
        text(rng, 24),
        "Which is 12+34, 7 * (8-9), or x != y? " + text(rng, 9),
    )
    benches = [tmp_path / "a.txt", tmp_path / "b.jsonl"]
    short = "Name seven wonders of the ancient world."
    benches[0].write_text(f"{shared}\n{answered}\n{short}\nyes\nWhat is 3 + 4 = 7\n")
    benches[1].write_text(
        json.dumps({"q": f"First of all: {shared}"}) + "\n" + json.dumps({"q": long}) + "\n"
    )
    run = make_run(tmp_path / "run", [seed(0)], shards=1, decontamination__sources=[*map(str, benches)])
    words = answered.split()
    publish_shard(run, 1, 0, [
        sample(0, f"Tell me: {shared}"),
        sample(1, f"Go on: {' '.join(words[:8])}", f"{' '.join(words[8:16])}, and that is all."),
        sample(2, long.replace("12+34", "12 + 34").replace("7 * (8-9)", "7*(8 - 9)").upper()),
        sample(3, response=short.lower()),
        sample(4, "What is 3+4 =", "7"),
        sample(5, response="Yes!"),
        sample(6, f"Go on: {' '.join(words[:8])}", f"{' '.join(words[12:20])}, and that is all."),
    ])  # fmt: skip
    summary = merge_round(run, 1)
    lost = {r["id"]: r["detail"] for r in rows(run.round(1).dropped)}
    assert set(lost) == {sample(i).id for i in range(5)}
    first, second = lost[sample(0).id].split("; ")
    assert first.startswith("a.txt:1 instruction words 3-32: ")
    assert second.startswith("b.jsonl:1 instruction words 3-32: ")
    assert lost[sample(1).id].startswith("a.txt:2 instruction and response words 3-18: ")
    assert lost[sample(2).id].startswith("b.jsonl:2 instruction words 1-")
    assert lost[sample(3).id].startswith("a.txt:3 response words 1-7: ")
    assert lost[sample(4).id] == 'a.txt:5 instruction and response words 1-5: "what is 3 +4 =7"'
    step = summary.manifest["steps"]["decontamination"]
    assert [s["dropped"] for s in step["sources"]] == [4, 2] and step["dropped"] == 5


def test_long_contamination_is_matched_in_no_time(tmp_path: Path) -> None:
    rng = random.Random(6)
    long = text(rng, 20_000)
    (tmp_path / "b.txt").write_text(f"{long}\n" + "again and " * 5000)
    source = str(tmp_path / "b.txt")
    benchmarks = Benchmarks({source: benchmark_files.find(source)}, 13)
    ask, answer = normalise([b"Repeat:", long.encode()])
    began = time.process_time()
    (match,) = benchmarks.match(ask, answer)
    assert (match.field, match.begin, match.end) == ("response", 0, 20_000)
    (match,) = benchmarks.match(b"repeat", b"and again " * 9000)
    assert match.end - match.begin >= 9998
    assert time.process_time() - began < 5


def test_rows_that_differ_in_a_sign_or_an_operator_are_other_rows(tmp_path: Path) -> None:
    bench = tmp_path / "b.txt"
    bench.write_text("Compute 3-5.\nWhat is 12 + 34?\n")
    different = ["the square of -3?", "the square of 3?", "Is 2.1 greater?", "Is 21 greater?", "x != y", "x = y",
                 "a - b", "a & b", "12/4*1", "12-4*1", "Compute 35."]  # fmt: skip
    same = [("Compute 7 * (8+9)", "compute 7*(8 + 9)."), ("Is x>=2?", "is x ≥ 2")]
    run = make_run(tmp_path / "run", [seed(0)], shards=1, decontamination__sources=[str(bench)])
    asked = [*different, *(t for pair in same for t in pair), "COMPUTE 3 - 5", "what is 12+34"]
    publish_shard(run, 1, 0, [sample(i, t, "So be it.") for i, t in enumerate(asked)])
    assert merge_round(run, 1).dropped == {
        "contaminated": 2, "exact": 2, "fuzzy": 0, "semantic": 0, "surplus": 0,
    }  # fmt: skip
    assert set(different) < {r["instruction"] for r in rows(run.round(1).kept)}


def test_a_benchmark_that_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    bench = tmp_path / "bench"
    bench.mkdir()
    (bench / "a.txt").write_text("What is the meaning of life?\n")
    run = make_run(tmp_path / "run", [seed(0)], shards=1, decontamination__sources=[str(bench)])
    publish_shard(run, 1, 0, [sample(0)])
    (bench / "b.txt").write_text("And of death?\n")
    with pytest.raises(ConfigError, match="not the files that the run was planned with"):
        merge_round(run, 1)
    (bench / "b.txt").unlink()
    bench.rename(tmp_path / "away")
    with pytest.raises(ConfigError, match="no longer at"):
        merge_round(run, 1)
    (tmp_path / "away").rename(bench)
    assert merge_round(run, 1).kept == 1


def test_a_contaminated_row_beats_nobody(tmp_path: Path) -> None:
    bench = tmp_path / "b.txt"
    rng = random.Random(4)
    bench.write_text("What is the meaning of life then?\n")
    answer = text(rng, 80)
    run = make_run(tmp_path / "run", [seed(0)], shards=1, decontamination__sources=[str(bench)])
    publish_shard(run, 1, 0, [sample(0, "What is the meaning of life then", answer, 10.0),
                              sample(1, "What is the meaning of life now", answer, 8.0)])  # fmt: skip
    assert merge_round(run, 1).dropped | {"contaminated": 0} == dict.fromkeys(
        ("contaminated", "exact", "fuzzy", "semantic", "surplus"), 0
    )
    assert [r["id"] for r in rows(run.round(1).kept)] == [sample(1).id]


def test_steps_can_be_turned_off(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", exact=False, fuzzy=False)
    assert merge_round(run, 1).kept == 9
    configure(run, exact=True)
    shutil.rmtree(run.round(1).merged)
    assert merge_round(run, 1).kept == 7
