"""Which rows are held out: whole seeds, and with them every row that says the same.

A seed is drawn by a digest of its id. Seeds whose rows have a text in common (`text.normal_form`) go together, into
training if any of them was drawn for it: so no text is in both splits, and rows that share none stay where they were.
An instruction is such a text, and a response of some length: `Yes.` answers many questions. Near-duplicates are the
merge's business: what it keeps is in neither split twice.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.records import CODING
from gra_hpc.release.shuffle import keys_of
from gra_hpc.text.normal_form import compared
from gra_hpc.text.words import text_digest

COLUMNS = ("seed_id", "instruction", "response", "domain")
"""What of a row decides."""
WORDS = 13
"""A response of so many words, in its normal form, is a text that may not be in both splits."""


def text_keys(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """A digest of each row's instruction, and of its response (0 where it is too short), uint64 [rows] both."""
    coding = pc.equal(table["domain"], CODING).to_pylist()
    first, second = (compared(table[c].cast(pa.binary()).to_pylist(), coding) for c in ("instruction", "response"))
    long = [r if r.count(b" ") >= WORDS - 1 else b"" for r in second]
    return _digests(first), _digests(long)


def _digests(texts: list[bytes]) -> np.ndarray:
    """uint64 [texts]; 0 for one without words."""
    joined = b"".join(text_digest(t)[:8] if t else bytes(8) for t in texts)
    return np.frombuffer(joined, "<u8")


def split_keys(tables: Iterable[pa.Table]) -> tuple[np.ndarray, np.ndarray]:
    """By what rows are split: those below the share of 2**64 that is held out go to the validation split.

    Args:
        tables: the rows, with `COLUMNS`.

    Returns:
        The key of each row, uint64 [rows], and of each of their seeds, uint64 [seeds].
    """
    drawn, firsts, seconds = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    for table in tables:
        drawn.append(keys_of(table["seed_id"], "split"))
        first, second = text_keys(table)
        firsts.append(first)
        seconds.append(second)
    seeds, of_row = np.unique(np.concatenate(drawn), return_inverse=True)
    pairs = [shared(np.concatenate(keys), of_row) for keys in (firsts, seconds)]
    low, high = (np.concatenate(side) for side in zip(*pairs, strict=True))
    keys = _joined(seeds, low, high) if len(low) else seeds
    return keys[of_row], keys


def shared(keys: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of groups that share a key, enough of them to connect all that do; 0 is no key.

    Args:
        keys: uint64 [rows].
        groups: int64 [rows].
    """
    order = np.lexsort((groups, keys))
    keys, groups = keys[order], groups[order]
    same = (keys[1:] == keys[:-1]) & (groups[1:] != groups[:-1]) & (keys[1:] != 0)
    return groups[:-1][same], groups[1:][same]


def _joined(seeds: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The largest key among the seeds that each is connected with, uint64 [seeds]."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(low), np.int8), (low, high)), shape=(len(seeds), len(seeds)))
    count, label = connected_components(graph, directed=False)
    most = np.zeros(count, np.uint64)
    np.maximum.at(most, label, seeds)
    found: np.ndarray = most[label]
    return found
