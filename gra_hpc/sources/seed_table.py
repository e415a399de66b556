"""Seeds by the million: columns, not objects. In memory are `MOST_IN_MEMORY` of columns and the seeds of one batch."""

from __future__ import annotations

import os
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from hashlib import blake2b
from itertools import accumulate, chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast, overload

from gra_hpc.conversation import shown
from gra_hpc.parquet import column, whole_table
from gra_hpc.records import Record, digest, record_schema

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 8192
"""Rows written to, or read from, a Parquet table at once."""
MOST_TEXT = 4 << 20
"""Characters of text that seeds wait with, as objects, to be laid out; the seed that passes it is the last."""
MOST_IN_MEMORY = 64 << 20
"""Bytes of columns in memory; where there are more, all lie in a file."""


class Seed(NamedTuple):
    """What is kept of a seed; the other fields of a `Record` follow from it."""

    id: str
    instruction: str
    response: str
    domain: str
    keywords: tuple[str, ...]
    summary: str
    source: str
    thoughts: str
    context: str

    @property
    def record(self) -> Record:
        return Record(
            id=self.id,
            instruction=self.instruction,
            response=self.response,
            domain=self.domain,
            keywords=self.keywords,
            summary=self.summary,
            seed_id=self.id,
            source=self.source,
            thoughts=self.thoughts,
            context=self.context,
        )


_AS_SEED = cast(Callable[[Iterable[Any]], Seed], partial(tuple.__new__, Seed))
"""A seed of its nine fields, in a third of the time."""
_PLAIN = b'["%b","",[],""]'
"""What is digested of a seed of which nothing is said, around its id, as `digest` writes it."""


