"""Parquet tables: one writer, of tables that are there whole or not at all, and one reader, with one clear error.

pyarrow is imported where it is used: commands that look at a run's JSON alone stay light.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO

from gra_hpc.errors import ReleaseError
from gra_hpc.storage import whole_file

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


MOST_AT_ONCE = 64 << 20
"""Characters of texts that are laid out at once; more are, one by one."""


def table_writer(
    file: Path | BinaryIO, schema: pa.Schema, level: int | None = None, plain: bool = False
) -> pq.ParquetWriter:
    """Writes a Parquet table where nobody looks for it yet: into a file that has no name, or a directory in work.

    Args:
        level: of the compression (zstd); none: its default.
        plain: of what looks like numbers at random: neither compression nor dictionaries.
    """
    import pyarrow.parquet as pq

    if plain:
        return pq.ParquetWriter(file, schema, compression="none", use_dictionary=False, write_statistics=False)
    return pq.ParquetWriter(file, schema, compression="zstd", compression_level=level)


@contextmanager
def whole_table(
    path: Path, schema: pa.Schema, level: int | None = None, plain: bool = False
) -> Iterator[pq.ParquetWriter]:
    """A Parquet table, written as `whole_file` does: batch by batch, there at the end, or not at all. As
    `table_writer` writes."""
    with whole_file(path) as file, table_writer(file, schema, level, plain) as writer:
        yield writer


def column(values: Sequence[Any], type_: pa.DataType) -> pa.Array:
    """Texts, lists of texts or numbers as Arrow holds them; None is null.

    As `pa.array`, which imports pandas first, in 0.2 s.
    """
    import numpy as np
    import pyarrow as pa

    if pa.types.is_list(type_):
        inner = column(list(chain.from_iterable(values)), type_.value_type)
        return pa.Array.from_buffers(type_, len(values), [None, _ends(values, len(inner))], children=[inner])
    if pa.types.is_string(type_):
        try:
            whole = "".join(values)
        except TypeError:  # one is none
            whole = None
        if whole is None or len(whole) > MOST_AT_ONCE:
            builder = pa.lib.StringBuilder()
            builder.append_values(values)
            return builder.finish()
        encoded = whole.encode()
        ends = _ends(values if len(encoded) == len(whole) else list(map(str.encode, values)), len(encoded))
        return pa.Array.from_buffers(type_, len(values), [None, ends, pa.py_buffer(encoded)])
    if not (pa.types.is_integer(type_) or pa.types.is_floating(type_)):
        raise TypeError(f"a column of {type_}")
    known = np.array([v is not None for v in values], dtype=bool)
    data = np.array([0 if v is None else v for v in values], dtype=type_.to_pandas_dtype())
    nulls = None if known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))
    return pa.Array.from_buffers(type_, len(values), [nulls, pa.py_buffer(data)])


def _ends(values: Sequence[Any], total: int) -> pa.Buffer:
    """Where each of the values begins, and the last one ends at `total`, int32 [n + 1]."""
    import numpy as np
    import pyarrow as pa

    ends = np.zeros(len(values) + 1, np.int32)
    if total:
        np.cumsum(np.fromiter(map(len, values), np.int32, len(values)), out=ends[1:])
    return pa.py_buffer(ends)


@contextmanager
def open_table(
    path: Path | str,
    columns: Sequence[str] = (),
    schema: pa.Schema | None = None,
    then: str = "",
    optional: Mapping[str, pa.DataType] = MappingProxyType({}),
) -> Iterator[pq.ParquetFile]:
    """A Parquet table, open for reading. What is wrong with it, also while it is read, is one clear line.

    Args:
        columns: some that it must have.
        schema: all that it must have, with their types; none: it may have any.
        then: what to do about one that is not as expected.
        optional: columns that may be there beyond `schema`, with their types.

    Raises:
        ReleaseError: no such file, damaged, or other columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            found = file.schema_arrow.remove_metadata()
            fixed = pa.schema([f for f in found if f.type != optional.get(f.name)])
            if schema is not None and not fixed.equals(schema):
                raise ReleaseError(f"{path}: other columns than expected: {_difference(fixed, schema)}", then)
            if absent := [c for c in columns if c not in found.names]:
                raise ReleaseError(f"{path}: no column {absent[0]}", then)
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        raise ReleaseError(f"{path}: not a readable table ({str(e).partition(chr(10))[0]})", then) from None


def _difference(found: pa.Schema, expected: pa.Schema) -> str:
    absent = [f"no column {n}" for n in expected.names if n not in found.names]
    extra = [f"unknown column {n}" for n in found.names if n not in expected.names]
    wrong = [
        f"{f.name} is {found.field(f.name).type}, expected {f.type}"
        for f in expected
        if f.name in found.names and found.field(f.name).type != f.type
    ]
    return "; ".join([*absent, *extra, *wrong][:4]) or "another order"


def read_batches(
    path: Path | str, columns: Sequence[str], rows: int = 4096, then: str = ""
) -> Iterator[pa.RecordBatch]:
    """Some columns of a Parquet table, so many rows in memory at a time.

    Raises:
        ReleaseError: as `open_table`.
    """
    with open_table(path, columns, then=then) as file:
        yield from file.iter_batches(rows, columns=list(columns))


def read_table(path: Path | str, columns: Sequence[str], then: str = "") -> pa.Table:
    """Some columns of a Parquet table, all rows at once.

    Raises:
        ReleaseError: as `open_table`.
    """
    with open_table(path, columns, then=then) as file:
        return file.read(list(columns))


def table_rows(path: Path | str) -> int:
    """Rows of a Parquet table.

    Raises:
        ReleaseError: as `open_table`.
    """
    with open_table(path) as file:
        return int(file.metadata.num_rows)
