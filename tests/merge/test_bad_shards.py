"""Shards that a merge must not take: damaged, foreign, of another plan; each named, nothing touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fabricate import make_run, publish_shard, sample, seed

from gra_hpc.errors import FingerprintError, ReleaseError
from gra_hpc.merge.round import merge_round
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json


def damaged(tmp_path: Path) -> Run:
    run = make_run(tmp_path / "run", [seed(0)], shards=2)
    publish_shard(run, 1, 0, [sample(0)])
    publish_shard(run, 1, 1, [sample(1)])
    return run


def edit(run: Run, shard: int, change: dict) -> None:
    """As somebody's tool would, which knows nothing of the seal."""
    path = run.round(1).shard(shard).manifest
    path.write_text(json.dumps(read_json(path) | change))


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
        ({"gold": [["q", "a", 61]]}, ReleaseError, "expected a question, a member and 6 to 60 points"),
    ):
        edit(run, 1, change_)
        with pytest.raises(kind, match=message) as e:
            merge_round(run, 1)
        assert "00001/" in e.value.what
        path.write_text(good)
    path.write_text(good.replace('"accepted": 1', '"accepted": 3'))
    with pytest.raises(ReleaseError, match=r"not a shard manifest .changed since it was written: its seal"):
        merge_round(run, 1)
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
    from gra_hpc.run.publish import sweep

    run = damaged(tmp_path)
    for n in (0, 1):
        shard = run.round(1).shard(n)
        good = read_json(shard.manifest)
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
    from gra_hpc.run.publish import sweep

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

    from gra_hpc.run.publish import table_entry

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
    assert ignored == [f"rounds/01/shards/{n}" for n in ("00000/core.1234", "00001.bak", "00007", "notes.txt")]
    assert all(name in caplog.text for name in ignored)
    assert (shards / "notes.txt").read_text() == "mine"


def test_a_foreign_table_survives_the_sweep_of_a_shard(tmp_path: Path) -> None:
    from gra_hpc.run.publish import sweep

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
