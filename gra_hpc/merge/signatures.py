"""One pass over all rows: per row a digest for the exact step, MinHash band keys for the near step, and whether its
words meet a benchmark's. Shards have published them, and the merge before has written those of its pool; what is
missing, or was made by another rule, is made here. Results go to files in the merge's scratch directory, at the row's
place, so that workers write them without talking to each other and memory does not grow with the text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gra_hpc.merge import index
from gra_hpc.merge.collect import Part
from gra_hpc.merge.index import Index, Unit
from gra_hpc.parquet import whole_table
from gra_hpc.signatures import table
from gra_hpc.signatures.decontaminate import Prepared
from gra_hpc.signatures.minhash import Banding
from gra_hpc.signatures.signing import (
    BANDS,
    BATCH,
    DIGESTS,
    MEETINGS,
    Rule,
    Signatures,
    sign,
    texts,
)
from gra_hpc.storage import entry
from gra_hpc.text.normal_form import compared, normalise
from gra_hpc.workers import Workers


@dataclass(frozen=True)
class Signing:
    """What the pass is to find out and where it puts it."""

    scratch: Path
    rule: Rule
    benchmarks: Path | None
    """Prepared benchmark hashes (`decontaminate.Prepared`); none: no decontamination."""
    keep: bool = False
    """The next round's merge wants them too: band keys stay when they have been read."""

    @property
    def banding(self) -> Banding | None:
        """None: no fuzzy step."""
        return self.rule.banding

    @property
    def digests(self) -> Path:
        """16 bytes per row."""
        return self.scratch / "digests"

    @property
    def counts(self) -> Path:
        """uint32 per row: its shingles."""
        return self.scratch / "shingles"

    def band(self, number: int) -> Path:
        """uint64 per row: the key of one band."""
        return self.scratch / f"band-{number:03d}"

    @property
    def bands(self) -> range:
        return range(self.banding.bands if self.banding else 0)

    def parts_of(self, part: Part) -> dict[str, str]:
        """What is wanted of a table's rows, with the digests of the rules; the pool stays, whatever it meets."""
        return {k: v for k, v in self.rule.parts.items() if part.accepted_only or k != MEETINGS}


@dataclass(frozen=True)
class Suspects:
    """What the pass has found."""

    rows: np.ndarray
    """Row numbers that meet a benchmark (to be verified), ascending."""
    made: int
    """Rows of which something was missing; of all others everything was read."""


def run(ix: Index, what: Signing, workers: Workers) -> Suspects:
    """Run the pass."""
    for file in (what.digests, what.counts, *map(what.band, what.bands)):
        file.touch()
    starts = [0, *accumulate(part.rows for part in ix.parts)]
    read, lacking = [], {}
    for part, start in zip(ix.parts, starts, strict=False):
        wanted = what.parts_of(part)
        there = part.signed.holds(wanted) if part.signed else set()
        lacking[part.path] = set(wanted) - there
        if there and part.rows:
            read.append((part, start, there, what))
    units = [unit for unit in ix.units() if lacking[unit.part.path]]
    hits = [*workers.map(_read_part, read), *workers.map(_sign_unit, [(u, lacking[u.part.path], what) for u in units])]
    return Suspects(np.sort(np.concatenate([np.empty(0, np.int64), *hits])), sum(u.rows for u in units))


def _read_part(asked: tuple[Part, int, set[str], Signing]) -> np.ndarray:
    """Put what was made of a table's rows at its place; row numbers that meet a benchmark."""
    part, row, there, what = asked
    assert part.signed
    hits = []
    for signatures in table.read(part.signed.path, there, part.rows):
        hits.append(row + _put_all(what, row, signatures))
        row += signatures.rows
    return np.concatenate([np.empty(0, np.int64), *hits])


def _sign_unit(asked: tuple[Unit, set[str], Signing]) -> np.ndarray:
    """Sign one unit; row numbers that meet a benchmark."""
    unit, lacking, what = asked
    prepared = Prepared.open(what.benchmarks) if what.benchmarks and MEETINGS in lacking else None
    hits, held, start = [], [], unit.start
    for row, columns in index.compared(unit, BATCH):
        held.append(sign(columns, what.rule, prepared, lacking))
        if sum(s.rows for s in held) >= table.ROWS or row + held[-1].rows == unit.start + unit.rows:
            together = Signatures.joined(held)
            hits.append(start + _put_all(what, start, together))
            start, held = start + together.rows, []
    return np.concatenate([np.empty(0, np.int64), *hits])


def _put_all(what: Signing, row: int, s: Signatures) -> np.ndarray:
    """Put the signatures of some rows at their place; which of them meet a benchmark."""
    if s.digests is not None:
        _put(what.digests, row * 16, s.digests.tobytes())
    if s.counts is not None and s.keys is not None:
        _put(what.counts, row * 4, s.counts.tobytes())
        for b, keys in zip(what.bands, np.ascontiguousarray(s.keys.T), strict=True):
            _put(what.band(b), row * 8, keys.tobytes())
    return np.flatnonzero(s.meets) if s.meets is not None else np.empty(0, np.int64)


def _put(path: Path, offset: int, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        while data:
            n = os.pwrite(fd, data, offset)
            data, offset = data[n:], offset + n
    finally:
        os.close(fd)


def save(ix: Index, kept: np.ndarray, what: Signing, of: str, path: Path) -> dict[str, Any]:
    """Write the signatures of the pool that the merge makes, for the next round's.

    Args:
        ix: the rows.
        kept: ranks of the rows that it adds, ascending.
        what: the pass that was run, whose files are still there.
        of: SHA-256 of the pool's table.
        path: where they go.

    Returns:
        What the manifest says of them (`recorded.SignedTable`).
    """
    parts = {k: v for k, v in what.rule.parts.items() if k in (DIGESTS, BANDS)}
    schema = table.schema(parts, what.banding)
    rows = np.concatenate([np.arange(ix.pool), ix.row[kept]])
    if len(ix):
        digests = np.memmap(what.digests, np.uint8, "r").reshape(-1, 16)
        counts = np.memmap(what.counts, np.uint32, "r") if what.banding else None
        keys = [np.memmap(what.band(b), np.uint64, "r") for b in what.bands]
    with whole_table(path, schema, plain=True) as writer:
        for s in range(0, len(rows), table.ROWS):
            some = rows[s : s + table.ROWS]
            signatures = Signatures(
                digests[some],
                counts[some] if counts is not None else None,
                np.stack([k[some] for k in keys], axis=1) if keys else None,
                None,
            )
            writer.write_table(table.to_table(signatures, schema))
    return {"file": path.name, "rows": len(rows), **entry(path), "of": of, "parts": parts}


def texts_of(
    unit: Unit, batch: int = BATCH, rows: np.ndarray | None = None, as_prose: bool = False
) -> Iterator[tuple[int, list[bytes], list[bytes]]]:
    """Normal forms of what a unit's rows are compared by, texts and answers; of a row with context, of what was said
    before too.

    Args:
        unit: what to read.
        batch: rows at a time.
        rows: only these row numbers (ascending); all if none.
        as_prose: code counts no more than prose: what benchmarks are looked for in.

    Yields:
        Row number of the first, and the texts.
    """
    for row, columns in index.compared(unit, batch):
        if rows is not None:
            a, b = np.searchsorted(rows, [row, row + len(columns["response"])])
            if a == b:
                continue
            columns = {n: c.take(pa.array(rows[a:b] - row)) for n, c in columns.items()}
            row = int(rows[a])
        pair, coding = texts(columns)
        first, second = (normalise(t) if as_prose else compared(t, coding) for t in pair)
        yield row, first, second
