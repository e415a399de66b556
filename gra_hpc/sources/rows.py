"""Rows out of any dataset: JSONL, JSON, CSV, TSV and Parquet files, directories of them, and `datasets`.

Text is decoded and split here, line by line, so that one bad line costs one row: such a row carries a `Problem` instead
of a value. Only what cannot be read at all raises a `SeedError`. Which files a path stands for: `files`.
"""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

import orjson

from gra_hpc.errors import SeedError
from gra_hpc.models import hub
from gra_hpc.sources import lines, mistaken, separators
from gra_hpc.sources.files import (
    LINES,
    READ_ERRORS,
    SPLITS,
    TABLES,
    data_files,
    excerpt,
    find_file,
    kind_of,
    of_split,
    open_unpacked,
)

if TYPE_CHECKING:
    import pyarrow as pa

MALFORMED, ENCODING, LONG_LINE = "malformed", "encoding", "long_line"

ARROW_BATCH = 1024
"""Rows of Parquet and `datasets` that are decoded at once."""

LISTS = ("data", "train", "examples", "records", "rows")
"""Keys under which a JSON object holds its records."""

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row has no value."""

    reason: str
    """malformed, encoding or long_line."""
    detail: str
    excerpt: str = ""


class Row(NamedTuple):
    """One row of a source."""

    file: str
    """File name (within its directory), or the dataset's id."""
    line: int
    """First line of the row in a text file; elsewhere its number. Both start at 1."""
    value: Any = None
    problem: Problem | None = None


_AS_ROW = cast(Callable[[Iterable[Any]], Row], partial(tuple.__new__, Row))
"""A row of its four fields, in a third of the time."""