class Seeds(Sequence[Record]):
    """Seeds in their order. Added to at the end, read anywhere.

    Batches, of `BATCH` seeds or of `MOST_TEXT`, are laid out by Arrow and lie one after the other in a file that has no
    name, so that nothing of it outlives the process; it is in memory as long as it is small. A set of seeds below one
    batch needs no Arrow. Writing them takes `BATCH` seeds in memory at once, however long they are.

    Args:
        beside: a path in whose directory the file may be, as the table of seeds will; none: where temporary files are.
    """

    def __init__(self, beside: Path | None = None) -> None:
        there = next((p for p in beside.absolute().parents if p.is_dir()), None) if beside else None
        usable = there is not None and os.access(there, os.W_OK)
        self._file = tempfile.SpooledTemporaryFile(MOST_IN_MEMORY, dir=str(there) if usable else None)  # noqa: SIM115
        self._batches: list[tuple[int, int]] = []
        """Of each batch, where it begins in the file and how many bytes it has."""
        self._starts: list[int] = [0]
        """Of each batch its first seed, and at the end that of the tail. Every multiple of `BATCH` is one of them."""
        self._tail: list[Seed] = []
        self._text = 0
        """Characters of the tail."""
        self._digest = blake2b(digest_size=16)
        self.described = self.with_thoughts = self.with_context = self.unanswered = 0
        """How many of them are described, have thoughts, have context, have no response."""
        self.context_bytes = 0
        """Of all contexts as prompts show them, in UTF-8, beyond the instructions, which are their ends."""

    def add(self, seed: Seed) -> None:
        """One more.

        Raises:
            OSError: there is no room for it.
        """
        if seed.domain or seed.keywords or seed.summary or seed.thoughts:
            self.described += bool(seed.domain and seed.keywords and seed.summary)
            self.with_thoughts += bool(seed.thoughts)
            parts = [
                seed.id,
                seed.domain,
                list(seed.keywords),
                seed.summary,
                *([seed.thoughts] if seed.thoughts else []),
            ]
            self._digest.update(bytes.fromhex(digest(*parts)))
        else:  # the same, written by hand
            self._digest.update(blake2b(_PLAIN % seed.id.encode(), digest_size=16).digest())
        if seed.context:
            self.with_context += 1
            self.context_bytes += max(0, _bytes(shown(seed.context)) - _bytes(seed.instruction))
        self.unanswered += not seed.response
        if self._text >= MOST_TEXT or (self._tail and len(self) % BATCH == 0):
            self._lay_out()
        self._tail.append(seed)
        self._text += sum(map(len, seed)) - len(seed.keywords) + sum(map(len, seed.keywords))

    def extend(
        self, ids: Sequence[str], instructions: Sequence[str], responses: Sequence[str], sources: Sequence[str]
    ) -> None:
        """Further ones, of which nothing else is said: as `add`, in a third of the time.

        Raises:
            OSError: there is no room for them.
        """
        said = [blake2b(_PLAIN % id_.encode(), digest_size=16).digest() for id_ in ids]
        self._digest.update(b"".join(said))
        self.unanswered += responses.count("")
        columns = (ids, instructions, responses, sources)
        seeds = list(
            map(_AS_SEED, zip(*columns[:3], *map(repeat, ("", (), "")), sources, *map(repeat, ("", "")), strict=False))
        )
        begin = 0
        while begin < len(seeds):
            if self._text >= MOST_TEXT or (self._tail and len(self) % BATCH == 0):
                self._lay_out()
            end = begin + BATCH - len(self) % BATCH
            left = MOST_TEXT - self._text
            size = sum(map(len, chain.from_iterable(column[begin:end] for column in columns)))
            if size > left:
                lengths = map(len, map("".join, zip(*(column[begin:end] for column in columns), strict=True)))
                passing, size = next((i, s) for i, s in enumerate(accumulate(lengths)) if s >= left)
                end = begin + passing + 1
            self._tail += seeds[begin:end]
            self._text += size
            begin = end

    @property
    def digest(self) -> str:
        """Digest of the seeds and their order; where they lay does not count."""
        return self._digest.hexdigest()

    def __len__(self) -> int:
        return self._starts[-1] + len(self._tail)

    def __iter__(self) -> Iterator[Record]:
        for i in range(len(self._batches)):
            for seed in _rows(self._batch(i)):
                yield seed.record
        for seed in self._tail:
            yield seed.record

    @overload
    def __getitem__(self, at: int) -> Record: ...
    @overload
    def __getitem__(self, at: slice) -> list[Record]: ...
    def __getitem__(self, at: int | slice) -> Record | list[Record]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        row = range(len(self))[at]
        number = bisect_right(self._starts, row) - 1
        row -= self._starts[number]
        if number == len(self._batches):
            return self._tail[row].record
        return next(_rows(self._batch(number).slice(row, 1))).record

    def texts(self) -> Iterator[tuple[str, str]]:
        """Instruction and response of each."""
        for i in range(len(self._batches)):
            batch = self._batch(i)
            yield from zip(batch.column("instruction").to_pylist(), batch.column("response").to_pylist(), strict=True)
        yield from ((seed.instruction, seed.response) for seed in self._tail)

    def ids(self) -> Iterator[str]:
        """The id of each."""
        for i in range(len(self._batches)):
            yield from self._batch(i).column("id").to_pylist()
        yield from (seed.id for seed in self._tail)

    def write(self, path: Path) -> None:
        """Write them as a Parquet table of `records.record_schema`, whole or not at all; with columns of thoughts and
        context where any seed has them."""
        import pyarrow as pa

        schema = record_schema(thoughts=self.with_thoughts > 0, context=self.with_context > 0)

        @cache
        def same(name: str, value: int | None, rows: int) -> pa.Array:
            return column([value] * rows, schema.field(name).type)

        with whole_table(path, schema) as writer:
            for group in self._groups():
                rows = group.num_rows
                given = {name: group.column(name) for name in group.schema.names}
                given["seed_id"] = given["id"]
                given["score"], given["round"] = same("score", None, rows), same("round", 0, rows)
                writer.write_table(pa.Table.from_arrays([given[name] for name in schema.names], schema=schema))

    def _groups(self) -> Iterator[pa.Table]:
        """`BATCH` seeds after the other, so that a table of them is the same whatever batches they lie in."""
        import pyarrow as pa

        group: list[pa.RecordBatch] = []
        for number, end in enumerate(self._starts[1:]):
            group.append(self._batch(number))
            if end % BATCH == 0:
                yield pa.Table.from_batches(group).combine_chunks()
                group = []
        if self._tail:
            group.append(_laid_out(self._tail))
        if group:
            yield pa.Table.from_batches(group).combine_chunks()

    def _lay_out(self) -> None:
        data = _laid_out(self._tail).serialize()
        begin = sum(self._batches[-1]) if self._batches else 0
        if begin + data.size > MOST_IN_MEMORY:
            self._file.rollover()  # by itself it does so once all is in memory
        self._file.seek(begin)
        self._file.write(data)
        self._batches.append((begin, data.size))
        self._starts.append(len(self))
        self._tail, self._text = [], 0

    def _batch(self, number: int) -> pa.RecordBatch:
        import pyarrow as pa

        begin, size = self._batches[number]
        self._file.seek(begin)
        return pa.ipc.read_record_batch(pa.py_buffer(self._file.read(size)), _schema())


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([record_schema(thoughts=True, context=True).field(name) for name in Seed._fields])


def _laid_out(seeds: Sequence[Seed]) -> pa.RecordBatch:
    import pyarrow as pa

    schema = _schema()
    columns = [column(list(values), f.type) for values, f in zip(zip(*seeds, strict=True), schema, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _rows(batch: pa.RecordBatch) -> Iterator[Seed]:
    given: dict[str, list[Any]] = {name: batch.column(name).to_pylist() for name in Seed._fields}
    given["keywords"] = list(map(tuple, given["keywords"]))
    return map(Seed._make, zip(*given.values(), strict=True))


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
