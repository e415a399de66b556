"""The merge's tables: kept rows sorted best first out of core, the next pool, the dropped rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gra_hpc.merge import index
from gra_hpc.merge.index import Index, Unit
from gra_hpc.parquet import open_table, table_writer
from gra_hpc.records import CONTEXT, record_schema
from gra_hpc.workers import Workers

ROW_GROUP = 16_384
"""Rows per row group: part of the tables' bytes, so never taken from the machine."""
_BUCKET = 512 << 20
"""Bytes of a bucket that is sorted in memory."""
_MOST_BUCKETS = 200
STEPS = ("contaminated", "exact", "fuzzy", "semantic", "surplus")
Embeddings = Callable[["np.ndarray", "pa.Array"], "pa.Array"]
"""Row numbers and their column `embedding` -> the column to write (float16 bytes, or null)."""

"""What round 0 adds to a seed."""


def as_given(rows: np.ndarray, embeddings: pa.Array) -> pa.Array:  # noqa: ARG001
    """The embeddings that the shards stored."""
    return embeddings


def dropped_schema() -> pa.Schema:
    """Arrow schema of dropped.parquet."""
    return pa.schema(
        [
            ("id", pa.string()),
            ("step", pa.string()),
            ("winner", pa.string()),
            ("similarity", pa.float64()),
            ("detail", pa.string()),
        ]
    )


class Writer:
    """A Parquet table whose bytes depend on its rows alone, not on how they came in.

    Row groups are compressed in a thread of their own, so that two tables are written at once.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.rows = 0
        self._schema = schema
        self._held: list[pa.Table] = []
        self._count = 0
        self._file = table_writer(path, schema, level=1)
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def write(self, table: pa.Table) -> None:
        """Append rows."""
        self._held.append(table.select(self._schema.names).cast(self._schema))
        self._count += len(table)
        self._flush(ROW_GROUP)

    def _flush(self, size: int) -> None:
        while self._count and self._count >= size:
            together = pa.concat_tables(self._held)
            head, rest = together.slice(0, ROW_GROUP), together.slice(ROW_GROUP)
            self._wait()
            self._writing = self._thread.submit(self._file.write_table, head.combine_chunks(), ROW_GROUP)
            self.rows += len(head)
            self._held, self._count = ([rest], len(rest)) if len(rest) else ([], 0)

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush(1)
                self._wait()
        finally:
            self._thread.shutdown()
            self._file.close()


def sorted_samples(
    ix: Index,
    kept: np.ndarray,
    embeddings: Embeddings,
    scratch: Path,
    memory: int,
    workers: Workers,
    schema: pa.Schema,
) -> Iterator[pa.Table]:
    """Kept samples, best first.

    Rows are dealt into buckets of consecutive ranks, on disk when one bucket would not fit in memory, and each bucket
    is sorted in memory.

    Args:
        ix: the rows.
        kept: ranks, ascending.
        embeddings: fills the column of the same name.
        scratch: where buckets go.
        memory: bytes a bucket may take.
        workers: processes that deal.
        schema: that of the samples' tables (`records.sample_schema`).

    Yields:
        Tables of `schema`.
    """
    place = np.full(len(ix), -1, np.int64)
    place[ix.row[kept]] = np.arange(len(kept))
    size = sum(_uncompressed(Path(p.path)) for p in ix.parts if p.accepted_only)
    buckets = max(1, min(_MOST_BUCKETS, -(-size * 2 // max(min(memory, _BUCKET), 1))))
    per = max(1, -(-len(kept) // buckets))
    units = [u for u in ix.units() if u.part.accepted_only and u.rows]
    if buckets == 1:
        batches = [t for u in units for t in _placed(u, place[u.start : u.start + u.rows], schema)]
        dealt: Iterator[pa.Table] = iter([pa.concat_tables([_placed_schema(schema).empty_table(), *batches])])
    else:
        hands = min(2 * workers.count, len(units))
        asked = []
        for hand in range(hands):
            own = units[hand::hands]
            asked.append((hand, [(u, place[u.start : u.start + u.rows]) for u in own], per, scratch, schema))
        for _ in workers.map(_deal, asked):
            pass
        dealt = (_gather(scratch, b, hands, schema) for b in range(buckets))
    for table in dealt:
        at = table["place"].to_numpy()
        order = np.argsort(at)
        rows = ix.row[kept[at[order]]]
        table = table.drop_columns("place").combine_chunks()  # once: each `take` would do it anew
        for s in range(0, len(order), ROW_GROUP):  # in slices: a string column holds 2 GB at most
            part = table.take(pa.array(order[s : s + ROW_GROUP]))
            given = embeddings(rows[s : s + ROW_GROUP], part["embedding"])
            yield part.set_column(part.schema.get_field_index("embedding"), "embedding", given)


def _placed_schema(schema: pa.Schema) -> pa.Schema:
    return schema.append(pa.field("place", pa.int64()))


def _placed(unit: Unit, place: np.ndarray, schema: pa.Schema) -> Iterator[pa.Table]:
    """Kept rows of a unit with their place among all kept, ascending within each table.

    Args:
        unit: what to read.
        place: int64 [rows of the unit]; -1 for rows that are not kept.
        schema: of its table.
    """
    for row, batch in index.read(unit, schema.names, batch=16_384):
        at = place[row - unit.start :][: len(batch["id"])]
        order = np.argsort(at, kind="stable")
        order = order[np.searchsorted(at[order], 0) :]
        if len(order):
            table = pa.table(batch).take(pa.array(order))
            yield table.append_column("place", pa.array(at[order])).cast(_placed_schema(schema))


def _deal(asked: tuple[int, list[tuple[Unit, np.ndarray]], int, Path, pa.Schema]) -> None:
    """Write the kept rows of some units into this hand's bucket files, by place."""
    hand, units, per, scratch, schema = asked
    sinks: dict[int, Any] = {}
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    try:
        for unit, place in units:
            for table in _placed(unit, place, schema):
                bucket = table["place"].to_numpy() // per
                cuts = np.flatnonzero(np.diff(bucket)) + 1
                for s, e in pairwise([0, *cuts.tolist(), len(bucket)]):
                    b = int(bucket[s])
                    if b not in sinks:
                        path = str(_bucket(scratch, b, hand))
                        sinks[b] = pa.ipc.new_stream(path, _placed_schema(schema), options=options)
                    sinks[b].write_table(table.slice(s, e - s))
    finally:
        for sink in sinks.values():
            sink.close()