class Source:
    """The rows of a file, a directory or a dataset, in order.

    Args:
        path: file or directory, absolute or relative to the working directory or the configs; else a Hub dataset id.
        name: configuration name of a dataset.
        split: split of a dataset.
        revision: commit of a Hub dataset.
        wanted: columns to decode in columnar sources; empty, or none of them there: all.
        scratch: `site.scratch`, where `gra fetch` puts Hub datasets.
        together: lines that are parsed together; so many may be read ahead.

    Raises:
        SeedError: nothing of that name, or nothing readable in it.
    """

    def __init__(
        self,
        path: str,
        name: str = "",
        split: str = "train",
        revision: str = "",
        wanted: Collection[str] = (),
        scratch: str = "",
        together: int = 1,
    ) -> None:
        self.together = together
        self.path, self.name, self.split, self.revision = path, name, split, revision
        self.wanted, self.scratch = frozenset(wanted), scratch
        self.columns: dict[str, None] = {}
        """Names of all columns or keys seen so far, in order."""
        self.local = find_file(path)
        self.files = data_files(self.local) if self.local else []
        self.other_splits: list[Path] = []
        """Files of a directory that are named after another split."""
        if self.local and self.local.is_dir():
            self.files, self.other_splits = of_split(self.files, split)

    @property
    def label(self) -> str:
        """What was read, for people."""
        if self.files:
            return self.path
        parts = [self.name, self.split, self.revision and f"revision {self.revision}"]
        return f"{self.path} ({', '.join(p for p in parts if p)})"

    def __iter__(self) -> Iterator[Row]:
        if not self.files:
            yield from self._dataset()
        for file in self.files:
            label = excerpt(file.name)
            try:
                yield from self._file(file, label)
            except READ_ERRORS as e:
                why = getattr(e, "strerror", None) or e
                raise SeedError(f"{file}: {why}", "check seeds.path") from None

    def _file(self, path: Path, label: str) -> Iterator[Row]:
        kind = kind_of(path)
        if kind == ".parquet":
            yield from self._parquet(path, label)
            return
        with open_unpacked(path) as f:
            head = f.read(mistaken.HEAD)
            mistaken.refuse_packed(path, head)
            if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise SeedError(
                    f"{path}: UTF-16, expected UTF-8", f"iconv -f UTF-16 -t UTF-8 {path} > new{path.suffix}"
                )
            f.seek(len(BOM) if head.startswith(BOM) else 0)
            if kind in TABLES:
                rows = self._csv(f, path, label, TABLES[kind])
            elif kind in LINES or lines.one_object_each(f):
                rows = self._jsonl(f, label)
            else:
                rows = self._json(f, path, label)
            yield from rows

    def _jsonl(self, f: IO[bytes], label: str) -> Iterator[Row]:
        pieces, number = lines.pieces_of(f), 0
        while self.together > 1 and (block := list(islice(pieces, self.together))):
            if max(map(len, block)) == lines.LINE_BYTES:
                pieces = chain(block, pieces)
                break
            numbers = range(number + 1, number + len(block) + 1)
            number = numbers[-1]
            if (values := lines.parsed(block)) is None:
                yield from self._one_by_one(zip(numbers, block, strict=True), label)
                continue
            if not self.columns.keys() >= set(chain.from_iterable(v for v in values if type(v) is dict)):
                for value in values:
                    self._see(value)
            yield from map(_AS_ROW, zip(repeat(label), numbers, values, repeat(None), strict=False))
        yield from self._one_by_one(lines.numbered(pieces, number), label)

    def _one_by_one(self, numbered: Iterable[tuple[int, bytes | None]], label: str) -> Iterator[Row]:
        for number, line in numbered:
            if line is None:
                problem = Problem(LONG_LINE, f"longer than {lines.LINE_BYTES >> 20} MiB")
                yield Row(label, number, problem=problem)
                continue
            line = line.strip()
            if not line:  # a blank line is no record
                continue
            try:
                value = lines.loads(line)
            except orjson.JSONDecodeError as e:
                yield Row(label, number, problem=_json_problem(line, e))
                continue
            self._see(value)
            yield Row(label, number, value)

    def _json(self, f: IO[bytes], path: Path, label: str) -> Iterator[Row]:
        data = f.read()
        if not data.strip():
            return
        try:
            value = lines.loads(data)
        except orjson.JSONDecodeError as e:
            problem = _json_problem(data, e)
            raise SeedError(
                f"{path} line {e.lineno}: {problem.detail}", "expected a list of objects; one per line: use .jsonl"
            ) from None
        if isinstance(value, dict):
            key = self._records_key(value, path)
            value = value[key] if key else [value]
        if not isinstance(value, list):
            raise SeedError(
                f"{path}: {type(value).__name__}, expected a list of objects",
                "[{...}, {...}], or one object a line in a .jsonl file",
            )
        for number, item in enumerate(value, 1):
            self._see(item)
            yield Row(label, number, item)

    def _records_key(self, value: dict[str, Any], path: Path) -> str | None:
        """The key under which an object holds its records; none: it is one record itself.

        Raises:
            SeedError: several keys hold records, and `seeds.split` does not choose between them.
        """
        key = next((k for k in (self.split, *LISTS) if k in {*LISTS, *SPLITS} and isinstance(value.get(k), list)), None)
        held = [k for k, v in value.items() if isinstance(v, list) and v and isinstance(v[0], dict)]
        if key and set(held) - {key} and not (key == self.split and set(held) <= set(SPLITS)):
            raise SeedError(
                f"{path}: records under {', '.join(held)}: expected under one key", "give each list a file of its own"
            )
        return key

    def _csv(self, f: IO[bytes], path: Path, label: str, delimiter: str) -> Iterator[Row]:
        csv.field_size_limit(lines.LINE_BYTES)
        reader = csv.reader(_csv_lines(f, path), delimiter=delimiter, strict=True)
        try:
            header = [name.strip() for name in next((row for row in reader if row), [])]
        except csv.Error as e:
            raise SeedError(f"{path} line {reader.line_num}: not a CSV header ({e})") from None
        separators.refuse_another(f, path, header, delimiter, self.wanted)
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            where = f"{path} line {reader.line_num}"
            raise SeedError(f"{where}: column {excerpt(twice[0]) or '(empty name)'} is there twice")
        self.columns.update(dict.fromkeys(header))
        while True:
            start = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as e:
                yield Row(label, start, problem=Problem(MALFORMED, f"not CSV: {e}"))
                for line in range(start + 1, reader.line_num + 1):
                    why = f"swallowed by the quote that line {start} opens"
                    yield Row(label, line, problem=Problem(MALFORMED, why))
                continue
            if not cells:  # a blank line is no record
                continue
            if len(cells) != len(header):
                problem = Problem(
                    MALFORMED, f"{len(cells)} columns, expected {len(header)}", excerpt(" | ".join(cells))
                )
                yield Row(label, start, problem=problem)
                continue
            yield Row(label, start, dict(zip(header, cells, strict=True)))

    def _parquet(self, path: Path, label: str) -> Iterator[Row]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        number = 0
        try:
            with pq.ParquetFile(path) as table:
                names = table.schema_arrow.names
                for batch in table.iter_batches(ARROW_BATCH, columns=self._choose(names)):
                    yield from _arrow_rows(batch, label, number)
                    number += batch.num_rows
        except (pa.ArrowException, OSError, ValueError) as e:
            raise SeedError(f"{path}: not readable as Parquet after row {number} ({excerpt(e, 200)})") from None

    def refuse_unreachable(self) -> None:
        """Refuse a dataset of the Hub that lies on no disk here, where the Hub cannot be reached.

        Raises:
            SeedError: with what to type.
        """
        if hub.find(self.path, self.revision, "dataset", self.scratch) or hub.prepared(self.path):
            return
        if why := hub.unreachable():
            raise SeedError(
                f"{self.path}: no file or directory of that name, and the Hub cannot be reached from here ({why})",
                f"gra fetch datasets/{self.path} on a machine that has a network; for a file: seeds.path=FILE",
            )

    def _dataset(self) -> Iterator[Row]:
        if not self.local:
            self.refuse_unreachable()
        try:
            import datasets
        except ImportError:
            raise SeedError(f"{self.path}: the package datasets is missing", "pip install datasets") from None
        number = 0
        if not os.isatty(2):
            datasets.disable_progress_bars()
        # Not a line for each retry: one answer, below.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        try:
            if self.local and any((self.local / n).is_file() for n in ("state.json", "dataset_dict.json")):
                table = datasets.load_from_disk(str(self.local))
                if isinstance(table, datasets.DatasetDict):
                    table = table[self.split]
            else:
                staged = None if self.local else hub.find(self.path, self.revision, "dataset", self.scratch)
                table = datasets.load_dataset(
                    str(self.local or staged or self.path),
                    self.name or None,
                    split=self.split,
                    revision=None if staged else self.revision or None,
                )
            table = table.select_columns(self._choose(table.column_names)).with_format("arrow")
            for batch in table.iter(batch_size=ARROW_BATCH):
                yield from _arrow_rows(batch, self.path, number)
                number += batch.num_rows
        except Exception as e:  # whatever it is, the user gets its words in one line
            raise SeedError(
                f"{self.label}: datasets cannot load it: {type(e).__name__}: {excerpt(e, 300)}",
                "check seeds.path (there is no file of that name either), seeds.name and seeds.split; without a"
                f" network: gra fetch datasets/{self.path} on a machine that has one"
                if not self.local
                else "check seeds.path, seeds.name and seeds.split",
            ) from None

    def _choose(self, names: list[str]) -> list[str]:
        self.columns.update(dict.fromkeys(names))
        return [n for n in names if n in self.wanted or n.casefold() in self.wanted] or names

    def _see(self, value: object) -> None:
        if isinstance(value, dict) and len(self.columns) < 1000:
            for key in value:  # nearly always known
                if key not in self.columns:
                    self.columns[key] = None


