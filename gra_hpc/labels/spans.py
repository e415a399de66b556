"""Quotes located in a text: annotators name a passage by its words, and there are no token lists that could slip."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """A labelled passage: `text[start:end]`, in code points."""

    start: int
    end: int
    label: str


class Unlocatable(ValueError):
    """A quote that does not stand in the text."""


def locate(text: str, mentions: Sequence[tuple[str, str]]) -> list[Span]:
    """Where labelled quotes stand: exactly, else with other white space between the same words.

    A quote that stands in the text several times: the first mention of it under a label is the first occurrence, the
    next mention the next; mentions beyond the last occurrence say nothing new. White space around a quote is no part of
    it. Different labels may share a passage.

    Args:
        mentions: label and quote, in the annotator's order.

    Returns:
        Different spans in the text's order.

    Raises:
        Unlocatable: a quote is empty, or stands nowhere.
    """
    found: set[Span] = set()
    places: dict[str, list[tuple[int, int]]] = {}
    mentioned: dict[tuple[str, str], int] = defaultdict(int)
    for label, written in mentions:
        quote = written.strip()
        if not quote:
            raise Unlocatable("an empty quote")
        if quote not in places:
            places[quote] = list(_exactly(text, quote)) or list(_loosely(text, quote))
        if not places[quote]:
            raise Unlocatable(f"not in the text: {quote[:60]}")
        turn = mentioned[label, quote]
        mentioned[label, quote] += 1
        if turn < len(places[quote]):
            found.add(Span(*places[quote][turn], label))
    return sorted(found)


def _exactly(text: str, quote: str) -> Iterator[tuple[int, int]]:
    at = text.find(quote)
    while at >= 0:
        yield at, at + len(quote)
        at = text.find(quote, at + len(quote))


def _loosely(text: str, quote: str) -> Iterator[tuple[int, int]]:
    words = r"\s+".join(map(re.escape, quote.split()))
    for match in re.finditer(words, text):
        yield match.span()


def overlap_f1(ours: Sequence[Span], theirs: Sequence[Span]) -> float:
    """F1 of two annotators' spans of one text, a span being the same by bounds and label; 1 where both have none.

    Symmetric: of the two, either may be called the truth.
    """
    if not ours and not theirs:
        return 1.0
    return 2 * len(set(ours) & set(theirs)) / (len(set(ours)) + len(set(theirs)))
