"""Normal form: what of a text counts when texts are compared, as seeds, in the merge, in the release's splits.

Case, Unicode form (NFKC), white space, quotes and the punctuation of sentences do not count, nor do the points of
Arabic, Hebrew and Syriac for vowels and recitation, which most texts leave out. Symbols that carry meaning do:
operators, signs, currencies, emoji, the point of `2.1`, the colon of `3:4`, the `!` of `!=`, `!x` and `5!`, the `_`
within a name, brackets beside an operator. A symbol begins the word that follows it, whatever the spacing (`12+34` and
`12 + 34` are the words `12` and `+34`), so symbols add no words; only at the end of a text they stand alone. Every
letter of a script that is written without spaces (by Unicode's Line_Break property) is a word, so that such texts have
runs of words too. Raised and lowered characters and fractions keep their value: `x\u00b2` is `x^2` and not `x2`,
`x\u2081` is `x_1`, `1\u00bd` is `1 1/2`.

What a symbol means is judged by its neighbours:

| | counts | does not |
|---|---|---|
| `-` | beside a digit, a one-letter name or an operator, as a sign: `3-5`, `a - b`, `-width` | `well-known`, `- item` |
| `*` | between operands, both sides spaced alike; it becomes `×` | `**bold**`, `* item`, `price*` |
| `( [ {` | after an operator: `4*(2+3)` | `word (note)`, `f(x)` |
| `) ] }` | before an operator: `(2+3)*4` | `(note) word` |
| `\\` | before a letter or digit: `\\frac`, `\\d` | |
| `'` | before `(`: `f'(x)` | `don't`, `'word'` |
| `#` | after a letter: `C#` | `# Title` |
| `_` | within a name: `my_var`, `x_1` | `_emphasis_` |

All work on symbols is array work over a whole batch.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from gra_hpc.text.code import MARKED, marked

if TYPE_CHECKING:
    import regex

_EDGE, _GLUE, _TIMES, _FACTORIAL, _SPACE, _NEWLINE = 0, 1, 2, 3, 0x20, 0x0A
"""Bytes with a role while a batch is in work. Edge: between rows. Glue: behind a symbol outside ASCII."""

_SEPARATES = ("P", "Z", "C", "Sk")
"""Unicode categories that separate words: punctuation, white space, control, modifier symbols."""
_SYMBOL = ("Sm", "Sc", "So")
_UNSPACED = ("ID", "CJ", "SA", "AK", "AP", "AS", "VF", "VI")
"""Values of Unicode's Line_Break: letters between which a line may end, or where only a dictionary knows. Han, kana,
Yi; Thai, Lao, Khmer, Burmese and other scripts of South-East Asia."""
_POINTED = (range(0x591, 0x5C8), range(0x610, 0x700), range(0x711, 0x74B), range(0x898, 0x900), range(0xFB1E, 0xFB1F))
"""Where the points of Hebrew, Arabic and Syriac stand: marks (Mn) for vowels, accents, pauses and recitation."""
_MAKE_LETTERS = frozenset((*range(0x653, 0x660), *range(0x8EA, 0x8F0)))
"""Marks there that are no such points: madda and hamza make another letter, and languages that write Arabic letters
(Kashmiri, Pashto, Urdu, Wolof, Rohingya) have vowels and tones of their own, which they do not leave out."""
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_TAGGED = ("<super>", "<sub>", "<fraction>", "<circle>", "<square>")
"""Compatibility forms that NFKC would join to what stands before them (`3\u00b2` to `32`)."""
_SAME = {
    **dict.fromkeys("\u2010\u2011\u2013\u2212", "-"),
    **dict.fromkeys("\u2018\u2019\u2032", "'"),
    **dict.fromkeys("\u00d7\u2217\u22c5", chr(_TIMES)),
    **dict.fromkeys("\u00f7\u2044\u2215", "/"),
    "\u2260": "!=",
    "\u2264": "<=",
    "\u2265": ">=",
    "\u0640": "",  # Arabic's lengthening stroke
    "\u0671": "\u0627",  # an alef that is not spoken, as pointed texts write it
}
"""Characters that ASCII has a name for."""

_PRIVATE = bytes(range(0x80, 0xC0)) + b"\xee"
"""Bytes of characters for private use, those of `MARKED` among them; every other character has another beside."""

_ALWAYS = b"+=<>|&/%^~@$"
_OPENING, _CLOSING = b"([{", b")]}"
_JUDGED = b".:!'#\\-*_"
"""Judged by their neighbours; brackets are too, afterwards."""

_ENDS = (*(bytes((i,)) for i in _ALWAYS + _OPENING + _CLOSING + b"-"), "\u00d7".encode())
"""Of a normal form: symbols that wait for a word."""


class _Characters(dict[int, str]):
    """What each character outside ASCII becomes; filled as characters are met."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        if char in _SAME:
            text = _SAME[char]
        elif code in MARKED:
            text = char
        elif category == "Mn" and code not in _MAKE_LETTERS and any(code in points for points in _POINTED):
            text = ""
        elif category.startswith(_SEPARATES):
            text = " "
        elif category in _SYMBOL:
            text = f" {char}{chr(_GLUE)}"
        elif _unspaced().match(char):
            text = f" {char} "
        else:
            text = char
        self[code] = text
        return text


