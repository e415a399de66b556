"""Decontamination: rows that share a run of n words with a benchmark, or that are one of its texts.

Every text field of a benchmark counts. A row is read as one text, so a run may begin in its instruction and end in its
response. A benchmark's text of n words or more that a row repeats is such a run; a shorter one matches only a whole: an
instruction, an instruction with its response, or a response of at least n/2 words (`yes` and `42` answer many
questions). Hashes find suspects; words decide. A row counts for every benchmark that it meets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np

from gra_hpc.errors import ConfigError
from gra_hpc.sources.benchmarks import KEY, BenchmarkPin, texts_of, unread
from gra_hpc.text.normal_form import joined, normalise
from gra_hpc.text.words import Hashes, text_digest, windows, word_hashes

_QUOTED = 240
"""Characters of a span that are quoted."""
INSTRUCTION, RESPONSE, BOTH = "instruction", "response", "instruction and response"


@dataclass(frozen=True)
class Text:
    """One text of a benchmark."""

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
        with np.load(path) as z:
            return cls(z["ngrams"], z["wholes"], int(z["size"]))

    @cached_property
    def _filter(self) -> tuple[np.ndarray, np.uint64]:
        """A table of bits over hash prefixes: most words of most rows are settled by one look."""
        bits = min(27, max(12, len(self.ngrams).bit_length() + 4))
        shift = np.uint64(64 - bits)
        table = np.zeros(1 << bits, bool)
        table[self.ngrams >> shift] = True
        return table, shift

    def hits(self, words: Hashes, instructions: Sequence[bytes], responses: Sequence[bytes]) -> np.ndarray:
        """Rows of a batch that may meet a benchmark.

        Args:
            words: hashes of the words of the rows, as one text each.
            instructions: in normal form.
            responses: in normal form.
        """
        rows = []
        if len(self.ngrams):
            w = windows(words, self.size, short=False)
            table, shift = self._filter
            maybe = np.flatnonzero(table[w.values >> shift])
            maybe = maybe[_member(w.values[maybe], self.ngrams)]
            rows.append(np.searchsorted(w.offsets, maybe, "right") - 1)
        if len(self.wholes):
            found = [
                (n, _whole(text))
                for n, (i, r) in enumerate(zip(instructions, responses, strict=True))
                for _, text in _wholes(i, r, self.size)
            ]
            digests = np.array([d for _, d in found], np.uint64)
            rows.append(np.array([n for n, _ in found], np.int64)[_member(digests, self.wholes)])
        return np.unique(np.concatenate([np.empty(0, np.int64), *rows]))


def _member(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    at = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return ordered[at] == values


def _whole(text: bytes) -> int:
    return int.from_bytes(text_digest(text)[:8], "little")


def _wholes(instruction: bytes, response: bytes, size: int) -> Iterator[tuple[str, bytes]]:
    """What of a row may equal a text of fewer than `size` words, and which field it is."""
    first, second = (t.count(b" ") + 1 if t else 0 for t in (instruction, response))
    if 0 < first < size:
        yield INSTRUCTION, instruction
    if size <= 2 * second < 2 * size:
        yield RESPONSE, response
    if first and second and first + second <= size:  # a symbol between may make one word of two
        yield BOTH, joined(instruction, response)


@dataclass(frozen=True)
class Match:
    """Where a row meets a benchmark."""

    benchmark: str
    """Source as configured."""
    source: str
    """File within it."""
    record: int
    field: str
    """instruction, response, or instruction and response."""
    begin: int
    """First word of the shared run, in the field's normal form."""
    end: int
    """Word after its last."""
    words: str

    def __str__(self) -> str:
        quoted = self.words if len(self.words) <= _QUOTED else self.words[:_QUOTED].rsplit(" ", 1)[0] + " ..."
        return f'{self.source}:{self.record} {self.field} words {self.begin + 1}-{self.end}: "{quoted}"'


