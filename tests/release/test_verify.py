"""What a check of a release finds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import Maker

from gra_hpc.cli.releases import _directory
from gra_hpc.errors import ReleaseError
from gra_hpc.merge.round import merge_round
from gra_hpc.release.build import build
from gra_hpc.release.manifest import KEYS
from gra_hpc.release.schema import data_schema
from gra_hpc.release.verify.verify import verify
from gra_hpc.run import planning
from gra_hpc.run.run import Run
from gra_hpc.run.worker import run_shard
from gra_hpc.storage import read_json, sha256, to_json


@pytest.fixture
def release(built: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built.release, tmp_path / "release"))


def change_manifest(release: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = read_json(release / "manifest.json")
    change(manifest)
    (release / "manifest.json").write_bytes(to_json(manifest))


def sign(release: Path, *names: str) -> None:
    """Make the manifest agree with changed files."""

    def update(manifest: dict[str, Any]) -> None:
        for name in names:
            path = release / name
            manifest["files"].setdefault(name, {})
            manifest["files"][name] |= {"sha256": sha256(path), "bytes": path.stat().st_size}

    change_manifest(release, update)


TRAIN = "data/train-00000-of-00001.parquet"
VALIDATION = "data/validation-00000-of-00001.parquet"
REJECTED, DROPPED = (f"rejects/{o}-00000-of-00001.parquet" for o in ("rejected", "dropped"))


def test_sound(release: Path) -> None:
    assert verify(release) == []


def test_every_digit_of_the_manifest_counts(release: Path) -> None:
    """Also of what nothing follows from, as the time it was made."""
    path = release / "manifest.json"
    good = path.read_bytes()
    places = [i for i, c in enumerate(good) if c in b"2468"]
    for at in (*places[:: len(places) // 20], good.index(b'"created": ') + 13):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        assert "its seal is not that of its content" in verify(release)[0]


def test_what_a_download_adds_is_no_problem(release: Path) -> None:
    (release / ".cache/huggingface").mkdir(parents=True)
    (release / ".cache/huggingface/x.lock").write_text("")
    (release / ".gitattributes").write_text("*.parquet filter=lfs\n")
    assert verify(release) == []


def test_changed_byte(release: Path) -> None:
    data = bytearray((release / TRAIN).read_bytes())
    data[len(data) // 2] ^= 1
    (release / TRAIN).write_bytes(data)
    assert any(p.startswith(f"{TRAIN}: content changed") for p in verify(release))


def test_cut_missing_and_foreign_files(release: Path) -> None:
    (release / TRAIN).write_bytes((release / TRAIN).read_bytes()[:-1])
    (release / "run.yaml").unlink()
    (release / "data/extra.parquet").write_text("x")
    problems = "\n".join(verify(release))
    assert f"{TRAIN}: " in problems and " bytes, the manifest says" in problems
    assert "run.yaml: missing" in problems
    assert "data/extra.parquet: not in the manifest" in problems


def test_no_manifest(tmp_path: Path) -> None:
    assert "no manifest" in verify(tmp_path)[0]
    (tmp_path / "manifest.json").write_text("{}")
    assert "no manifest" in verify(tmp_path)[0]


def test_other_columns(release: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(release / TRAIN).drop_columns("sd"), release / TRAIN)
    sign(release, TRAIN)
    assert any("other columns" in p for p in verify(release))


def test_a_row_in_both_splits(release: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    train, validation = pq.read_table(release / TRAIN), pq.read_table(release / VALIDATION)
    both = pa.concat_tables([validation, train.slice(0, 1)]).cast(data_schema())
    pq.write_table(both, release / VALIDATION)
    sign(release, VALIDATION)
    problems = "\n".join(verify(release))
    assert "1 ids occur more than once" in problems
    assert "1 seeds have rows in both splits" in problems and "texts are in both splits" in problems
    assert "the manifest says" in problems


def test_books_that_do_not_balance(release: Path) -> None:
    def cook(manifest: dict[str, Any]) -> None:
        manifest["ledger"]["accepted"] += 1

    change_manifest(release, cook)
    problems = "\n".join(verify(release))
    assert "the ledger does not balance" in problems
    assert "the ledger is not the sum of the rounds' ledgers" in problems
    assert "accepted, but" in problems
    assert "without the manifest's ledger line" in problems


Rows = list[dict[str, Any]]


def rewrite(release: Path, name: str, change: Callable[[Rows], Rows | None]) -> None:
    """Change a table's rows, and make the manifest agree with the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(release / name)
    rows = table.to_pylist()
    rows = change(rows) or rows
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), release / name)
    sign(release, name)