_CHARACTERS = _Characters()


@cache
def _unspaced() -> regex.Pattern[str]:
    import regex  # most texts are in ASCII, and do without it

    return regex.compile("[" + "".join(rf"\p{{Line_Break={value}}}" for value in _UNSPACED) + "]")


@cache
def _tagged() -> re.Pattern[str]:
    """Finds runs of characters that are a form of others."""
    planes = map(chr, range(0x80, 0x20000))
    return re.compile("[" + "".join(c for c in planes if unicodedata.decomposition(c).startswith(_TAGGED)) + "]+")


def _ascii(i: int) -> int:
    char = chr(i)
    if i >= 0x80 or i == _NEWLINE or char.isalnum() or i in _ALWAYS + _OPENING + _CLOSING + _JUDGED:
        return ord(char.lower()) if i < 0x80 else i
    return _SPACE


_ASCII = bytes(map(_ascii, range(256)))
_IS_SYMBOL = bytes(i in _ALWAYS + _OPENING + _CLOSING + _JUDGED + bytes((_GLUE, _TIMES)) for i in range(256))


def normalise(texts: Iterable[bytes | None]) -> list[bytes]:
    """Normal forms of texts, UTF-8: words with one space between. What is not UTF-8 becomes U+FFFD; none: empty."""
    return _symbols([_characters(t) if t else b"" for t in texts])


def compared(texts: Iterable[bytes | None], coding: Iterable[bool]) -> list[bytes]:
    """Normal forms of texts that are compared with each other: `normalise`, but code (`code`) counts to the letter.

    Benchmarks are looked for by `normalise` alone: there, what is nearly the same is what is looked for.

    Args:
        coding: which texts are of the coding domain.
    """
    return normalise(marked(t, c) if t else t for t, c in zip(texts, coding, strict=True))


def joined(first: bytes, second: bytes) -> bytes:
    """One normal form of two: a symbol that ends the first belongs to the word that follows (`3 +4 =` and `7`)."""
    return first + (b" " if first and second and not first.endswith(_ENDS) else b"") + second


def _characters(text: bytes) -> bytes:
    """A text's characters normalised, one by one."""
    if text.isascii() or text.translate(None, _PRIVATE).isascii():
        return text.translate(_ASCII)
    s = _tagged().sub(_apart, text.decode("utf-8", "replace"))
    s = unicodedata.normalize("NFKC", s).casefold()
    if not unicodedata.is_normalized("NFKC", s):  # case-folding can undo it
        s = unicodedata.normalize("NFKC", s)
    # ASCII first: its table knows no bytes with a role
    s = s.encode().translate(_ASCII).decode()
    return _NOT_ASCII.sub(lambda m: m.group().translate(_CHARACTERS), s).encode()


def _apart(found: re.Match[str]) -> str:
    """`^2` of superscripts, `_2` of subscripts, ` 1/2 ` of a fraction; others as words of their own."""
    out, before = "", ""
    for char in found[0]:
        tag, *codes = unicodedata.decomposition(char).split()
        plain = unicodedata.normalize("NFKC", char)
        if tag == "<square>":  # of several characters, the square of m2 among them
            plain = _tagged().sub(_apart, "".join(chr(int(code, 16)) for code in codes))
        mark = {"<super>": "^", "<sub>": "_"}.get(tag, " ")
        out += plain if mark == before != " " else mark + plain
        before = mark
    after = found.string[found.end() : found.end() + 1]
    return f"{out} " if before == " " or after.isdecimal() else out


