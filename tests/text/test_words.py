"""Word hashes, windows."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gra_hpc.text.normal_form import normalise
from gra_hpc.text.words import unique_sorted, windows, word_hashes

texts = st.lists(st.text(alphabet="ab é你ß\n.,+", max_size=12), max_size=8)


@settings(max_examples=200)
@given(texts)
def test_one_hash_per_word(rows: list[str]) -> None:
    """Equal words have equal hashes, different ones different, wherever they stand in the batch."""
    normal = normalise(t.encode() for t in rows)
    hashes = word_hashes(normal)
    assert hashes.counts.tolist() == [len(r.split()) for r in normal]
    every = [w for r in normal for w in r.split()]
    assert len(set(every)) == len(set(hashes.values.tolist()))
    assert len(set(zip(every, hashes.values.tolist(), strict=True))) == len(set(every))


@settings(max_examples=200)
@given(texts, st.integers(1, 4), st.booleans())
def test_one_hash_per_window(rows: list[str], size: int, short: bool) -> None:
    normal = [t.split() for t in normalise(t.encode() for t in rows)]
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
