"""Parquet tables that a reader sees whole or not at all; about those that are not whole, one clear line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from gra_hpc import parquet
from gra_hpc.errors import ReleaseError
from gra_hpc.parquet import column

SCHEMA = pa.schema([("id", pa.string()), ("n", pa.int64())])
ROWS = pa.table({"id": ["a", "b", "c"], "n": [1, 2, 3]}, SCHEMA)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.parquet"
    with parquet.whole_table(path, SCHEMA) as writer:
        writer.write_table(ROWS)
    return path


def test_a_table_is_there_at_the_end_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with parquet.whole_table(path, SCHEMA) as writer:
        writer.write_table(ROWS)
        assert not path.exists()
    assert parquet.read_table(path, ["n", "id"]).to_pydict() == {"n": [1, 2, 3], "id": ["a", "b", "c"]}
    assert parquet.table_rows(path) == 3
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_that_fails_leaves_the_one_that_was_there(table: Path) -> None:
    with pytest.raises(KeyboardInterrupt), parquet.whole_table(table, SCHEMA) as writer:
        writer.write_table(ROWS)
        writer.write_table(ROWS)
        raise KeyboardInterrupt
    assert parquet.table_rows(table) == 3
    assert list(table.parent.iterdir()) == [table]


def test_a_table_is_read_so_many_rows_at_a_time(table: Path) -> None:
    assert [b["id"].to_pylist() for b in parquet.read_batches(table, ["id"], 2)] == [["a", "b"], ["c"]]


def test_what_is_wrong_with_a_table_is_one_line(table: Path) -> None:
    def refused(**asked: object) -> str:
        with pytest.raises(ReleaseError) as e, parquet.open_table(table, then="gra status RUN", **asked) as file:
            file.read()
        assert str(e.value).startswith(f"{table}: ") and str(e.value).endswith(" -> gra status RUN")
        return str(e.value)

    assert "no column m" in refused(columns=["id", "m"])
    other = pa.schema([("id", pa.int64()), ("m", pa.string())])
    said = "no column m; unknown column n; id is string, expected int64"
    assert f"other columns than expected: {said}" in refused(schema=other)
    assert "another order" in refused(schema=pa.schema([SCHEMA.field("n"), SCHEMA.field("id")]))
    whole = table.read_bytes()
    table.write_bytes(whole[:30])
    assert "not a readable table" in refused()
    table.write_bytes(whole[:4] + bytes(len(whole) - 200) + whole[len(whole) - 196 :])  # its rows, not its footer
    assert "not a readable table" in refused()
    table.unlink()
    assert "not a readable table" in refused()


def test_what_a_reader_does_with_rows_is_no_fault_of_the_table(table: Path) -> None:
    with pytest.raises(ConnectionError):
        for _ in parquet.read_batches(table, ["id"]):
            raise ConnectionError


def test_the_module_alone_loads_no_pyarrow() -> None:
    code = "import sys, gra_hpc.parquet; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", "", None, "日本語 \0 é"], pa.string()),
        ([("a", "b"), (), ("ü",)], pa.list_(pa.string())),
        ([1.5, None, -0.0, 1e300] * 5, pa.float64()),
        ([3, 0, -(2**31)], pa.int32()),
        *(([], t) for t in (pa.string(), pa.list_(pa.string()), pa.float64())),
    ],
)
def test_columns_are_what_arrow_makes_of_them(values: list[Any], kind: pa.DataType) -> None:
    made = column(values, kind)
    made.validate(full=True)
    assert made.equals(pa.array(values, kind))


def test_planning_does_not_import_pandas() -> None:
    """What a table of records is made of; pyarrow itself would, in a fifth of a second."""
    code = "import sys, pyarrow as pa; from gra_hpc.parquet import column; column(['a'], pa.string())"
    done = subprocess.run([sys.executable, "-P", "-c", f"{code}; sys.exit('pandas' in sys.modules)"], check=False)
    assert done.returncode == 0