def of_first(**columns: Any) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        rows[0] |= columns

    return change


def bare(rows: Rows) -> None:
    rows[0]["models"] = dict.fromkeys(rows[0]["models"])


def anonymous(rows: Rows) -> None:
    for column in ("models", "members"):
        rows[0][column] |= {"generator": None}


def quiet(rows: Rows) -> None:
    rows[0]["instruction"] = rows[0]["messages"][0]["content"] = " "


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (TRAIN, lambda rows: rows[::-1], "rows are not in the order of their ids' digests"),
        (TRAIN, of_first(response="Something else."), "messages are not instruction and response"),
        (TRAIN, of_first(messages=[]), "messages are not instruction and response"),
        (TRAIN, quiet, "rows with an empty instruction"),
        (TRAIN, of_first(instruction=None), "rows without instruction"),
        (TRAIN, of_first(models=None), "rows without models"),
        (TRAIN, bare, "models are not those of the members"),
        (TRAIN, anonymous, "rows that no model of the committee generated"),
        (TRAIN, of_first(round=99), "data: rows of round 99: 1, but 0 by the merges"),
        (REJECTED, of_first(reason="because"), "round 1: instruction_review: because: 1, but 0 by the ledger"),
        (REJECTED, of_first(outcome="failed"), "rows of another outcome than rejected"),
        (REJECTED, of_first(winner="0" * 32), "winners where there are none"),
        (DROPPED, of_first(stage="fuzzy"), "by the ledger"),
        (DROPPED, lambda rows: [r | {"winner": "nobody"} for r in rows], "winners that are no ids"),
    ],
    ids=lambda x: x if isinstance(x, str) and " " in x else "",
)
def test_rows_are_what_they_must_be(release: Path, name: str, change: Callable[[Rows], Rows | None], said: str) -> None:
    rewrite(release, name, change)
    assert any(said in p for p in verify(release)), verify(release)


def test_seeds_themselves_have_no_generator(maker: Maker) -> None:
    config = maker.config(seeds=8, simulated=True)
    config.method.flow, config.method.samples_per_seed = "seeds", 1
    run = planning.make(maker.path / "seeds", config)
    for number in range(config.launch.shards):
        run_shard(run, 1, number)
    merge_round(run, 1)
    assert verify(build(run)) == []


def test_winners_are_rows_or_seeds(release: Path) -> None:
    def strange(rows: Rows) -> None:
        won = [r for r in rows if r["winner"]]
        won[0]["winner"] = "0" * 32
        won[1]["winner"] = won[1]["seed_id"]

    rewrite(release, DROPPED, strange)
    assert verify(release) == ["1 winners of dropped rows are neither rows nor seeds"]
    change_manifest(release, lambda m: m["seeds"].update(records=m["seeds"]["records"] + 1))
    problems = verify(release)  # now one seed is in no row: the stranger may be that one
    assert not any("winners" in p for p in problems) and any(p.startswith("README.md") for p in problems)


KEYS_OF_A_MANIFEST = ("prompts", "models", "version", "funnel", "coverage", "frozen", "diagnostics", "work")


@pytest.mark.parametrize("key", KEYS_OF_A_MANIFEST)
def test_a_manifest_has_all_its_keys(release: Path, key: str) -> None:
    assert set(KEYS) == set(read_json(release / "manifest.json"))
    change_manifest(release, lambda m: m.pop(key))
    assert f"manifest.json: without {key}" in verify(release)


