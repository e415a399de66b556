"""Quotes in texts of all scripts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra_hpc.labels.spans import Span, Unlocatable, locate, overlap_f1

ANY = st.characters(exclude_categories=["Cs"])
TEXTS = st.text(ANY, min_size=1, max_size=60)
SCRIPTS = st.lists(
    st.sampled_from(
        [
            "नमस्ते",
            "दुनिया",
            "مرحبا",
            "العالم",
            "שלום",
            "東京",
            "タワー",
            "서울",
            "ไทย",
            "Zürich",
            "cafe\u0301",
            "👩‍🔬",
            "I.B.M.",
            "a+b",
            "(x)",
        ]
    ),
    min_size=1,
    max_size=8,
)
SPACES = st.sampled_from([" ", "  ", "\n", "\t", "\u00a0", "\u3000", " \r\n "])


@given(TEXTS, st.data())
def test_every_passage_of_a_text_is_found_by_its_words(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    quote = text[start : data.draw(st.integers(start + 1, len(text)))]
    if not quote.strip():
        with pytest.raises(Unlocatable):
            locate(text, [("x", quote)])
        return
    (span,) = locate(text, [("x", quote)])
    assert text[span.start : span.end] == quote.strip()
    assert span.start <= start + len(quote) - len(quote.lstrip())  # the first occurrence, at or before that one


@given(SCRIPTS, st.lists(SPACES, min_size=8, max_size=8), st.lists(SPACES, min_size=8, max_size=8), st.data())
def test_white_space_between_words_may_differ(
    words: list[str], a: list[str], b: list[str], data: st.DataObject
) -> None:
    text = "".join(w + s for w, s in zip(words, a, strict=False))
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, len(words) - 1))
    quote = "".join(w + s for w, s in zip(words[first : last + 1], b, strict=False))
    (span,) = locate(text, [("x", quote)])
    assert text[span.start : span.end].split() == quote.split()


@given(st.text(ANY, max_size=20).filter(lambda s: "§" not in s), st.integers(1, 5), st.integers(1, 7))
def test_mentions_of_one_quote_are_its_occurrences_in_order(between: str, times: int, mentions: int) -> None:
    text = between + "".join("§§" + between + "|" for _ in range(times))
    found = locate(text, [("x", "§§")] * mentions)
    assert [s.start for s in found] == [m.start() for m in re.finditer("§§", text)][:mentions]


def test_labels_may_share_a_passage_and_spans_may_overlap() -> None:
    text = "The Bank of Paris in Paris"
    found = locate(text, [("place", "Paris"), ("bank", "Bank of Paris"), ("city", "Paris"), ("place", "Paris")])
    assert found == [Span(4, 17, "bank"), Span(12, 17, "city"), Span(12, 17, "place"), Span(21, 26, "place")]


@pytest.mark.parametrize("quote", ["", "  \n", "Lyon", "paris", "Paris Bank", "Par is"])
def test_what_does_not_stand_in_the_text_is_not_found(quote: str) -> None:
    with pytest.raises(Unlocatable):
        locate("The Bank of Paris", [("place", quote)])


def test_f1_of_two_annotators() -> None:
    a, b, c = Span(0, 2, "x"), Span(0, 2, "y"), Span(3, 5, "x")
    assert overlap_f1([], []) == 1
    assert overlap_f1([a], []) == 0
    assert overlap_f1([a, c], [a, b]) == 0.5 == overlap_f1([a, b], [a, c])
