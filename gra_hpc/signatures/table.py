"""A table of signatures: a row for each accepted row of a shard, or for each row of a pool, in their order.

What it holds looks like numbers at random: it is neither compressed nor given dictionaries.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import pyarrow as pa

from gra_hpc.parquet import open_table
from gra_hpc.signatures.minhash import Banding
from gra_hpc.signatures.signing import BANDS, DIGESTS, MEETINGS, Signatures

ROWS = 16_384
"""Rows read at a time, and in a row group."""


def schema(parts: Collection[str], banding: Banding | None) -> pa.Schema:
    """Of a table with these parts."""
    fields = [("digest", pa.binary(16))] if DIGESTS in parts else []
    if BANDS in parts and banding:
        fields += [("shingles", pa.uint32()), ("bands", pa.binary(8 * banding.bands))]
    if MEETINGS in parts:
        fields.append(("meets", pa.bool_()))
    return pa.schema(fields)


def to_table(signatures: Signatures, schema_: pa.Schema) -> pa.Table:
    """Signatures as rows of a table."""
    s = signatures
    given = {"shingles": s.counts, "meets": s.meets}
    wide = {"digest": s.digests, "bands": s.keys}
    columns = [pa.array(given[f.name], f.type) if f.name in given else _fixed(wide[f.name], f.type) for f in schema_]
    return pa.Table.from_arrays(columns, schema=schema_)


def read(path: str, parts: Collection[str], rows: int) -> Iterator[Signatures]:
    """Some parts of the first rows of a table, in order.

    Raises:
        ReleaseError: as `parquet.open_table`.
    """
    names = {DIGESTS: ["digest"], BANDS: ["shingles", "bands"], MEETINGS: ["meets"]}
    columns = [c for part, some in names.items() if part in parts for c in some]
    with open_table(path, columns) as file:
        for batch in file.iter_batches(ROWS, columns=columns, use_threads=False):
            if rows <= 0:
                return
            batch = batch.slice(0, rows)
            rows -= len(batch)
            given = {name: batch[name] for name in columns}
            yield Signatures(
                _matrix(given["digest"], np.uint8) if DIGESTS in parts else None,
                given["shingles"].to_numpy() if BANDS in parts else None,
                _matrix(given["bands"], np.uint64) if BANDS in parts else None,
                given["meets"].to_numpy(zero_copy_only=False) if MEETINGS in parts else None,
            )


def _fixed(matrix: np.ndarray | None, type_: pa.DataType) -> pa.Array:
    """Rows of numbers as values of a fixed width."""
    assert matrix is not None
    return pa.Array.from_buffers(type_, len(matrix), [None, pa.py_buffer(np.ascontiguousarray(matrix))])


def _matrix(column: pa.Array, kind: type[np.generic]) -> np.ndarray:
    """And back: [rows, numbers]."""
    width = column.type.byte_width
    data = np.frombuffer(column.buffers()[1], np.uint8)
    return data[column.offset * width : (column.offset + len(column)) * width].view(kind).reshape(len(column), -1)