def reasons_of_another(m: dict[str, Any]) -> None:
    """The same sums by another reason, in all ledgers."""
    for books in (m["ledger"], *(r["ledger"] for r in m["rounds"])):
        books["rejected"] = {"adjudication: whim": sum(books["rejected"].values())}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["prompts"].update({"response.j2": "Lie."}), "not what was frozen: prompts"),
        (lambda m: m["models"].pop("ant"), "not what was frozen: models.ant"),
        (lambda m: m["models"]["ant"].update(identity="x"), "not what was frozen: models.ant"),
        (lambda m: m["config"]["method"].update(accept_mean=1.0), "not what was frozen: config.method.accept_mean"),
        (lambda m: m["frozen"]["method"].update(accept_mean=1.0), "fingerprint is not that of the frozen settings"),
        (lambda m: m.update(version="9.9"), "README.md: not of version 9.9"),
        (lambda m: m["splits"]["train"].update(seeds=1), "train: rows of "),
        (lambda m: m["splits"]["train"].update(files=7), "train: 1 files, the manifest says 7"),
        (lambda m: m["funnel"].pop(), "the funnel does not follow from the ledger"),
        (lambda m: m["coverage"].update(expected=99), "the coverage is not that of the rounds"),
        (lambda m: m["seeds"].update(rejected=0), "rejects/seeds.jsonl: 1 records, the manifest says 0"),
        (lambda m: m["files"].pop("exports/chat-train.jsonl"), "exports/chat-train.jsonl: not in the release"),
        (reasons_of_another, "adjudication: whim: 0, but "),
        (lambda m: m["dropped"].update(fuzzy=m["dropped"]["fuzzy"] + 1), "dropped by fuzzy"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_the_manifest_follows_from_the_files(release: Path, change: Callable[[dict[str, Any]], Any], said: str) -> None:
    change_manifest(release, change)
    assert any(said in p for p in verify(release)), verify(release)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("run.yaml", lambda text: "seeds: {path: other}\n", "run.yaml: not the manifest's configuration"),
        ("run.yaml", lambda text: "- [", "run.yaml: not readable"),
        ("exports/alpaca-train.json", lambda text: "", "exports/alpaca-train.json: not the rows of the data"),
        ("exports/chat-train.jsonl", lambda text: text.split("\n", 1)[1], "not the rows of the data"),
        ("exports/dataset_info.json", lambda text: "{}", "does not describe these exports"),
        ("rejects/seeds.jsonl", lambda text: text * 2, "rejects/seeds.jsonl: 2 records, the manifest says 1"),
        ("report.html", lambda text: "<html>", "report.html: without the manifest's"),
        ("README.md", lambda text: text.split("## Known limits")[0], "README.md: not what manifest and data say"),
        ("README.md", lambda text: text.replace("| 0 |", "| 1 |"), "README.md: not what manifest and data say"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_every_other_file_is_what_follows_from_the_manifest(
    release: Path, name: str, change: Callable[[str], str], said: str
) -> None:
    path = release / name
    path.write_text(change(path.read_text()))
    sign(release, name)
    assert any(said in p for p in verify(release)), verify(release)


def test_files_are_i_of_n(release: Path) -> None:
    other = "data/train-00003-of-00009.parquet"
    (release / TRAIN).rename(release / other)
    change_manifest(release, lambda m: m["files"].update({other: m["files"].pop(TRAIN)}))
    assert any("train: its files are not 0 to n - 1 of n" in p for p in verify(release))
    other = "data/test-00000-of-00001.parquet"
    shutil.copyfile(release / VALIDATION, release / other)
    change_manifest(release, lambda m: m["files"].update({other: m["files"][VALIDATION]}))
    assert any(p.startswith(f"{other}: no table that") for p in verify(release))


def test_ids_are_streamed_not_kept(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of a few rows find the same as whole files: order and counts go on from one to the next."""
    monkeypatch.setattr("gra_hpc.release.verify.rows._BATCH", 3)
    assert verify(release) == []
    rewrite(release, TRAIN, lambda rows: [*rows[3:], *rows[:3]])
    assert any("not in the order" in p for p in verify(release))


def test_a_card_without_header(release: Path) -> None:
    (release / "README.md").write_text("# hello\n")
    sign(release, "README.md")
    assert "README.md: no YAML header" in verify(release)


def test_a_directory_that_is_no_release_is_told_from_one_that_holds_runs(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))  # or a run that lies here is proposed
    with pytest.raises(ReleaseError, match="none: no such directory -> give the directory"):
        _directory(tmp_path / "none")
    with pytest.raises(ReleaseError, match=r"is empty, .* -> give the directory of a release, or of its run"):
        _directory(tmp_path)
    there = tmp_path / "a" / "release"
    there.mkdir(parents=True)
    (there / "manifest.json").write_text("{}")
    with pytest.raises(ReleaseError, match=f"holds some -> gra release verify {tmp_path / 'a'}$"):
        _directory(tmp_path)
    assert _directory(tmp_path / "a") == there