def _bucket(scratch: Path, bucket: int, hand: int) -> Path:
    return scratch / f"bucket-{bucket:03d}-{hand:03d}"


def _gather(scratch: Path, bucket: int, hands: int, schema: pa.Schema) -> pa.Table:
    """One bucket, from all hands; its files are removed."""
    tables = [_placed_schema(schema).empty_table()]
    for hand in range(hands):
        path = _bucket(scratch, bucket, hand)
        if path.exists():
            with pa.ipc.open_stream(str(path)) as stream:
                tables.append(stream.read_all())
            path.unlink()
    return pa.concat_tables(tables)


def _uncompressed(path: Path) -> int:
    with open_table(path) as file:
        return sum(file.metadata.row_group(g).total_byte_size for g in range(file.num_row_groups))


def as_records(samples: pa.Table) -> pa.Table:
    """Accepted samples as rows of the pool."""
    schema = record_schema(context=CONTEXT in samples.column_names)
    columns = {f.name: samples[f.name] for f in schema if f.name != "source"}
    columns["source"] = pa.repeat("", len(samples))
    return pa.table(columns).select(schema.names).cast(schema)


def pool_rows(ix: Index) -> Iterator[pa.Table]:
    """The previous pool, as it is."""
    for unit in ix.units():
        if unit.start < ix.records:
            for _, batch in index.read(unit, record_schema(context=unit.part.context).names):
                yield pa.table(batch)


def within(rows: np.ndarray, wanted: range) -> np.ndarray:
    """Which row numbers are some: bool [rows]."""
    return (rows >= wanted.start) & (rows < wanted.stop)


class Dropped:
    """Rows that were dropped, and why; written in order of rank."""

    def __init__(self) -> None:
        self._parts: list[tuple[str, np.ndarray, np.ndarray | None, np.ndarray | None, list[str] | None]] = []

    def add(
        self,
        step: str,
        ranks: np.ndarray,
        winners: np.ndarray | None = None,
        similarity: np.ndarray | None = None,
        details: list[str] | None = None,
    ) -> None:
        """Note the rows a step dropped."""
        self._parts.append((step, ranks, winners, similarity, details))

    def counts(self, ix: Index | None = None, rows: range | None = None) -> dict[str, int]:
        """Rows by step: all, or those of some row numbers."""
        counts = dict.fromkeys(STEPS, 0)
        for step, ranks, *_ in self._parts:
            counts.setdefault(step, 0)
            counts[step] += len(ranks) if ix is None or rows is None else int(within(ix.row[ranks], rows).sum())
        return counts

    def tables(self, ix: Index) -> Iterator[pa.Table]:
        """Tables of `dropped_schema`."""
        if not self._parts:
            return
        every = np.concatenate([p[1] for p in self._parts])
        part = np.repeat(np.arange(len(self._parts)), [len(p[1]) for p in self._parts])
        within = np.concatenate([np.arange(len(p[1])) for p in self._parts])
        order = np.argsort(every)
        for s in range(0, len(order), ROW_GROUP):
            o = order[s : s + ROW_GROUP]
            step, winner, similarity, detail = [], np.full(len(o), -1), np.full(len(o), np.nan), [""] * len(o)
            for k, (p, w) in enumerate(zip(part[o].tolist(), within[o].tolist(), strict=True)):
                name, _, winners, similarities, details = self._parts[p]
                step.append(name)
                if winners is not None:
                    winner[k] = winners[w]
                if similarities is not None:
                    similarity[k] = similarities[w]
                if details is not None:
                    detail[k] = details[w]
            known = np.flatnonzero(winner >= 0)
            names = np.full(len(o), "", dtype=object)
            names[known] = ix.names(winner[known])
            yield pa.table(
                {
                    "id": ix.names(every[o]),
                    "step": step,
                    "winner": pa.array([n or None for n in names], pa.string()),
                    "similarity": pa.array(similarity, pa.float64(), from_pandas=True),
                    "detail": detail,
                },
                schema=dropped_schema(),
            )
