"""The rows of a merge, in two numberings.

*Row* numbers follow storage: what was there before, then the accepted rows of each shard in shard order. What was
there before is the pool, and of a flow whose rows do not go into it what earlier rounds kept. *Ranks* follow merit:
what was there before first (it always stays), then the best score, ties by id. Every step decides by rank alone, so
that the result does not depend on where a row is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc import conversation
from gra_hpc.errors import ReleaseError
from gra_hpc.flows.keys import RECORDS, Keys
from gra_hpc.merge.collect import Part, Shard, id_bytes
from gra_hpc.parquet import open_table
from gra_hpc.records import ACCEPTED, CONTEXT, optional_columns, record_schema
from gra_hpc.signatures import columns
from gra_hpc.signatures.recorded import Signed
from gra_hpc.terminal import word


@dataclass(frozen=True)
class Unit:
    """Some row groups of one part: what one worker reads at a time."""

    part: Part
    groups: tuple[int, ...]
    """Row groups to read."""
    start: int
    """Row number of the first row that counts."""
    rows: int


@dataclass(frozen=True)
class Index:
    """All rows of a merge, without their texts: about 60 bytes a row."""

    parts: list[Part]
    """The pool first, then what earlier rounds kept beside it, then the shards."""
    pool: int
    """Rows that were there before."""
    records: int
    """Those of the pool's own table among them: the first."""
    ids: np.ndarray
    """bytes [rows], by row."""
    rank: np.ndarray
    """int64 [rows]: row -> rank."""
    row: np.ndarray
    """int64 [rows]: rank -> row."""

    def __len__(self) -> int:
        return len(self.rank)

    def units(self, rows: int = 40_000) -> list[Unit]:
        """The parts cut at row groups, about `rows` each."""
        units, start = [], 0
        for part in self.parts:
            groups: list[int] = []
            held = 0
            for g, n in enumerate(part.groups):
                groups.append(g)
                held += n
                if held >= rows:
                    units.append(Unit(part, tuple(groups), start, held))
                    start, groups, held = start + held, [], 0
            if held:
                units.append(Unit(part, tuple(groups), start, held))
                start += held
        return units

    def names(self, ranks: np.ndarray) -> list[str]:
        """Ids of ranks."""
        return [b.decode() for b in self.ids[self.row[ranks]].tolist()]


def build(
    pool: Part, pool_ids: np.ndarray, shards: Sequence[Shard], kept: Sequence[tuple[Part, np.ndarray]] = ()
) -> Index:
    """Rank the rows.

    Args:
        kept: what earlier rounds kept beside the pool, with their ids.

    Raises:
        ReleaseError: two published rows have one id.
    """
    before = [pool_ids, *(ids for _, ids in kept)]
    n_pool = sum(map(len, before))
    parts = [pool, *(part for part, _ in kept), *(s.part for s in shards)]
    ids = np.concatenate([*before, *(s.ids for s in shards)])
    scores = np.concatenate([s.scores for s in shards]) if shards else np.empty(0)
    words = _words(ids)
    by_id = np.lexsort(words.T[::-1])  # ids in order, as their bytes compare
    same = np.flatnonzero((words[by_id[1:]] == words[by_id[:-1]]).all(axis=1))
    if len(same):
        rows = sorted(int(r) for r in by_id[same[0] : same[0] + 2])
        where = [_source(parts, r) for r in rows]
        raise ReleaseError(
            f"{where[0]} and {where[1]} both hold the sample {ids[rows[0]].decode()} ({len(same)} such ids): "
            "each sample is published once",
            "move the manifest.json of the shard that is wrong away,"
            f" then gra resume {word(Path(where[1]).parents[4])}",
        )
    new = by_id[by_id >= n_pool]
    new = new[np.argsort(-scores[new - n_pool], kind="stable")]
    row = np.concatenate([np.arange(n_pool), new])
    rank = np.empty(len(row), np.int64)
    rank[row] = np.arange(len(row))
    return Index(parts, n_pool, len(pool_ids), ids, rank, row)


def _words(ids: np.ndarray) -> np.ndarray:
    """Fixed-size bytes as big-endian integers [n, width / 8] that sort as the bytes do."""
    width = -(-max(ids.dtype.itemsize, 1) // 8) * 8
    return ids.astype(f"S{width}").view(">u8").reshape(len(ids), -1).astype(np.uint64)


def _source(parts: Sequence[Part], row: int) -> str:
    for part in parts:
        if row < part.rows:
            return part.path
        row -= part.rows
    raise IndexError(row)


def pool_part(path: str, keys: Keys = RECORDS, signed: Signed | None = None) -> tuple[Part, np.ndarray]:
    """The previous pool, and its ids.

    Args:
        keys: what its rows are compared by.
        signed: what has been made of its texts already.

    Raises:
        ReleaseError: not a readable table of records.
    """
    return _part(path, record_schema(), keys, signed)


def kept_part(path: str, schema: pa.Schema, keys: Keys) -> tuple[Part, np.ndarray]:
    """What an earlier round kept, and its ids.

    Args:
        schema: of its flow's samples.
        keys: what its rows are compared by.

    Raises:
        ReleaseError: not a readable table of such rows.
    """
    return _part(path, schema, keys, None)


def _part(path: str, schema: pa.Schema, keys: Keys, signed: Signed | None) -> tuple[Part, np.ndarray]:
    with open_table(path, schema=schema, optional=optional_columns()) as file:
        context = CONTEXT in file.schema_arrow.names
        groups = tuple(file.metadata.row_group(g).num_rows for g in range(file.num_row_groups))
        ids = [id_bytes(file.read_row_group(g, columns=["id"])["id"]) for g in range(file.num_row_groups)]
    part = Part(path, groups, False, keys, context, signed)
    return part, np.concatenate(ids) if ids else np.empty(0, "S1")


def read(unit: Unit, names: Sequence[str], batch: int = 4096) -> Iterator[tuple[int, dict]]:
    """Rows of a unit that count, in storage order.

    Args:
        unit: what to read.
        names: columns wanted.
        batch: rows read at a time (fewer may count).

    Yields:
        Row number of the batch's first row, and the columns by name (Arrow arrays).
    """
    row = unit.start
    wanted = [*names, "status"] if unit.part.accepted_only and "status" not in names else list(names)
    with open_table(unit.part.path) as file:
        for b in file.iter_batches(batch, row_groups=list(unit.groups), columns=wanted, use_threads=False):
            if unit.part.accepted_only:
                b = b.filter(pc.equal(b["status"], ACCEPTED))
            if len(b):
                yield row, {name: b[name] for name in names}
                row += len(b)
    if row != unit.start + unit.rows:
        raise ReleaseError(f"{unit.part.path}: changed while it was merged", "gra merge RUN")


def asked(unit: Unit, batch: dict) -> list[str]:
    """The texts of a batch's rows whose embeddings are compared, with what was said before them."""
    texts = batch[unit.part.keys.text].to_pylist()
    contexts = batch[CONTEXT].to_pylist() if unit.part.context else [""] * len(texts)
    return [conversation.asked(c or "", t or "") for c, t in zip(contexts, texts, strict=True)]


def asking(unit: Unit) -> list[str]:
    """The columns that `asked` needs."""
    return [unit.part.keys.text, *([CONTEXT] if unit.part.context else [])]


def compared(unit: Unit, batch: int) -> Iterator[tuple[int, Mapping[str, pa.Array]]]:
    """As `read`: what rows are compared by, under the names that `signing` has for it."""
    keys = unit.part.keys
    for row, found in read(unit, columns.wanted(keys, unit.part.context), batch):
        yield row, columns.named(keys, found)
