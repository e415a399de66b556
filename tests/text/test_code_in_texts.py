"""Code within texts: what counts to the letter, and prose that is no code."""

from __future__ import annotations

import time
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra_hpc.text import code
from gra_hpc.text.code import marked
from gra_hpc.text.normal_form import compared


def form(text: str, coding: bool = False) -> bytes:
    return compared([text.encode()], [coding])[0]


@pytest.mark.parametrize(
    "texts",
    [
        ("```\nx = 1\nif x:\n  y\n```", "```\nx = 1\nif X:\n  y\n```", "```\nx = 1\nif x:\n    y\n```"),
        ("~~~sh\nls  -R\n~~~", "~~~sh\nls -R\n~~~", "~~~sh\nls -r\n~~~"),
        ("Use `\\s+` here.", "Use `\\S+` here.", "Use `s+` here."),
        ("Use `Foo` here.", "Use `foo.bar` here.", "Use `foo bar` here."),
        ("def f(x):\n    return x\n", "def f(x):\nreturn x\n", "def f(X):\n    return x\n"),
        ("while (a) {\n\tb;\n}", "while (a) {\nb;\n}", "while (A) {\n\tb;\n}"),
        ('{"a": 1}', '{"A": 1}', '{"a": "1"}'),
        ("<b>Bold</b>", "<b>bold</b>", "<B>Bold</B>"),
        ("Solve V = v for all n.", "Solve v = V for all n."),
        ("Let $X$ be open.", "Let $x$ be open."),
        ("What is $\\Delta$?", "What is $\\delta$?"),
        ("It matches [a-z]+ only.", "It matches [A-Z]+ only."),
        ("The interval (0, 1] is", "The interval [0, 1) is", "The interval [0, 1] is"),
        ("Type of [1, 2] here?", "Type of (1, 2) here?", "Type of ['1', 2] here?"),
        ("Call sum('a') there.", "Call sum(a) there.", "Call Sum('a') there.", 'Call sum("a") there.'),
        ("The element a[i] of it", "The element a(i) of it", "The element A[i] of it"),
        ("grep -R x", "grep -r x"),
        ("Print %d of it", "Print %D of it"),
        ("Take *p of it", "Take p of it"),
        ("MAX_SIZE", "max_size", "max size"),
        ("name = 'x'", "name = x"),
        ("a.*b", "a*b", "a.b"),
        ("SELECT Name FROM t", "SELECT name FROM t"),
        ("'5'", "5", '"5"'),
        ("Match [abc]+ here", "Match [ABC]+ here", "Match abc+ here"),
        ("A List<Int> of it", "A List<int> of it", "A List of it"),
        ("Read os.Path of it", "Read os.path of it", "Read os path of it"),
        ("Use {'a': 1} for it", "Use {'A': 1} for it", "Use {a: 1} for it"),
        ("Use ['a', b] for it", "Use [a, b] for it", "Use ['a', B] for it"),
        ("key:\n  other: 1", "key:\nother: 1"),
        ("all:\n\tcc x", "all:\ncc x", "all:\n    cc x"),
        ("So:\n\n    x y z", "So:\n\n  x y z"),
    ],
)
def test_what_counts_in_code(texts: tuple[str, ...]) -> None:
    for a, b in combinations(texts, 2):
        assert form(a) != form(b)


@pytest.mark.parametrize(
    "texts",
    [
        ("Well-known facts, (really)!", "well known “facts”; really"),
        ("The item(s) of the house", "the ITEM(s) of the house."),
        ("A `word` (or two).", "a word, or two"),
        ("One:\n- 2 eggs\n   * 3 pans", "one\n2 eggs\n3 pans"),
        ("**Note:** a *small* thing.", "Note: a small thing"),
        ("It costs $5, or 10%.", "it costs $5 or 10%"),
        ("Visit https://example.org/a now", "visit https://example.org/a now."),
        ("12+34 is", "12 + 34 Is"),
        ("“Quite so”, he said", "'Quite so' he said", '"quite so" he said'),
        ("The U.S. army, e.g. here", "the U.S. army e.g. here."),
        ("Solve $\\frac{a}{b} = 2$", "solve $\\frac{a}{b}=2$."),
        ("```\nx = 1 \n```", "```python\r\nx = 1\r\n```"),
        ("Café — “Élan”", "café, élan"),
    ],
)
def test_what_does_not_count_in_prose(texts: tuple[str, ...]) -> None:
    assert {form(t) for t in texts} == {form(texts[0])}


def test_prose_is_left_alone() -> None:
    for prose in (
        b"The cat sat, and slept.",
        b"A (small) thing; another.\n\nAnd - so on: 5 of 7!",
        "Žluťoučký kůň.".encode(),
    ):
        assert marked(prose) is prose


WORDS = [
    "if a",
    "import x",
    "SELECT ",
    "from a import b",
    "...",
    " ",
    "a",
    "Foo",
    "7",
    "'",
    '"',
    ":",
    "\t",
    "x.y",
    "é",
    "!",
    ";",
]


@given(st.lists(st.sampled_from(WORDS), max_size=5))
def test_a_quick_look_at_a_line_finds_what_a_close_one_does(words: list[str]) -> None:
    line = "".join(words).rstrip()
    assert code._is_code(line) == bool(code._END.search(line) or code._BEGIN.match(line) or code._WITHIN.search(line))


def test_all_of_the_coding_domain_but_sentences_is_code() -> None:
    assert form("Name it", coding=True) != form("name it", coding=True)
    assert form("Take the Foo of all, then.", coding=True) != form("Take the foo of all, then.", coding=True)
    assert form("Take the second of all, then.", coding=True) == form("take the second, of all then.", coding=True)
    assert form("a\n  b", coding=True) != form("a\n b", coding=True) != form("a b", coding=True)
    assert form("a  \r\nb\n", coding=True) == form("a\nb", coding=True)


@pytest.mark.parametrize(
    "unit", ["(", "f(", "[", "[a-", "`", "`a", '"', '"=', "*a", "_", "a_", "$", "] ", "a.*", "--a", "(1,"]
)
def test_no_text_takes_long(unit: str) -> None:
    """Sixteen times the length takes sixteen times as long or so."""

    def cost(text: bytes) -> float:
        took = []
        for _ in range(3):
            began = time.thread_time()
            marked(text)
            took.append(time.thread_time() - began)
        return min(took)

    short, long = (cost(("[" + unit * n + "\nx").encode()) for n in (1000, 16_000))
    assert long < 90 * max(short, 5e-4)
