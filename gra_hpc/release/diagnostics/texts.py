"""Measures on words alone: repetition within texts, and what they copy from others."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Words without case and punctuation."""
    return WORD.findall(text.casefold())


def ngrams(tokens: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """Runs of n words."""
    return zip(*(tokens[i:] for i in range(n)), strict=False)


def distinct(texts: Iterable[str], n: int, budget: int) -> float | None:
    """distinct-n (Li et al. 2016): different runs of n words per run, over the first `budget` runs.

    It falls as more text is counted: compare only figures of one budget. Runs do not cross texts.

    Returns:
        Between 0 and 1; none if there is no run.
    """
    runs = list(islice((g for t in texts for g in ngrams(words(t), n)), budget))
    return len(set(runs)) / len(runs) if runs else None


def runs_in(texts: Iterable[str], n: int) -> int:
    """Runs of n words in all."""
    return sum(max(0, len(words(t)) - n + 1) for t in texts)


def grams_of(texts: Iterable[str], n: int) -> set[int]:
    """Digests of all runs of n words."""
    return {_digest(g) for t in texts for g in ngrams(words(t), n)}


def shares(texts: Iterable[str], known: set[int], n: int) -> list[float]:
    """For each text, the share of its runs of n words that are among the known; 0 for texts too short to have one."""
    out = []
    for text in texts:
        found = [_digest(g) in known for g in ngrams(words(text), n)]
        out.append(sum(found) / len(found) if found else 0.0)
    return out


def _digest(gram: tuple[str, ...]) -> int:
    """Eight bytes of a run's digest: the same on every machine, which Python's own hash is not."""
    return int.from_bytes(hashlib.blake2b(" ".join(gram).encode(), digest_size=8).digest(), "little")
