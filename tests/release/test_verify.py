"""What a check of a release finds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gra_hpc.release.schema import data_schema
from gra_hpc.release.verify import verify
from gra_hpc.rundir import RunDir
from gra_hpc.storage import read_json, sha256, to_json


@pytest.fixture
def release(built: RunDir, tmp_path: Path) -> Path:
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


def test_sound(release: Path) -> None:
    assert verify(release) == []


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
    assert "1 seeds have rows in both splits" in problems
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


def test_a_card_without_header(release: Path) -> None:
    (release / "README.md").write_text("# hello\n")
    sign(release, "README.md")
    assert "README.md: no YAML header" in verify(release)
