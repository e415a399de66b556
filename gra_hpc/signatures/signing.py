"""Signatures of rows: a digest for the exact step, MinHash band keys for the near step, and whether a row's words meet
a benchmark's. Each of the three is pinned by a digest of the rule that it was made by.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.conversation import asked, shown
from gra_hpc.records import CODING, CONTEXT, digest
from gra_hpc.signatures.decontaminate import Prepared
from gra_hpc.signatures.minhash import Banding, band_keys, minhash
from gra_hpc.text.code import marked
from gra_hpc.text.normal_form import compared, joined, normalise
from gra_hpc.text.words import Hashes, text_digest, windows, word_hashes

DIGESTS, BANDS, MEETINGS = "digests", "bands", "meetings"
"""The parts of a signature."""
BATCH = 2000
"""Rows signed at a time."""


@dataclass(frozen=True)
class Rule:
    """What signatures are made by."""

    code: str
    """Digest of the code that makes them (`run.code`)."""
    shingle: int
    """Words per shingle."""
    banding: Banding | None
    """None: no near step."""
    ngram: int
    """Words of a run that is shared with a benchmark."""
    benchmarks: tuple[str, ...]
    """Digest of each; none: no decontamination."""

    @property
    def parts(self) -> dict[str, str]:
        """What is made, each with the digest of what it depends on."""
        by = (self.code, unicodedata.unidata_version, version("regex"))
        parts = {DIGESTS: digest(*by)}
        if self.banding:
            parts[BANDS] = digest(*by, self.shingle, self.banding.bands, self.banding.rows)
        if self.benchmarks:
            parts[MEETINGS] = digest(*by, self.ngram, *sorted(self.benchmarks))
        return parts


@dataclass(frozen=True)
class Signatures:
    """Of some rows; a part that was not asked for is none."""

    digests: np.ndarray | None
    """uint8 [rows, 16]."""
    counts: np.ndarray | None
    """uint32 [rows]: shingles, repeats counted. With the bands."""
    keys: np.ndarray | None
    """uint64 [rows, bands]: the key of each band."""
    meets: np.ndarray | None
    """bool [rows]: whether it may meet a benchmark."""

    @property
    def rows(self) -> int:
        return max(len(a) for a in (self.digests, self.counts, self.meets) if a is not None)

    @classmethod
    def joined(cls, some: Sequence[Signatures]) -> Signatures:
        """Of rows one after another; all have the same parts."""

        def column(name: str) -> np.ndarray | None:
            arrays = [getattr(s, name) for s in some]
            return None if arrays[0] is None else np.concatenate(arrays)

        return cls(*map(column, ("digests", "counts", "keys", "meets")))


def wanted_columns(context: bool) -> list[str]:
    """The columns that rows are signed by.

    Args:
        context: the table has contexts.
    """
    return ["instruction", *([CONTEXT] if context else []), "response", "domain"]


def texts(columns: Mapping[str, pa.Array]) -> tuple[list[list[bytes]], list[bool]]:
    """What rows answer and their responses, and which rows are of the coding domain. Of a row with context, what was
    said before belongs to what it answers.

    Args:
        columns: `wanted_columns` of some rows.
    """
    pair = [columns[c].cast(pa.binary()).to_pylist() for c in ("instruction", "response")]
    coding = pc.equal(columns["domain"], CODING).to_pylist()
    if CONTEXT in columns:
        # With one word that stands for the whole context, by the rule of seeds: rows are the same only where it is,
        # and near each other whatever tools they share.
        given = [c or "" for c in columns[CONTEXT].to_pylist()]
        contexts = [shown(c) for c in given]
        words = [text_digest(c).hex() for c in compared((c.encode() for c in contexts), coding)]
        instructions = columns["instruction"].to_pylist()
        told = [asked(c, i or "") for c, i in zip(given, instructions, strict=True)]
        together = zip(pair[0], told, contexts, words, strict=True)
        pair[0] = [f"{text}\n\ncontext{word}".encode() if c else alone for alone, text, c, word in together]
    return pair, coding


def shingles(instructions: list[bytes], responses: list[bytes], size: int) -> Hashes:
    """Hashes of the word shingles of instruction and response together."""
    return windows(word_hashes(list(map(joined, instructions, responses))), size, short=True)


def sign(columns: Mapping[str, pa.Array], rule: Rule, prepared: Prepared | None, wanted: Collection[str]) -> Signatures:
    """Sign some rows.

    Args:
        columns: `wanted_columns` of the rows.
        rule: what they are signed by.
        prepared: the benchmarks' hashes, for the meetings.
        wanted: parts to make, of the rule's.
    """
    pair, coding = texts(columns)
    instructions, responses = (compared(t, coding) for t in pair)
    digests = counts = keys = meets = None
    if DIGESTS in wanted:
        each = [text_digest(a, b) for a, b in zip(instructions, responses, strict=True)]
        digests = np.frombuffer(b"".join(each), np.uint8).reshape(len(each), 16)
    with_meetings = MEETINGS in wanted and prepared is not None
    if BANDS in wanted or with_meetings:
        words = word_hashes(list(map(joined, instructions, responses)))
    if BANDS in wanted and rule.banding:
        s = windows(words, rule.shingle, short=True)
        counts = s.counts.astype(np.uint32)
        keys = band_keys(minhash(s, rule.banding), rule.banding).T
    if with_meetings:
        assert prepared
        if any(marked(t, c) is not t for column in pair for t, c in zip(column, coding, strict=True) if t):
            instructions, responses = (normalise(t) for t in pair)
            words = word_hashes(list(map(joined, instructions, responses)))
        meets = np.zeros(len(coding), bool)
        meets[prepared.hits(words, instructions, responses)] = True
    return Signatures(digests, counts, keys, meets)
