"""Rows brought into an order that depends on their ids alone, out of core: dealt into buckets on disk by a digest of
the id, each bucket sorted in memory when it is read back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

KEY = "__key"
BUCKET_BYTES = 96 << 20
"""Bytes of a bucket before compression; reading it back takes about three times that."""
_MOST = 4096


def keys_of(ids: pa.ChunkedArray | pa.Array, purpose: str = "order") -> np.ndarray:
    """uint64 [rows]: a digest of each id, evenly spread and different for each purpose."""
    blake, person = hashlib.blake2b, purpose.encode()
    joined = b"".join(blake(i, digest_size=8, person=person).digest() for i in ids.cast("binary").to_pylist())
    return np.frombuffer(joined, ">u8").astype(np.uint64)


class Shuffle:
    """Rows on their way into a digest's order.

    Args:
        directory: where buckets go; made here, removed bucket by bucket as they are read.
        schema: of the rows, with a string column `id`.
        size: expected bytes of the rows before compression, from which the number of buckets follows.
        groups: the number of buckets is a multiple of this, so that each group of neighbours can become one file.
        memory: bytes held before they are written out.
    """

    def __init__(self, directory: Path, schema: pa.Schema, size: int, groups: int = 1, memory: int = 96 << 20) -> None:
        directory.mkdir()
        self.directory, self.groups, self.memory = directory, groups, memory
        self.buckets = groups * max(1, min(_MOST // groups, -(-size // (BUCKET_BYTES * groups))))
        self.rows = 0
        self._schema = schema.append(pa.field(KEY, pa.uint64()))
        self._held: list[pa.Table] = []
        self._bytes = 0

    def add(self, table: pa.Table, keys: np.ndarray | None = None) -> None:
        """Take rows in; `keys` are those of `keys_of` if already known."""
        if not len(table):
            return
        keyed = table.append_column(KEY, pa.array(keys_of(table["id"]) if keys is None else keys))
        self._held.append(keyed.cast(self._schema))
        self.rows += len(table)
        self._bytes += keyed.nbytes
        if self._bytes > self.memory:
            self._write_out()

    def _write_out(self) -> None:
        if not self._held:
            return
        table = pa.concat_tables(self._held)
        self._held, self._bytes = [], 0
        bucket = self._bucket(table[KEY].to_numpy())
        order = np.argsort(bucket, kind="stable")
        table = table.take(pa.array(order))
        numbers, starts = np.unique(bucket[order], return_index=True)
        ends = [*starts[1:].tolist(), len(order)]
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        for number, start, end in zip(numbers.tolist(), starts.tolist(), ends, strict=True):
            with (
                self._path(number).open("ab") as file,  # streams one after another
                pa.ipc.new_stream(file, self._schema, options=options) as stream,
            ):
                stream.write_table(table.slice(start, end - start))

    def _bucket(self, keys: np.ndarray) -> np.ndarray:
        return ((keys >> np.uint64(32)) * np.uint64(self.buckets)) >> np.uint64(32)

    def _path(self, bucket: int) -> Path:
        return self.directory / f"{bucket:05d}.arrow"

    def group(self, number: int) -> Iterator[pa.Table]:
        """The buckets of one group, each sorted, with the key as last column; what is read is removed."""
        self._write_out()
        per = self.buckets // self.groups
        for bucket in range(number * per, (number + 1) * per):
            yield self.read(bucket)

    def read(self, bucket: int) -> pa.Table:
        """One bucket, sorted by key, then id."""
        self._write_out()
        path = self._path(bucket)
        if not path.exists():
            return self._schema.empty_table()
        parts = []
        with pa.OSFile(str(path)) as file:
            size = file.size()
            while file.tell() < size:
                parts.append(pa.ipc.open_stream(file).read_all())
        table = pa.concat_tables(parts)
        path.unlink()
        return table.take(pc.sort_indices(table, [(KEY, "ascending"), ("id", "ascending")]))
