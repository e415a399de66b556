"""Whatever a file holds, every record is accepted or rejected, nothing else."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gra_hpc.errors import SeedError
from gra_hpc.sources import rows, seeds
from gra_hpc.sources.seeds import SeedSet
from tests.sources.loading import load_file

NAMES = """instruction input output response instances messages conversations role content from value prompt domain
keywords summary data text"""
FIELD_NAMES = st.sampled_from(NAMES.split()) | st.text(max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELD_NAMES, inner, max_size=4),
    max_leaves=8,
)
RECORDS = st.dictionaries(FIELD_NAMES, VALUES, max_size=5)
FIELDS = st.dictionaries(st.sampled_from(["instruction", "response", "messages", "domain"]), FIELD_NAMES, max_size=2)
GARBAGE = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


def survives(path: Path, **settings_: Any) -> SeedSet | None:
    """Loading ends with a balanced set or one clear line."""
    try:
        result = load_file(path, **settings_)
    except SeedError as e:
        assert e.what and "\n" not in str(e)
        return None
    seeds.write_rejects(path.with_name("rejects.out"), result.rejects)
    seeds.write_records(path.with_name("seeds.out"), result.seeds)
    assert list(seeds.read_records(path.with_name("seeds.out"))) == list(result.seeds)
    return result


@GARBAGE
@given(data=st.binary(max_size=300), suffix=st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet"]))
def test_any_bytes(tmp_path: Path, data: bytes, suffix: str) -> None:
    (tmp_path / f"s{suffix}").write_bytes(data)
    survives(tmp_path / f"s{suffix}")


@GARBAGE
@given(lines=st.lists(RECORDS | VALUES | st.binary(max_size=30), max_size=6), fields=FIELDS)
def test_any_json(tmp_path: Path, lines: list[Any], fields: dict[str, str]) -> None:
    encoded = [line.replace(b"\n", b"") if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    data = b"\n".join(encoded)
    (tmp_path / "s.jsonl").write_bytes(data)
    result = survives(tmp_path / "s.jsonl", fields=fields)
    if result:
        assert result.read == sum(bool(line.strip()) for line in data.removeprefix(rows.BOM).split(b"\n"))
    (tmp_path / "s.json").write_bytes(json.dumps([x for x in lines if not isinstance(x, bytes)]).encode())
    survives(tmp_path / "s.json", fields=fields, duplicates="keep")


@GARBAGE
@given(rows=st.lists(st.lists(st.text(max_size=12), min_size=1, max_size=4), max_size=6))
def test_any_csv(tmp_path: Path, rows: list[list[str]]) -> None:
    with (tmp_path / "s.csv").open("w", newline="", encoding="utf-8", errors="surrogatepass") as f:
        csv.writer(f).writerows([["instruction", "output"], *rows])
    survives(tmp_path / "s.csv")


@GARBAGE
@given(cut=st.integers(0, 700), at=st.integers(0, 700), byte=st.integers(0, 255))
def test_damaged_parquet(tmp_path: Path, cut: int, at: int, byte: int) -> None:
    pq.write_table(pa.table({"instruction": ["a", "b"], "output": ["x", "y"]}), tmp_path / "whole.parquet")
    data = bytearray((tmp_path / "whole.parquet").read_bytes())
    (tmp_path / "s.parquet").write_bytes(data[: len(data) - 1 - cut % len(data)])
    survives(tmp_path / "s.parquet")
    data[at % len(data)] = byte
    (tmp_path / "s.parquet").write_bytes(data)
    survives(tmp_path / "s.parquet")
