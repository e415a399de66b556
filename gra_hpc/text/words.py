"""Words of normal forms (`normal_form`), hashed a batch of rows at a time: array work, no Python object per word."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SPACE = 0x20


def text_digest(*parts: bytes) -> bytes:
    """16 bytes that name normal forms, in their order."""
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).digest()


@dataclass(frozen=True)
class Hashes:
    """One 64-bit hash per word, or per window of words, for a batch of rows."""

    values: np.ndarray
    """uint64 [n]."""
    offsets: np.ndarray
    """int64 [rows + 1]: row i holds `values[offsets[i]:offsets[i + 1]]`."""

    @property
    def counts(self) -> np.ndarray:
        """int64 [rows]."""
        return self.offsets[1:] - self.offsets[:-1]

    def rows(self) -> np.ndarray:
        """int64 [n]: the row of each value."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.counts)


def mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser, in place: every bit of the input moves every bit of the output."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


_BASE = 0x9E3779B97F4A7C15 | 1
_powers: tuple[np.ndarray, np.ndarray] | None = None


def _power_tables(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Powers of `_BASE` and of its inverse modulo 2**64, at least `length` of each."""
    global _powers
    if _powers is None or len(_powers[0]) < length:
        size = max(length, 1 << 20)
        tables = []
        for base in (_BASE, pow(_BASE, -1, 1 << 64)):
            table = np.full(size, base, np.uint64)
            table[0] = 1
            tables.append(np.multiply.accumulate(table))
        _powers = (tables[0], tables[1])
    return _powers


def word_hashes(rows: Sequence[bytes]) -> Hashes:
    """Hash the words of normalised rows.

    A word's hash is the polynomial sum of its bytes, taken as a difference of one running sum over the whole batch.
    """
    joined = b" " + b" ".join(rows) + b" "
    data = np.frombuffer(joined, np.uint8)
    lengths = np.fromiter((len(r) for r in rows), np.int64, len(rows))
    bounds = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths + 1, out=bounds[1:])  # row i begins after the separator at bounds[i]
    space = data == SPACE
    edges = np.flatnonzero(space[1:] != space[:-1]) + 1
    starts, ends = edges[0::2], edges[1::2]
    powers, inverses = _power_tables(len(data))
    running = np.zeros(len(data) + 1, np.uint64)
    np.cumsum(data * powers[: len(data)], out=running[1:])
    values = mix((running[ends] - running[starts]) * inverses[starts])
    return Hashes(values, np.searchsorted(starts, bounds))


def windows(words: Hashes, size: int, *, short: bool) -> Hashes:
    """Hash every run of `size` words, within rows.

    Args:
        words: hashes of the words.
        size: words per window.
        short: whether a row of fewer words gives one window of all its words (else none); an empty row gives none.
    """
    counts = words.counts
    total = len(words.values)
    full = np.zeros(max(0, total - size + 1), np.uint64)
    multiplier = np.uint64(0xD6E8FEB86659FD93)
    for j in range(size):
        full *= multiplier
        full += words.values[j : j + len(full)]
    mix(full)
    inside = np.maximum(counts - size + 1, 0)
    little = (counts < size) & (counts > 0) if short else np.zeros(len(counts), bool)
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(inside + little, out=offsets[1:])
    result = np.empty(offsets[-1], np.uint64)
    if inside.sum():
        begins = np.repeat(words.offsets[:-1] - np.concatenate([[0], np.cumsum(inside)[:-1]]), inside)
        picked = full[begins + np.arange(len(begins))]
        result[np.repeat(offsets[:-1], inside) + _within(inside)] = picked
    for i in np.flatnonzero(little):
        h = np.uint64(0x2545F4914F6CDD1D)  # apart from windows of full size
        with np.errstate(over="ignore"):
            for w in words.values[words.offsets[i] : words.offsets[i + 1]]:
                h = h * multiplier + w
        result[offsets[i]] = mix(np.array([h]))[0]
    return Hashes(result, offsets)


def _within(counts: np.ndarray) -> np.ndarray:
    """0, 1, ... within each group."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def unique_sorted(hashes: Hashes) -> Hashes:
    """32-bit prefixes of the hashes, sorted and without repeats within each row (values are uint64 below 2**32)."""
    key = (hashes.rows().astype(np.uint64) << np.uint64(32)) | (hashes.values >> np.uint64(32))
    key.sort()
    first = np.ones(len(key), bool)
    first[1:] = key[1:] != key[:-1]
    key = key[first]
    offsets = np.searchsorted(key, np.arange(len(hashes.offsets), dtype=np.uint64) << np.uint64(32))
    return Hashes(key & np.uint64(0xFFFFFFFF), offsets)
