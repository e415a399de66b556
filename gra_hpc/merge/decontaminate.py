"""Decontamination: rows that share a run of n words with a benchmark, or whose instruction is one of its texts.

Every text field of a benchmark counts. Texts shorter than n words have no run of n words: they match only an
instruction that is the same as a whole. Hashes find suspects; words decide.
"""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gra_hpc import hub
from gra_hpc.errors import ConfigError
from gra_hpc.merge.words import Hashes, normalise, text_digest, windows, word_hashes

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

_KEY = "merge.decontamination.sources"
_FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
_QUOTED = 240
"""Characters of a span that are quoted."""


@dataclass(frozen=True)
class Text:
    """One text of a benchmark."""

    benchmark: str
    """Source as configured."""
    source: str
    """File, and for a directory its place within."""
    record: int
    """Line or row, from 1."""
    words: tuple[bytes, ...]


@dataclass(frozen=True)
class Prepared:
    """Hashes of the benchmarks, as workers use them."""

    ngrams: np.ndarray
    """uint64, ascending: hashes of all runs of n words."""
    wholes: np.ndarray
    """uint64, ascending: digests of texts shorter than n words."""
    size: int

    @classmethod
    def open(cls, path: Path) -> Prepared:
        import numpy as np

        with np.load(path) as z:
            return cls(z["ngrams"], z["wholes"], int(z["size"]))

    @cached_property
    def _filter(self) -> tuple[np.ndarray, np.uint64]:
        """A table of bits over hash prefixes: most words of most rows are settled by one look."""
        import numpy as np

        bits = min(27, max(12, len(self.ngrams).bit_length() + 4))
        shift = np.uint64(64 - bits)
        table = np.zeros(1 << bits, bool)
        table[self.ngrams >> shift] = True
        return table, shift

    def hits(self, words: Hashes, instructions: Sequence[bytes]) -> np.ndarray:
        """Rows of a batch that may meet a benchmark.

        Args:
            words: hashes of the words of instruction and response.
            instructions: normalised instructions.
        """
        import numpy as np

        rows = []
        if len(self.ngrams):
            w = windows(words, self.size, short=False)
            table, shift = self._filter
            maybe = np.flatnonzero(table[w.values >> shift])
            maybe = maybe[_member(w.values[maybe], self.ngrams)]
            rows.append(np.searchsorted(w.offsets, maybe, "right") - 1)
        if len(self.wholes):
            digests = np.array([_whole(t) for t in instructions], np.uint64)
            rows.append(np.flatnonzero(_member(digests, self.wholes)))
        return np.unique(np.concatenate([np.empty(0, np.int64), *rows]))