def _table(*members: bytes) -> np.ndarray:
    """Which bytes are members, bool [256]."""
    table = np.zeros(256, bool)
    table[np.frombuffer(b"".join(members), np.uint8)] = True
    return table


class _Tables:
    """Kinds of bytes, each bool [256]; made when they are first needed, since they need numpy."""

    def __init__(self) -> None:
        letters, digits, beyond = (bytes(range(0x61, 0x7B)), bytes(range(0x30, 0x3A)), bytes(range(0x80, 0x100)))
        operators = _ALWAYS + bytes((_GLUE, _TIMES)) + b"-!'\\"
        self.opening, self.closing = _table(_OPENING), _table(_CLOSING)
        self.letter, self.digit = _table(letters), _table(digits)
        self.beyond = _table(letters, beyond)
        """Letters, also outside ASCII."""
        self.word = _table(letters, digits, beyond)
        self.named = _table(letters, digits, beyond, b"'")
        """What makes a letter beside it part of a longer word."""
        self.operand = _table(letters, digits, beyond, _OPENING, b"\\$")
        """What a `-` or `*` may stand before."""
        self.bullet = _table(b"-*")
        self.always = _table(_ALWAYS, b"\\")
        self.operator = _table(operators)
        """Once all have been judged: those left."""
        self.symbol = _table(operators, _OPENING, _CLOSING)
        self.packed = _table(operators, _OPENING, _CLOSING, bytes((_EDGE, _SPACE)))
        """What no space is put behind."""


_Judge = Callable[["np.ndarray", "np.ndarray", "np.ndarray", _Tables], "np.ndarray"]
"""Of the data, the first and the last places of runs: which runs mean something."""


@cache
def _tables() -> _Tables:
    return _Tables()


def _symbols(rows: Sequence[bytes]) -> list[bytes]:
    """Judge the symbols of a batch, and put each before the word that follows."""
    is_ = _tables()
    edge = bytes((_EDGE,)) * 3  # neighbours are looked at without asking where a row ends
    data = np.frombuffer(edge + edge.join(rows) + edge, np.uint8)
    data = data[~_doubled(data == _SPACE)]
    at = np.flatnonzero(np.frombuffer(data.tobytes().translate(_IS_SYMBOL), bool))
    _drop_bullets(data, at, is_)
    _judge(data, at, is_)
    data[data == _NEWLINE] = _SPACE
    data = data[~_doubled(data == _SPACE)]  # once more: line ends and what means nothing are spaces now
    at = np.flatnonzero(is_.symbol[data])
    _judge_brackets(data, at[is_.opening[data[at]] | is_.closing[data[at]]], is_)
    at = at[is_.symbol[data[at]]]

    space = data == _SPACE
    drop = _doubled(space)
    drop[at + 1] |= space[at + 1]
    glue = data[at] == _GLUE
    drop[at[glue]] = True
    insert = at[~glue & ~is_.packed[data[at - 1]]]
    out = data[~drop]
    if len(insert):
        dropped = np.flatnonzero(drop)
        old, kept = np.ones(len(out) + len(insert), bool), out
        old[insert - np.searchsorted(dropped, insert) + np.arange(len(insert))] = False
        out = np.full(len(old), _SPACE, np.uint8)
        out[old] = kept
    joined = out.tobytes().replace(bytes((_TIMES,)), "\u00d7".encode()).replace(bytes((_FACTORIAL,)), b"!")
    return [r.strip(b" ") for r in joined[3:-3].split(edge)] if rows else []


def _doubled(space: np.ndarray) -> np.ndarray:
    """Which spaces follow another. (n,) bool"""
    out = np.zeros(len(space), bool)
    np.logical_and(space[1:], space[:-1], out=out[1:])
    return out


def _drop_bullets(data: np.ndarray, at: np.ndarray, is_: _Tables) -> None:
    """Take out the markers of lists: `- item`, `* item`, at the beginning of a line."""
    marks = at[is_.bullet[data[at]]]
    after = data[marks + 1]
    marks = marks[(after == _SPACE) | (after == _NEWLINE)]
    left = marks - 1
    left -= data[left] == _SPACE  # indentation
    data[marks[(data[left] == _NEWLINE) | (data[left] == _EDGE)]] = _SPACE


