"""Decontamination: rows that share a run of n words with a benchmark, or whose instruction is one of its texts.

Every text field of a benchmark counts. Texts shorter than n words have no run of n words: they match only an
instruction that is the same as a whole. Hashes find suspects; words decide.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from gra_hpc.benchmark_files import KEY, BenchmarkPin, texts, unread
from gra_hpc.errors import ConfigError
from gra_hpc.merge.normal import normalise
from gra_hpc.merge.words import Hashes, text_digest, windows, word_hashes

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

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

    def __init__(self, pins: Mapping[str, BenchmarkPin], size: int) -> None:
        """Read the benchmarks.

        Args:
            pins: sources as configured, and where and what they were when the run was planned.
            size: words of a run.

        Raises:
            ConfigError: a source that is gone, has changed since, or holds no text.
        """
        import numpy as np

        self.size = size
        self.pins = dict(pins)
        self.texts: list[Text] = []
        self.counts: dict[str, int] = {}
        self.unread = {source: unread(pin) for source, pin in pins.items()}
        for source, pin in pins.items():
            before = len(self.texts)
            found = texts(source, pin)
            while batch := list(islice(found, 2000)):
                normal = normalise(text.encode("utf-8", "replace") for *_, text in batch)
                for (where, record, _), form in zip(batch, normal, strict=True):
                    if form:
                        self.texts.append(Text(source, where, record, tuple(form.split())))
            self.counts[source] = len(self.texts) - before
            if not self.counts[source]:
                raise ConfigError(f"{KEY}: {source}: holds no text", "gra config show  (explains every key)")
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
                if t.words == tuple(words):
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
