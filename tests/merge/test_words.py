"""Normalisation, word hashes, windows."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gra_hpc.merge.words import normalise, text_digest, unique_sorted, windows, word_hashes

texts = st.lists(st.text(alphabet="ab é你ß\n.,+", max_size=12), max_size=8)


def words(text: str) -> list[bytes]:
    return normalise(text.encode()).split()


def test_normalised_words() -> None:
    assert words("Hello,  WORLD!\n(really)") == [b"hello", b"world", b"really"]
    assert words("Straße ﬁne “quoted” don’t don't") == b"strasse fine quoted don t don t".split()
    assert words("2+2 = 4, x^2, a_b") == b"2+2 = 4 x 2 a b".split()
    assert words("ＡＢＣ １２３") == [b"abc", b"123"]
    assert [w.decode() for w in words("你好世界。ok")] == ["你", "好", "世", "界", "ok"]
    assert words("नमस्ते दुनिया") == [w.encode() for w in ["नमस्ते", "दुनिया"]]
    assert normalise(None) == b""
    assert normalise(b"\xff\xfe broken") != b""


@settings(max_examples=200)
@given(st.text(max_size=30))
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(text.encode("utf-8", "replace"))
    assert normalise(once).split() == once.split()


def test_text_digest_ignores_spacing_and_keeps_the_border() -> None:
    assert text_digest(*map(normalise, (b"a + b", b"C."))) == text_digest(*map(normalise, (b"A+B!", b"c")))
    assert text_digest(b"a", b"b") != text_digest(b"ab", b"")


@settings(max_examples=200, deadline=None)
@given(texts)
def test_one_hash_per_word(rows: list[str]) -> None:
    """Equal words have equal hashes, different ones different, wherever they stand in the batch."""
    normal = [normalise(t.encode()) for t in rows]
    hashes = word_hashes(normal)
    assert hashes.counts.tolist() == [len(r.split()) for r in normal]
    every = [w for r in normal for w in r.split()]
    assert len(set(every)) == len(set(hashes.values.tolist()))
    assert len(set(zip(every, hashes.values.tolist(), strict=True))) == len(set(every))


@settings(max_examples=200, deadline=None)
@given(texts, st.integers(1, 4), st.booleans())
def test_one_hash_per_window(rows: list[str], size: int, short: bool) -> None:
    normal = [normalise(t.encode()).split() for t in rows]
    found = windows(word_hashes([b" ".join(r) for r in normal]), size, short=short)
    expected = []
    for r in normal:
        w = [tuple(r[i : i + size]) for i in range(len(r) - size + 1)]
        expected.append(w or ([tuple(r)] if short and r else []))
    assert found.counts.tolist() == [len(w) for w in expected]
    flat = [w for e in expected for w in e]
    assert len(set(flat)) == len(set(found.values.tolist()))
    assert len(set(zip(flat, found.values.tolist(), strict=True))) == len(set(flat))
    sets = unique_sorted(found)
    for i, e in enumerate(expected):
        own = sets.values[sets.offsets[i] : sets.offsets[i + 1]]
        assert len(own) == len(set(e))
        assert (np.diff(own.astype(np.int64)) > 0).all()
