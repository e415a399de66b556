"""The release: what is in it, that it is the same each time, that it is whole or not there."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import orjson
import pytest
from made_up_runs import Maker

from gra_hpc.errors import IncompleteError, ReleaseError
from gra_hpc.merge.round import merge_round
from gra_hpc.release.build import build
from gra_hpc.release.schema import data_schema, rejects_schema
from gra_hpc.release.verify.verify import verify
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json, sha256


def digests(release: Path) -> dict[str, str]:
    return {p.relative_to(release).as_posix(): sha256(p) for p in sorted(release.rglob("*")) if p.is_file()}


def table(release: Path, pattern: str) -> list[dict[str, object]]:
    import pyarrow.parquet as pq

    return [row for p in sorted(release.glob(pattern)) for row in pq.read_table(p).to_pylist()]


def test_a_release_is_complete_and_sound(built: Run) -> None:
    release = built.release
    assert verify(release) == []
    assert not list(built.path.glob(".release*")), "nothing is left beside it"
    manifest = read_json(release / "manifest.json")
    ledger = Ledger.from_dict(manifest["ledger"])
    rows = table(release, "data/*.parquet")
    rejects = table(release, "rejects/*.parquet")
    assert len(rows) + len(rejects) == ledger.planned == 240
    assert len({r["id"] for r in rows + rejects}) == 240
    assert manifest["funnel"][0]["entered"] == 240
    assert manifest["funnel"][-1]["passed"] == len(rows)


def test_rows_carry_text_chat_and_history(built: Run) -> None:
    for row in table(built.release, "data/*.parquet"):
        assert row["messages"] == [
            {"role": "user", "content": row["instruction"]},
            {"role": "assistant", "content": row["response"]},
        ]
        members, models = row["members"], row["models"]
        assert [r["member"] for r in row["reviews"]] == members["reviewers"]
        assert [r["model"] for r in row["reviews"]] == models["reviewers"]
        model_of = {"strict": "ant", "mild": "bee"}
        assert models["generator"] == model_of.get(members["generator"], members["generator"])
        assert (row["verdict"] is None) == (members["adjudicator"] is None) == (models["adjudicator"] is None)
        if row["verdict"]:
            assert row["verdict"]["member"] == members["adjudicator"]
        assert len(row["instruction_reviews"]) == 3
        assert row["summary"] and len(row["keywords"]) == 3


def test_rejects_say_why(built: Run) -> None:
    rejects = table(built.release, "rejects/*.parquet")
    kept = {r["id"] for r in table(built.release, "data/*.parquet")}
    by = {o: [r for r in rejects if r["outcome"] == o] for o in ("rejected", "failed", "dropped")}
    assert all(by.values())
    assert all(r["raw"] and r["stage"] and r["reason"] for r in by["failed"])
    assert all(r["stage"] and r["reason"] and r["instruction"] for r in by["rejected"])
    exact = [r for r in by["dropped"] if r["stage"] == "exact"]
    assert exact and all(r["winner"] in kept for r in exact)
    contaminated = [r for r in by["dropped"] if r["stage"] == "contaminated"]
    assert contaminated and all("bench.txt" in r["detail"] for r in contaminated)


def test_order_depends_on_ids_alone_and_no_seed_is_in_both_splits(built: Run) -> None:
    import pyarrow as pa

    from gra_hpc.release.shuffle import keys_of

    seeds = {}
    for split in ("train", "validation"):
        rows = table(built.release, f"data/{split}-*.parquet")
        keys = keys_of(pa.array([r["id"] for r in rows])).tolist()
        assert keys == sorted(keys) and rows
        seeds[split] = {r["seed_id"] for r in rows}
    assert not seeds["train"] & seeds["validation"]


def test_opens_with_datasets_pandas_polars_duckdb(built: Run, tmp_path: Path) -> None:
    import datasets
    import duckdb
    import pandas
    import polars

    release = tmp_path / "release"
    shutil.copytree(built.release, release)
    manifest = read_json(release / "manifest.json")
    train = manifest["splits"]["train"]["rows"]
    loaded = datasets.load_dataset(str(release), cache_dir=str(tmp_path / "cache"))
    assert {s: d.num_rows for s, d in loaded.items()} == {s: c["rows"] for s, c in manifest["splits"].items()}
    assert loaded["train"][0]["messages"][0]["role"] == "user"
    rejects = datasets.load_dataset(str(release), "rejects", cache_dir=str(tmp_path / "cache"))
    assert {s: d.num_rows for s, d in rejects.items()} == manifest["rejects"]
    files = sorted(str(p) for p in release.glob("data/train-*.parquet"))
    assert len(pandas.concat(pandas.read_parquet(f) for f in files)) == train
    frame = polars.read_parquet(files)
    assert len(frame) == train and frame["models"].struct.field("generator").null_count() == 0
    assert duckdb.sql(f"select count(*) from read_parquet({files!r})").fetchall() == [(train,)]


def test_the_same_inputs_give_the_same_bytes(built: Run, tmp_path: Path) -> None:
    before = digests(built.release)
    copy = tmp_path / built.name
    shutil.copytree(built.path, copy)
    shutil.rmtree(copy / "release")
    assert digests(build(Run.open(copy))) == before


def test_building_again_does_nothing(built: Run) -> None:
    inode = built.release.stat().st_ino
    build(built)
    assert built.release.stat().st_ino == inode


def test_a_damaged_release_is_built_anew(maker: Maker) -> None:
    run = maker.make()
    before = digests(build(run))
    (run.release / "data/train-00000-of-00001.parquet").unlink()
    assert digests(build(run)) == before


def test_models_that_have_moved_since_the_plan_change_no_word(maker: Maker) -> None:
    maker.models[0].joinpath("README.md").write_text("---\nlicense: other\nlicense_name: ant-terms\n---\n")
    config = maker.config(seeds=6)
    config.models["ant"].licence = ""
    run = maker.make("run", config)
    before = {p.name: p.read_bytes() for p in build(run).glob("*.*")}
    assert "their verdicts mean little" in before["README.md"].decode()
    assert "| ant-terms |" in before["README.md"].decode(), "as the model's own card says"
    shutil.rmtree(run.release)
    maker.models[0].parent.rename(maker.path / "elsewhere")
    assert {p.name: p.read_bytes() for p in build(run).glob("*.*")} == before


def test_rebuilt_when_the_merge_was_redone(maker: Maker) -> None:
    config = maker.config()
    config.merge.allow_partial = True
    run = maker.make(config=config, skip=(1,))
    build(run)
    manifest = read_json(run.release / "manifest.json")
    assert manifest["coverage"] == {"expected": 3, "published": 2, "missing": {"1": [1]}}
    assert manifest["ledger"]["pending"] == 40 and manifest["ledger"]["planned"] == 120
    card = (run.release / "README.md").read_text()
    assert "made from 2 of 3 planned shards" in card and "Missing: round 1: 1." in card
    assert verify(run.release) == []
    maker.publish(run, 1)
    merge_round(run, 1)
    build(run)
    assert read_json(run.release / "manifest.json")["ledger"]["pending"] == 0
    assert verify(run.release) == []


def test_files_are_cut_to_size(built: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / built.name
    shutil.copytree(built.path, copy)
    shutil.rmtree(copy / "release")
    monkeypatch.setattr("gra_hpc.release.build.MB", 40)  # 256 "MB" are now 10 kB
    monkeypatch.setattr("gra_hpc.release.shuffle.BUCKET_BYTES", 3000)
    release = build(Run.open(copy))
    assert verify(release) == []
    assert len(list(release.glob("data/train-*.parquet"))) > 1
    assert len(list(release.glob("rejects/rejected-*.parquet"))) > 1
    for folder in ("data/train-*", "data/validation-*", "rejects/*.parquet"):
        assert table(release, folder) == table(built.release, folder)


def test_at_least_one_row_to_train_on(maker: Maker) -> None:
    config = maker.config(seeds=2)
    config.launch.shards = 1
    config.release.validation = 0.9999
    release = build(maker.make("few", config, acceptance=1.0))
    assert verify(release) == []
    splits = read_json(release / "manifest.json")["splits"]
    assert splits["train"]["rows"] >= 1 and list(splits) == ["train"]


def test_no_row_at_all(maker: Maker) -> None:
    config = maker.config(seeds=2)
    config.launch.shards = 1
    config.method.accept_mean = 10.0
    release = build(maker.make("none", config, acceptance=0.0))
    assert verify(release) == []
    assert read_json(release / "manifest.json")["splits"] == {"train": {"rows": 0, "seeds": 0, "files": 1}}
    assert "No row survived" in (release / "README.md").read_text()


def test_an_unmerged_round_is_named(maker: Maker) -> None:
    run = maker.make(merge=False)
    with pytest.raises(IncompleteError, match="round 1 is not merged") as e:
        build(run)
    assert e.value.then == f"gra merge {run.path}"
    shutil.rmtree(run.round(1).path / "shards")
    with pytest.raises(IncompleteError, match="round 1 is not merged") as e:
        build(run)
    assert e.value.then.startswith(f"gra status {run.path}"), "nothing is there that could be merged"


def test_a_shard_that_vanished_is_named(maker: Maker) -> None:
    run = maker.make()
    shutil.rmtree(run.round(1).shard(2).path)
    with pytest.raises(ReleaseError, match="00002"):
        build(run)
    assert not run.release.exists() and not list(run.path.glob(".release*"))


def test_two_at_once(maker: Maker) -> None:
    run = maker.make()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            build(run)
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert errors == []
    assert verify(run.release) == [] and not list(run.path.glob(".release*"))


def test_killed_at_any_moment(maker: Maker) -> None:
    run = maker.make()
    program = (
        "import pyarrow.parquet, numpy, yaml\nfrom pathlib import Path\n"
        "from gra_hpc.release.build import build\nfrom gra_hpc.run.run import Run\n"
        f"print('go', flush=True)\nbuild(Run.open({str(run.path)!r}))"
    )
    for delay in (0.02, 0.15, 0.3, 0.5, 0.8):
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert child.stdout and child.stdout.readline() == b"go\n"
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        if run.release.exists():
            assert verify(run.release) == []
            shutil.rmtree(run.release)
    build(run)
    assert verify(run.release) == []
    assert not list(run.path.glob(".release*")), "what dead builds left is swept"


def test_private_settings_stay_at_home(built: Run) -> None:
    for path in built.release.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"secret-account" not in content, path
    config = orjson.loads((built.release / "manifest.json").read_bytes())["config"]
    assert "site" not in config and "env" not in config["engine"]


def test_run_yaml_plans_the_same_run(built: Run) -> None:
    from gra_hpc.config import presets
    from gra_hpc.run.plan import Plan

    Plan.load(built).verify(presets.load(built.release / "run.yaml"), built)


def test_schemas_are_fixed(built: Run) -> None:
    import pyarrow.parquet as pq

    for folder, schema in (("data", data_schema()), ("rejects", rejects_schema())):
        for path in (built.release / folder).glob("*.parquet"):
            assert pq.read_schema(path).equals(schema)


def test_described_seeds_are_accounted_for(maker: Maker) -> None:
    run = maker.make(config=maker.config(undescribed=12))
    release = build(run)
    assert verify(release) == []
    manifest = read_json(release / "manifest.json")
    round0 = Ledger.from_dict(manifest["prepared"])
    failed = [r for r in table(release, "rejects/failed*.parquet") if r["round"] == 0]
    assert round0.planned == 12 and len(failed) == round0.failed_total > 0
    assert {r["raw"] for r in failed} == {"well"}
    assert round0.line() in (release / "README.md").read_text()


def test_a_full_disk_leaves_nothing_half(maker: Maker) -> None:
    run = maker.make()
    program = (
        "import resource, pyarrow.parquet\nfrom pathlib import Path\n"
        "from gra_hpc.errors import StorageError\n"
        "from gra_hpc.release.build import build\nfrom gra_hpc.run.run import Run\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "try:\n"
        f"    build(Run.open({str(run.path)!r}))\n"
        "except StorageError as e:\n    print('REFUSED', e)\n"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "REFUSED" in out.stdout and "nothing was published half" in out.stdout, out.stderr
    assert not run.release.exists() and not list(run.path.glob(".release*"))
    build(run)
    assert verify(run.release) == []


def test_what_is_no_release_is_not_removed(maker: Maker) -> None:
    run = maker.make()
    run.release.mkdir()
    (run.release / "thesis.tex").write_text("mine")
    with pytest.raises(ReleaseError, match="in the way"):
        build(run)
    assert (run.release / "thesis.tex").read_text() == "mine"
    (run.release / "thesis.tex").unlink()
    assert verify(build(run)) == []


def test_the_number_of_shards_does_not_show_in_the_data(maker: Maker) -> None:
    made = []
    for shards in (3, 5):
        config = maker.config()
        config.launch.shards = shards
        release = build(maker.make(f"in-{shards}", config))
        made.append({n: d for n, d in digests(release).items() if n.startswith(("data/", "rejects/"))})
    assert made[0] == made[1]