class Benchmark:
    """The texts of one benchmark, to be found in rows."""

    def __init__(self, source: str, pin: BenchmarkPin, size: int) -> None:
        """Read the benchmark.

        Args:
            source: as configured.
            pin: where and what it was when the run was planned.
            size: words of a run.

        Raises:
            ConfigError: it is gone, has changed since, or holds no text.
        """
        self.source, self.pin, self.size = source, pin, size
        self.unread = unread(pin)
        self.texts: list[Text] = []
        found = texts_of(source, pin)
        while batch := list(islice(found, 2000)):
            normal = normalise(text.encode("utf-8", "replace") for *_, text in batch)
            for (where, record, _), form in zip(batch, normal, strict=True):
                if form:
                    self.texts.append(Text(where, record, tuple(form.split())))
        if not self.texts:
            raise ConfigError(f"{KEY}: {source}: holds no text", "gra config show  (explains every key)")
        long = [i for i, t in enumerate(self.texts) if len(t.words) >= size]
        values = [np.empty(0, np.uint64)]
        owners, places = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
        for s in range(0, len(long), 2000):
            some = long[s : s + 2000]
            w = windows(word_hashes([b" ".join(self.texts[i].words) for i in some]), size, short=False)
            rows = w.rows()
            values.append(w.values)
            owners.append(np.asarray(some, np.int32)[rows])
            places.append((np.arange(len(rows)) - w.offsets[rows]).astype(np.int32))
        self.ngrams, first = np.unique(np.concatenate(values), return_index=True)
        """Hashes of its runs of n words, uint64, ascending."""
        self._owners, self._places = np.concatenate(owners)[first], np.concatenate(places)[first]
        self.wholes: dict[int, int] = {}
        """Texts shorter than n words, by their digests."""
        for i, t in enumerate(self.texts):
            if len(t.words) < size:
                self.wholes.setdefault(_whole(b" ".join(t.words)), i)

    def match(self, words: Sequence[bytes], values: np.ndarray, border: int) -> Match | None:
        """The longest run that a row shares with the first text that has its first n words, or none.

        Args:
            words: the row's.
            values: hashes of its runs of n words.
            border: how many of its words are the instruction's.
        """
        best, length, past = None, 0, 0
        if len(self.ngrams):
            at = np.minimum(np.searchsorted(self.ngrams, values), len(self.ngrams) - 1)
            for i in np.flatnonzero(self.ngrams[at] == values).tolist():
                if i < past:  # within the run before
                    continue
                text, j = self.texts[self._owners[at[i]]], int(self._places[at[i]])
                n, most = 0, min(len(words) - i, len(text.words) - j)
                while n < most and words[i + n] == text.words[j + n]:
                    n += 1
                if n < self.size:  # equal hashes of other words
                    continue
                past = i + n - self.size + 1
                if n > length:
                    best, length = (text, i), n
        if best is None:
            return None
        text, begin = best
        end = begin + length
        field = INSTRUCTION if end <= border else RESPONSE if begin >= border else BOTH
        return self._match(text, field, words[begin:end], begin - (border if field == RESPONSE else 0))

    def match_whole(self, field: str, words: Sequence[bytes], digest: int) -> Match | None:
        """The short text that a whole field equals, or none."""
        found = self.wholes.get(digest)
        if found is None or self.texts[found].words != tuple(words):
            return None
        return self._match(self.texts[found], field, words, 0)

    def _match(self, text: Text, field: str, words: Sequence[bytes], begin: int) -> Match:
        quoted = b" ".join(words).decode("utf-8", "replace")
        return Match(self.source, text.source, text.record, field, begin, begin + len(words), quoted)


class Benchmarks:
    """The configured benchmarks."""

    def __init__(self, pins: Mapping[str, BenchmarkPin], size: int) -> None:
        """Read the benchmarks.

        Args:
            pins: sources as configured, and where and what they were when the run was planned.
            size: words of a run.

        Raises:
            ConfigError: a source that is gone, has changed since, or holds no text.
        """
        self.size = size
        self.each = [Benchmark(source, pin, size) for source, pin in pins.items()]

    def prepared(self) -> Prepared:
        """Their hashes."""
        ngrams = np.unique(np.concatenate([np.empty(0, np.uint64), *(b.ngrams for b in self.each)]))
        wholes = np.array(sorted({d for b in self.each for d in b.wholes}), np.uint64)
        return Prepared(ngrams, wholes, self.size)

    def save(self, path: Path) -> None:
        """Write the hashes for `Prepared.open`."""
        p = self.prepared()
        with path.open("wb") as f:
            np.savez(f, ngrams=p.ngrams, wholes=p.wholes, size=p.size)

    def match(self, instruction: bytes, response: bytes) -> list[Match]:
        """Where a row meets benchmarks: of each the longest run, or else the text that a field equals.

        Args:
            instruction: in normal form.
            response: in normal form.
        """
        row = joined(instruction, response)
        words = row.split()
        border = len(words) - len(response.split())
        values = windows(word_hashes([row]), self.size, short=False).values
        wholes = [(f, t.split(), _whole(t)) for f, t in _wholes(instruction, response, self.size)]
        matches = []
        for b in self.each:
            match = b.match(words, values, border) or next(filter(None, (b.match_whole(*w) for w in wholes)), None)
            if match:
                matches.append(match)
        return matches