def _csv_lines(f: IO[bytes], path: Path) -> Iterator[str]:
    """Decoded lines; bytes that are not UTF-8 become lone surrogates, which no valid text holds."""
    for number, line in lines.numbered(lines.pieces_of(f)):
        if line is None:
            raise SeedError(f"{path} line {number}: longer than {lines.LINE_BYTES >> 20} MiB, not a table of text")
        yield line.decode("utf-8", "surrogateescape")


def _json_problem(data: bytes, error: orjson.JSONDecodeError) -> Problem:
    try:
        data.decode()
    except UnicodeDecodeError as e:
        return Problem(ENCODING, f"not UTF-8: byte 0x{data[e.start]:02x} at {e.start + 1}", excerpt(data))
    words = str(error).partition(": line ")[0]
    return Problem(MALFORMED, f"not JSON: {words} at column {error.colno}", excerpt(data))


def _arrow_rows(batch: pa.RecordBatch | pa.Table, label: str, before: int) -> Iterator[Row]:
    """Rows of a batch; where a value cannot be decoded, its row alone has the problem."""
    try:
        values = batch.to_pylist()
    except (ValueError, OverflowError):
        for i in range(batch.num_rows):
            try:
                yield Row(label, before + i + 1, batch.slice(i, 1).to_pylist()[0])
            except UnicodeDecodeError as e:
                yield Row(label, before + i + 1, problem=Problem(ENCODING, "not UTF-8", excerpt(e.object)))
            except (ValueError, OverflowError) as e:
                yield Row(label, before + i + 1, problem=Problem(MALFORMED, excerpt(e)))
        return
    for i, value in enumerate(values):
        yield Row(label, before + i + 1, value)