def _member(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    import numpy as np

    at = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return ordered[at] == values


def _whole(text: bytes) -> int:
    return int.from_bytes(text_digest(text)[:8], "little")


@dataclass(frozen=True)
class Match:
    """Where a row meets a benchmark."""

    benchmark: str
    """Source as configured."""
    source: str
    """File within it."""
    record: int
    field: str
    """instruction or response."""
    begin: int
    """First word of the shared run, in the normalised field."""
    end: int
    """Word after its last."""
    words: str

    def __str__(self) -> str:
        quoted = self.words if len(self.words) <= _QUOTED else self.words[:_QUOTED].rsplit(" ", 1)[0] + " ..."
        return f'{self.source}:{self.record} {self.field} words {self.begin + 1}-{self.end}: "{quoted}"'


class Benchmarks:
    """Texts of the configured benchmarks."""

    def __init__(self, sources: Sequence[str], size: int, found: Mapping[str, str] | None = None) -> None:
        """Read the benchmarks.

        Args:
            sources: files, directories, or Hub dataset ids in the local cache.
            size: words of a run.
            found: where sources were found when the run was planned.

        Raises:
            ConfigError: a source that does not exist or holds no text.
        """
        import numpy as np

        self.size = size
        self.sources = list(sources)
        self.texts: list[Text] = []
        self.counts: dict[str, int] = {}
        for source in sources:
            before = len(self.texts)
            for where, record, text in _texts(source, (found or {}).get(source, source)):
                words = tuple(normalise(text.encode("utf-8", "replace")).split())
                if words:
                    self.texts.append(Text(source, where, record, words))
            self.counts[source] = len(self.texts) - before
            if not self.counts[source]:
                raise ConfigError(f"{_KEY}: {source}: holds no text", "gra config show  (explains every key)")
        long = [i for i, t in enumerate(self.texts) if len(t.words) >= size]
        values, owners = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for s in range(0, len(long), 2000):
            some = long[s : s + 2000]
            w = windows(word_hashes([b" ".join(self.texts[i].words) for i in some]), size, short=False)
            values.append(w.values)
            owners.append(np.asarray(some)[w.rows()])
        self._ngrams, first = np.unique(np.concatenate(values), return_index=True)
        self._owners = np.concatenate(owners)[first]
        self._wholes: dict[int, int] = {}
        for i, t in enumerate(self.texts):
            if len(t.words) < size:
                self._wholes.setdefault(_whole(b" ".join(t.words)), i)

    def save(self, path: Path) -> None:
        """Write the hashes for `Prepared`."""
        import numpy as np

        wholes = np.array(sorted(self._wholes), np.uint64)
        with path.open("wb") as f:
            np.savez(f, ngrams=self._ngrams, wholes=wholes, size=self.size)

    def match(self, instruction: bytes, response: bytes) -> Match | None:
        """The longest run of words that a row shares with the first benchmark text it meets, or none.

        Args:
            instruction: normalised.
            response: normalised.
        """
        best: Match | None = None
        for field, text in (("instruction", instruction), ("response", response)):
            for match in self._runs(field, text.split()):
                if best is None or match.end - match.begin > best.end - best.begin:
                    best = match
        if best is None:
            owner = self._wholes.get(_whole(instruction))
            if owner is not None:
                t, words = self.texts[owner], instruction.split()
                if b"".join(t.words) == b"".join(words):
                    return _match(t, "instruction", 0, words)
        return best

    def _runs(self, field: str, words: list[bytes]) -> Iterator[Match]:
        import numpy as np

        if len(words) < self.size or not len(self._ngrams):
            return
        values = windows(word_hashes([b" ".join(words)]), self.size, short=False).values
        at = np.minimum(np.searchsorted(self._ngrams, values), len(self._ngrams) - 1)
        for i in np.flatnonzero(self._ngrams[at] == values).tolist():
            t = self.texts[self._owners[at[i]]]
            run = tuple(words[i : i + self.size])
            for j in range(len(t.words) - self.size + 1):
                if t.words[j : j + self.size] == run:
                    end = self.size
                    while (
                        i + end < len(words) and j + end < len(t.words) and words[i + end] == t.words[j + end]
                    ):
                        end += 1
                    yield _match(t, field, i, words[i : i + end])
                    break


def _match(text: Text, field: str, begin: int, words: Sequence[bytes]) -> Match:
    joined = b" ".join(words).decode("utf-8", "replace")
    return Match(text.benchmark, text.source, text.record, field, begin, begin + len(words), joined)


def _texts(source: str, place: str) -> Iterator[tuple[str, int, str]]:
    """Texts of a source: where, record number, text.

    Args:
        place: where it lies; the source itself if that is not known.
    """
    path = Path(place)
    if path.is_file():
        for record, text in _read(path, source):
            yield path.name, record, text
        return
    label = source if hub.ID.fullmatch(source) and not Path(source).is_dir() else path.name
    directory = path if path.is_dir() else _from_hub(source)
    files = sorted(f for f in directory.rglob("*") if f.suffix.lower() in _FORMATS and f.is_file())
    files = [f for f in files if not any(p.startswith(".") for p in f.relative_to(directory).parts)]
    if not files:
        raise ConfigError(f"{_KEY}: {source}: no {', '.join(_FORMATS)} file in it")
    for file in files:
        for record, text in _read(file, source):
            yield f"{label}/{file.relative_to(directory)}", record, text


def _from_hub(source: str) -> Path:
    """The cached snapshot of a Hub dataset; nothing is downloaded here."""
    found = hub.find(source, "", "dataset")
    if found is None:
        raise ConfigError(
            f"{_KEY}: {source}: no such file or directory, and no Hub dataset of this id in the local cache",
            f"gra stage datasets/{source}  (on a machine with network)",
        )
    return found


def _read(path: Path, source: str) -> Iterator[tuple[int, str]]:
    """Texts of a file with their line or row number, from 1."""
    kind = path.suffix.lower()
    where = ""
    try:
        if kind == ".jsonl":
            with path.open(encoding="utf-8") as f:
                for n, line in enumerate(f, 1):
                    where = f":{n}"
                    if line.strip():
                        yield from ((n, t) for t in _strings(json.loads(line)))
        elif kind == ".json":
            data = json.loads(path.read_text(encoding="utf-8"))
            for n, record in enumerate(_records(data), 1):
                yield from ((n, t) for t in _strings(record))
        elif kind in (".csv", ".tsv"):
            csv.field_size_limit(1 << 30)
            with path.open(encoding="utf-8", newline="") as f:
                for n, row in enumerate(csv.reader(f, delimiter="\t" if kind == ".tsv" else ","), 1):
                    yield from ((n, t) for t in row)
        elif kind == ".parquet":
            import pyarrow.parquet as pq

            with pq.ParquetFile(path) as file:
                n = 0
                for batch in file.iter_batches(1000):
                    for record in batch.to_pylist():
                        n += 1
                        yield from ((n, t) for t in _strings(record))
        elif kind == ".txt":
            with path.open(encoding="utf-8") as f:
                yield from enumerate(f, 1)
        else:
            raise ConfigError(f"{_KEY}: {source}: expected one of {', '.join(_FORMATS)}")
    except (OSError, ValueError, csv.Error) as e:
        why = os.strerror(e.errno) if isinstance(e, OSError) and e.errno else e
        raise ConfigError(f"{_KEY}: {path}{where}: cannot be read ({why})") from None


def _records(data: Any) -> list[Any]:
    """Records of a JSON document: a list, or the longest list in its top level, or the document."""
    if isinstance(data, list):
        return data
    if isinstance(data, dict):
        lists = [v for v in data.values() if isinstance(v, list)]
        if lists:
            return max(lists, key=len)
    return [data]


def _strings(value: Any) -> Iterator[str]:
    """All strings inside a record."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from _strings(v)
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from _strings(v)
