"""Embeddings as a column of a table, and back: binary values, little-endian float16."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from gra_hpc.errors import ReleaseError

_MOST = 2**31 - 1
"""Bytes that the offsets of a binary column can reach."""


def to_matrix(embeddings: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Places of the rows that have an embedding, and the embeddings, float16 [n, d].

    Raises:
        ReleaseError: embeddings of different lengths.
    """
    array = embeddings.combine_chunks() if isinstance(embeddings, pa.ChunkedArray) else embeddings
    there = np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False))
    values = array.drop_null().to_pylist()
    if not values:
        return there, np.empty((0, 0), np.float16)
    width = len(values[0])
    if width == 0 or width % 2 or any(len(v) != width for v in values):
        raise ReleaseError(f"embeddings of different lengths ({width} bytes and others)")
    return there, np.frombuffer(b"".join(values), "<f2").reshape(len(values), width // 2)


def to_column(vectors: np.ndarray) -> pa.Array:
    """Embeddings as a binary column.

    Raises:
        OverflowError: more than 2 GiB, which the column's 32-bit offsets cannot reach: a part at a time.
    """
    n, width = vectors.shape[0], vectors.shape[1] * 2 if vectors.ndim == 2 else 0
    if n * width > _MOST:
        raise OverflowError(f"{n} embeddings of {width} bytes in one column: more than {_MOST} bytes")
    data = np.ascontiguousarray(vectors, "<f2")
    offsets = pa.py_buffer((np.arange(n + 1, dtype=np.int64) * width).astype(np.int32))
    return pa.Array.from_buffers(pa.binary(), n, [None, offsets, pa.py_buffer(data)])