def _beside(data: np.ndarray, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places left of the first and right of the last, past the space."""
    left, right = first - 1, last + 1
    return left - (data[left] == _SPACE), right + (data[right] == _SPACE)


def _judge(data: np.ndarray, at: np.ndarray, is_: _Tables) -> None:
    """Replace by spaces those of `_JUDGED` that mean nothing, by other bytes those that have an unlike twin."""
    kind = data[at]

    def of(char: str) -> np.ndarray:
        return at[kind == ord(char)]

    p = of(".")
    before = data[p - 1]
    nothing = [p[~is_.digit[data[p + 1]] | is_.beyond[before] | (before == ord("."))]]
    p = of(":")
    nothing.append(p[~(is_.digit[data[p - 1]] & is_.digit[data[p + 1]])])
    p = of("#")
    nothing.append(p[~is_.letter[data[p - 1]] | is_.word[data[p + 1]]])
    p = of("\\")
    nothing.append(p[~(is_.letter | is_.digit)[data[p + 1]]])
    p = of("_")
    nothing.append(p[~_by_runs(_names, data, p, is_)])
    p = of("'")
    after = p
    for _ in range(4):  # f''(x)
        after = after + (data[after] == ord("'"))
    nothing.append(p[data[after] != ord("(")])

    p = of("!")
    left, after = p - 1, data[p + 1]
    before = data[left]
    operand = is_.digit[before] | (is_.letter[before] & ~is_.named[data[left - 1]])
    factorial = operand & (after != ord("="))
    negation = ~is_.word[before] & (is_.word[after] | (after == ord("(")))
    nothing.append(p[~(factorial | negation | (after == ord("=")))])

    minus, times = of("-"), of("*")
    subtracts = _by_runs(_subtracts, data, minus, is_)
    multiplies = _by_runs(_multiplies, data, times, is_)
    nothing += [minus[~subtracts], times[~multiplies]]
    data[times[multiplies]] = _TIMES
    data[p[factorial]] = _FACTORIAL
    data[np.concatenate(nothing)] = _SPACE


def _by_runs(judge: _Judge, data: np.ndarray, at: np.ndarray, is_: _Tables) -> np.ndarray:
    """What is judged of runs (`**`, `--`), for each of their members. (n,) bool"""
    begins = np.flatnonzero(np.diff(at, prepend=-2) != 1)
    ends = np.append(begins[1:], len(at))[: len(begins)]
    return np.repeat(judge(data, at[begins], at[ends - 1], is_), ends - begins)


def _subtracts(data: np.ndarray, first: np.ndarray, last: np.ndarray, is_: _Tables) -> np.ndarray:
    """Which runs of `-` mean something. (m,) bool"""
    left, right = _beside(data, first, last)
    before, after = data[left], data[right]
    operand = is_.operand[after] | ((after == ord(".")) & is_.digit[data[right + 1]])
    sign = operand & (right == last + 1) & ~is_.word[data[first - 1]]  # ` -width`, `--all`
    counts = sign | is_.digit[before] | is_.closing[before]
    counts |= is_.letter[before] & ~is_.named[data[left - 1]]
    counts |= operand & is_.always[before]
    counts |= operand & ~is_.beyond[after]
    counts |= is_.always[after] & (first == last)  # `->`, not `|---|`
    return counts | (is_.letter[after] & ~is_.named[data[right + 1]])


def _names(data: np.ndarray, first: np.ndarray, last: np.ndarray, is_: _Tables) -> np.ndarray:
    """Which runs of `_` are within a name. (m,) bool"""
    named: np.ndarray = is_.word[data[first - 1]] & is_.word[data[last + 1]]
    return named


def _multiplies(data: np.ndarray, first: np.ndarray, last: np.ndarray, is_: _Tables) -> np.ndarray:
    """Which runs of `*` mean something. (m,) bool"""
    left, right = _beside(data, first, last)
    before, after = data[left], data[right]
    alike = (data[first - 1] == _SPACE) == (data[last + 1] == _SPACE)
    counts = (is_.word[before] | is_.closing[before]) & alike
    return counts & (is_.operand[after] | (after == ord("-")) | (after == ord(".")))


def _judge_brackets(data: np.ndarray, at: np.ndarray, is_: _Tables) -> None:
    """Replace by spaces the brackets that stand beside no operator."""
    left, right = _beside(data, at, at)
    kind = data[at]
    keep = (is_.opening[kind] & is_.operator[data[left]]) | (is_.closing[kind] & is_.operator[data[right]])
    data[at[~keep]] = _SPACE
