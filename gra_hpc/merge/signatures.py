"""One pass over all texts: per row a digest for the exact step, MinHash band keys for the fuzzy step, and whether its
words meet a benchmark's. Results go to files in the merge's scratch directory, at the row's place, so that workers
write them without talking to each other and memory does not grow with the text.

A MinHash value is the least of `a * h + b (mod 2**32)` over a row's shingle hashes `h`, for an odd `a`: 126 array
operations per batch. (Measured: 9 microseconds a row of 140 words; rensa 0.5 signs in 7 but takes 28 more to hand its
matrix over as Python lists.)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.conversation import shown
from gra_hpc.merge import decontaminate, index
from gra_hpc.merge.index import Index, Unit
from gra_hpc.records import CODING, CONTEXT
from gra_hpc.text.code import marked
from gra_hpc.text.normal_form import compared, joined, normalise
from gra_hpc.text.words import Hashes, mix, text_digest, windows, word_hashes
from gra_hpc.workers import Workers

_SEED = 0x6B8B4567


@dataclass(frozen=True)
class Banding:
    """How a signature is cut into bands; rows that agree on a whole band are candidates."""

    bands: int
    rows: int
    """MinHash values per band."""

    def found(self, jaccard: float) -> float:
        """Probability that a pair of this similarity becomes a candidate."""
        return float(1 - (1 - jaccard**self.rows) ** self.bands)


def banding(threshold: float, permutations: int, recall: float = 0.998) -> Banding:
    """The most selective banding that still finds pairs at the threshold with probability `recall`."""
    fitting = [Banding(permutations // r, r) for r in range(1, permutations + 1)]
    return max((b for b in fitting if b.found(threshold) >= recall), key=lambda b: b.rows, default=fitting[0])


@dataclass(frozen=True)
class Signing:
    """What the pass computes and where it puts it."""

    scratch: Path
    shingle: int
    banding: Banding | None
    """None: no fuzzy step."""
    benchmarks: Path | None
    """Prepared benchmark hashes (`decontaminate.Prepared`); none: no decontamination."""

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


def sign(ix: Index, what: Signing, workers: Workers) -> np.ndarray:
    """Run the pass.

    Returns:
        Row numbers that meet a benchmark (to be verified), ascending.
    """
    files = [what.digests, what.counts, *(what.band(b) for b in range(what.banding.bands if what.banding else 0))]
    for file in files:
        file.touch()
    hits = list(workers.map(_sign_unit, [(unit, what) for unit in ix.units()]))
    return np.concatenate([np.empty(0, np.int64), *hits])


def texts(
    unit: Unit, batch: int = 2000, rows: np.ndarray | None = None, as_prose: bool = False
) -> Iterator[tuple[int, list[bytes], list[bytes]]]:
    """Normal forms of the instructions and responses of a unit; of a row with context, of what was said before too.

    Args:
        unit: what to read.
        batch: rows at a time.
        rows: only these row numbers (ascending); all if none.
        as_prose: code counts no more than prose: what benchmarks are looked for in.

    Yields:
        Row number of the first, and the texts.
    """
    for row, pair, coding in _raw(unit, batch, rows):
        first, second = (normalise(t) if as_prose else compared(t, coding) for t in pair)
        yield row, first, second


def _raw(unit: Unit, batch: int, rows: np.ndarray | None) -> Iterator[tuple[int, list[list[bytes]], list[bool]]]:
    """Row number of the first of some rows, what they answer, their responses, and which are of the coding domain."""
    for row, columns in index.read(unit, [*index.asking(unit), "response", "domain"], batch):
        if rows is not None:
            a, b = np.searchsorted(rows, [row, row + len(columns["response"])])
            if a == b:
                continue
            columns = {n: c.take(pa.array(rows[a:b] - row)) for n, c in columns.items()}
            row = int(rows[a])
        pair = [columns[c].cast(pa.binary()).to_pylist() for c in ("instruction", "response")]
        coding = pc.equal(columns["domain"], CODING).to_pylist()
        if unit.part.context:
            # With one word that stands for the whole context, by the rule of seeds: rows are the same only where it is,
            # and near each other whatever tools they share.
            contexts = [shown(c) for c in columns[CONTEXT].to_pylist()]
            words = [text_digest(c).hex() for c in compared((c.encode() for c in contexts), coding)]
            told = zip(pair[0], index.asked(unit, columns), contexts, words, strict=True)
            pair[0] = [f"{text}\n\ncontext{word}".encode() if c else alone for alone, text, c, word in told]
        yield row, pair, coding


def shingles(instructions: list[bytes], responses: list[bytes], size: int) -> Hashes:
    """Hashes of the word shingles of instruction and response together."""
    return windows(word_hashes(list(map(joined, instructions, responses))), size, short=True)


def _sign_unit(asked: tuple[Unit, Signing]) -> np.ndarray:
    """Sign one unit; row numbers that meet a benchmark."""
    unit, what = asked
    prepared = decontaminate.Prepared.open(what.benchmarks) if what.benchmarks else None
    digests, counts, hits = [], [], []
    keys: list[np.ndarray] = []
    for row, pair, coding in _raw(unit, 2000, None):
        instructions, responses = (compared(t, coding) for t in pair)
        digests += [text_digest(a, b) for a, b in zip(instructions, responses, strict=True)]
        if not what.banding and prepared is None:
            continue
        words = word_hashes(list(map(joined, instructions, responses)))
        if what.banding:
            s = windows(words, what.shingle, short=True)
            counts.append(s.counts.astype(np.uint32))
            keys.append(band_keys(minhash(s, what.banding), what.banding))
        if prepared is not None and unit.part.accepted_only:  # the pool stays as it is
            if any(marked(t, c) is not t for column in pair for t, c in zip(column, coding, strict=True)):
                instructions, responses = (normalise(t) for t in pair)
                words = word_hashes(list(map(joined, instructions, responses)))
            hits.append(row + prepared.hits(words, instructions, responses))
    _put(what.digests, unit.start * 16, b"".join(digests))
    if what.banding and keys:
        _put(what.counts, unit.start * 4, np.concatenate(counts).tobytes())
        together = np.concatenate(keys, axis=1)
        for b in range(what.banding.bands):
            _put(what.band(b), unit.start * 8, together[b].tobytes())
    return np.concatenate([np.empty(0, np.int64), *hits])


def _put(path: Path, offset: int, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        while data:
            n = os.pwrite(fd, data, offset)
            data, offset = data[n:], offset + n
    finally:
        os.close(fd)


def minhash(shingles: Hashes, banding: Banding) -> np.ndarray:
    """MinHash signatures, uint32 [values, rows]; an empty row's are all ones."""
    rng = np.random.Generator(np.random.PCG64(_SEED))
    n = banding.bands * banding.rows
    a = rng.integers(0, 1 << 32, n, dtype=np.uint32) | np.uint32(1)
    b = rng.integers(0, 1 << 32, n, dtype=np.uint32)
    rows = len(shingles.offsets) - 1
    signatures = np.full((n, rows), 0xFFFFFFFF, np.uint32)
    filled = np.flatnonzero(shingles.counts)
    if not len(filled):
        return signatures
    starts = shingles.offsets[filled]
    h = (shingles.values >> np.uint64(32)).astype(np.uint32)
    step = np.empty_like(h)
    for p in range(n):
        np.multiply(h, a[p], out=step)
        np.add(step, b[p], out=step)
        signatures[p, filled] = np.minimum.reduceat(step, starts)
    return signatures


def band_keys(signatures: np.ndarray, banding: Banding) -> np.ndarray:
    """One 64-bit key per band and row, uint64 [bands, rows]."""
    bands = signatures[: banding.bands * banding.rows].reshape(banding.bands, banding.rows, -1)
    keys = np.zeros((banding.bands, signatures.shape[1]), np.uint64)
    for j in range(banding.rows):
        keys = mix(keys * np.uint64(0x9E3779B97F4A7C15) + bands[:, j].astype(np.uint64))
    return keys
