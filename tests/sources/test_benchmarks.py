"""Texts out of benchmarks: which files of a directory count, how they are read, and which are named as unread."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gra_hpc.errors import ConfigError
from gra_hpc.sources import benchmarks

LINES = b"".join(json.dumps({"question": f"What is {i}?"}).encode() + b"\n" for i in range(3))
TABLE = pa.table({"question": [f"What is {i}?" for i in range(3)], "n": [1, 2, 3]})


def read(path: Path) -> list[tuple[str, int, str]]:
    return list(benchmarks.texts_of(str(path), benchmarks.find(str(path))))


def compressed(path: Path, data: bytes) -> None:
    codec = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
    if path.suffix == ".xz":
        path.write_bytes(lzma.compress(data))
        return
    with pa.output_stream(str(path), compression=codec[path.suffix]) as f:
        f.write(data)


def arrow(path: Path, file: bool) -> None:
    with (pa.ipc.new_file if file else pa.ipc.new_stream)(str(path), TABLE.schema) as writer:
        for batch in TABLE.to_batches(max_chunksize=2):
            writer.write_batch(batch)


@pytest.mark.parametrize(
    "name",
    ["b.jsonl", "b.ndjson", "b.json", "b.csv", "b.tsv", "b.txt", "b.parquet", "b.arrow", "stream.arrow"]
    + [f"b.{kind}.{c}" for kind in ("jsonl", "json", "csv", "txt") for c in ("gz", "bz2", "xz", "zst")],
)
def test_every_kind_gives_its_texts(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    plain = {
        "json": json.dumps([json.loads(line) for line in LINES.splitlines()]).encode(),
        "jsonl": LINES,
        "ndjson": LINES,
    }.get(name.split(".")[1], b"What is 0?\nWhat is 1?\nWhat is 2?\n")
    if path.suffix == ".parquet":
        pq.write_table(TABLE, path)
    elif path.suffix == ".arrow":
        arrow(path, file=name == "b.arrow")
    elif name.count(".") == 2:
        compressed(path, plain)
    else:
        path.write_bytes(plain)
    expected = [(name, i + 1, f"What is {i}?") for i in range(3)]
    assert [(f, n, t.strip()) for f, n, t in read(path)] == expected
    inside = [(f"{tmp_path.name}/{f}", n, t) for f, n, t in expected]
    assert [(f, n, t.strip()) for f, n, t in read(tmp_path)] == inside


def test_of_a_snapshot_the_data_count_and_what_cannot_be_read_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "dataset_infos.json").write_text('{"default": {"description": "Grade school maths."}}')
    for name in ("README.md", "README.txt", "LICENSE", "state.json", "config.json", "load.py", ".gitattributes"):
        (tmp_path / name).write_text("{}")
    compressed(tmp_path / "test.jsonl.gz", LINES)
    compressed(tmp_path / "test.jsonl.zst", LINES)
    arrow(tmp_path / "data-00000-of-00001.arrow", file=False)
    assert len(read(tmp_path)) == 9 and not caplog.text
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.zip").write_bytes(b"PK")
    (tmp_path / "test.parquet.gz").write_bytes(b"")
    pin = benchmarks.find(str(tmp_path))
    assert benchmarks.unread(pin) == ["data/test.zip", "test.parquet.gz"]
    assert "not compared with: data/test.zip, test.parquet.gz" in caplog.text


def test_a_directory_without_readable_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset_infos.json").write_text('{"description": "x"}')
    with pytest.raises(ConfigError, match=r"no file to read in it, expected \.jsonl"):
        benchmarks.find(str(tmp_path))
    (tmp_path / "test.zip").write_bytes(b"PK")
    with pytest.raises(ConfigError, match=r"it has test\.zip"):
        benchmarks.find(str(tmp_path))
    with pytest.raises(ConfigError, match="expected one of"):
        benchmarks.find(str(tmp_path / "test.zip"))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("b.jsonl.gz", gzip.compress(LINES * 999)[:-20]),
        ("b.jsonl.bz2", bz2.compress(LINES * 999)[:-20]),
        ("b.jsonl.xz", lzma.compress(LINES * 999)[:-20]),
        ("b.jsonl.zst", b"not compressed"),
        ("b.arrow", b"ARROW1\0\0 and no more"),
        ("b.arrow", b"nonsense"),
        ("b.parquet", b"PAR1"),
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / name)


def test_gzip_of_several_members_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(LINES) + gzip.compress(LINES))
    assert len(read(tmp_path / "b.jsonl.gz")) == 6
