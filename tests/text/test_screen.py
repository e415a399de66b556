"""A batch at once finds what a look at each text does."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from gra_hpc.text import code
from gra_hpc.text.normal_form import compared
from gra_hpc.text.screen import Screen
from gra_hpc.text.screen import compared as compared_at_once

SIGNS = [bytes((i,)) for i in b"\n\t\r\0 `\\={}<>[]_^|&*();-$%@/+:#.!?,'\"aZ3~\xc3"]
WORDS = [b"well", b"a", b" ", b"SELECT ", b"DROP\n", b"2.5", b"x-1", b"f(x)", b":\n", "é²".encode()]


def test_every_sign_with_its_neighbours() -> None:
    """None of a code that is found by itself is missed, and the normal forms are those of the texts alone."""
    signs = [s for s in SIGNS if s != b"\0"]
    texts = [
        left + b"".join(three) + right
        for three in itertools.product(signs, repeat=2)
        for left, right in ((b"", b""), (b"ab", b"cd"), (b"a.", b"3"), (b"a ", b" b"), (b"well", b"("), (b"\n", b"\n"))
    ]
    found = Screen(texts)
    may = [code._may_hold_code(text) for text in texts]
    assert not [text for text, there, seen in zip(texts, may, found.code, strict=True) if there and not seen]
    assert sum(found.code) < 1.1 * sum(may) and sum(found.plain) > 500
    assert compared_at_once(texts, [False] * len(texts)) == compared(texts, [False] * len(texts))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.lists(st.sampled_from([*SIGNS, *WORDS, *WORDS]), max_size=8), st.booleans()), max_size=9))
def test_normal_forms_of_a_batch(given: list[tuple[list[bytes], bool]]) -> None:
    texts, coding = [b"".join(words) for words, _ in given], [whole for _, whole in given]
    assert compared_at_once(texts, coding) == compared(texts, coding)


def test_prose_needs_no_closer_look() -> None:
    texts = [
        b'It\'s a well-known word (or two): "yes"; no!\nAnd more, at 3.',
        b"x = 1",
        "\u00e9t\u00e9".encode(),
        b"3.5",
        b"!x",
    ]
    found = Screen(texts)
    assert found.plain.tolist() == [True, False, False, False, False]
    assert found.code.tolist() == [False, True, False, False, False]
    assert not Screen([]).plain.size and compared_at_once([], []) == []
