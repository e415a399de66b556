"""Exports hold every row, and open where trainers open them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import Maker

from gra_hpc.errors import ReleaseError
from gra_hpc.release.build import build
from gra_hpc.release.export import export
from gra_hpc.release.verify.verify import verify
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json


def pairs(release: Path, split: str) -> list[tuple[str, str]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    for path in sorted(release.glob(f"data/{split}-*.parquet")):
        rows += pq.read_table(path).to_pylist()
    return [(r["instruction"], r["response"]) for r in rows]


def test_alpaca(built: Run, tmp_path: Path) -> None:
    for path in export(built.release, "alpaca", tmp_path):
        split = path.stem.removeprefix("alpaca-")
        rows = json.loads(path.read_text())
        assert [(r["instruction"], r["output"]) for r in rows] == pairs(built.release, split)
        assert all(r["input"] == "" for r in rows)


def test_sharegpt(built: Run, tmp_path: Path) -> None:
    train, validation = export(built.release, "sharegpt", tmp_path)
    rows = json.loads(train.read_text())
    assert [tuple(t["value"] for t in r["conversations"]) for r in rows] == pairs(built.release, "train")
    assert [t["from"] for t in rows[0]["conversations"]] == ["human", "gpt"]
    assert len(json.loads(validation.read_text())) == len(pairs(built.release, "validation"))


def test_chat_opens_with_datasets(built: Run, tmp_path: Path) -> None:
    import datasets

    train, _ = export(built.release, "chat", tmp_path)
    data = datasets.load_dataset("json", data_files=str(train), cache_dir=str(tmp_path / "c"), split="train")
    assert [tuple(t["content"] for t in m) for m in data["messages"]] == pairs(built.release, "train")
    assert [t["role"] for t in data[0]["messages"]] == ["user", "assistant"]


def test_a_release_without_all_of_its_data_is_not_exported(built: Run, tmp_path: Path) -> None:
    release = tmp_path / "release"
    shutil.copytree(built.release, release)
    (train, _) = export(release, "chat", tmp_path / "out")
    before = train.read_bytes()
    next(release.glob("data/train-*.parquet")).unlink()
    with pytest.raises(ReleaseError, match=r"data/train-.*: No such file or directory, though it was recorded"):
        export(release, "chat", tmp_path / "out")
    assert train.read_bytes() == before


def test_a_release_with_other_data_is_not_exported(built: Run, tmp_path: Path) -> None:
    """One changed bit, and a table that the manifest does not name."""
    release = tmp_path / "release"
    shutil.copytree(built.release, release)
    table = next(release.glob("data/train-*.parquet"))
    good = table.read_bytes()
    table.write_bytes(good[:1000] + bytes([good[1000] ^ 1]) + good[1001:])
    with pytest.raises(ReleaseError, match=r"data/train-.*: changed since it was written"):
        export(release, "chat", tmp_path / "out")
    table.write_bytes(good)
    shutil.copyfile(table, release / "data" / "train-more.parquet")
    with pytest.raises(ReleaseError, match=r"train-more\.parquet: not in the manifest; nothing was exported"):
        export(release, "chat", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_llama_factory_finds_every_file(built: Run, tmp_path: Path) -> None:
    for form in ("alpaca", "sharegpt", "chat"):
        export(built.release, form, tmp_path)
    info = read_json(tmp_path / "dataset_info.json")
    assert sorted(info) == sorted(
        f"two_rounds_{f}{s}" for f in ("alpaca", "sharegpt", "chat") for s in ("", "_validation")
    )
    for entry in info.values():
        path = tmp_path / entry["file_name"]
        text = path.read_text()
        first = json.loads(text.splitlines()[0] if path.suffix == ".jsonl" else text.splitlines()[1].rstrip(","))
        columns = entry["columns"]
        assert set(columns.values()) <= set(first)
        if entry.get("formatting") == "sharegpt":
            turn = first[columns["messages"]][0]
            tags = entry.get("tags", {"role_tag": "from", "content_tag": "value", "user_tag": "human"})
            assert turn[tags["role_tag"]] == tags["user_tag"] and turn[tags["content_tag"]]


def test_unknown_form_and_no_release(built: Run, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="did you mean alpaca"):
        export(built.release, "alpacca", tmp_path)
    with pytest.raises(ReleaseError, match="not a release"):
        export(tmp_path, "alpaca", tmp_path / "x")


def test_exports_are_part_of_the_release_when_asked_for(maker: Maker) -> None:
    config = maker.config()
    config.release.formats = ["alpaca", "chat"]
    release = build(maker.make(config=config))
    assert verify(release) == []
    files = read_json(release / "manifest.json")["files"]
    assert {"exports/alpaca-train.json", "exports/chat-train.jsonl", "exports/dataset_info.json"} <= set(files)


def test_rows_that_are_no_conversations_are_not_exported(tmp_path: Path) -> None:
    manifest = {
        "name": "x",
        "splits": {"train": {"rows": 0}},
        "config": {"method": {"flow": "annotate"}, "release": {}},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"files": {}}), encoding="utf-8")
    with pytest.raises(ReleaseError, match=r"no instructions with responses, which alpaca wants -> .*load_dataset"):
        export(tmp_path, "alpaca", tmp_path / "out")
