"""Code within texts: found by its looks, and kept to the letter when texts are compared.

The rules of prose (`normal_form`) take case, quotes, brackets and white space for manners. In code they are meaning:
`\\d` is not `\\D`, `[0, 1)` not `(0, 1]`, and an indented line another program. So what looks like code is written in
characters that no rule touches, before the text is normalised:

- whole, with indentation and line ends: fenced blocks; lines that look like code, and what is indented under them; in
  the coding domain every line but those of plain sentences, in which only first words have capitals;
- whole: what stands between backticks, calls (`sum(x)`), elements (`a[i]`), classes (`[a-z]`), intervals and tuples,
  quotes beside an operator;
- with its case: names in formulas and the like (`N = n`, `$V$`, `\\D`, `%s`, `-R`, `MY_VAR`).

A line of prose that is taken for code is compared more strictly than it need be: a copy of it with another comma stays.
The other way round rows would be lost, so what may be code is code.
"""

from __future__ import annotations

import re
from functools import lru_cache

MARKED = range(0xE000, 0xE080)
"""Code points (for private use) that stand for the ASCII characters that no rule may touch."""

_LETTER = {i: MARKED[i] for i in range(128) if not (chr(i).isdigit() or chr(i).islower() or chr(i) == " ")}
_SPACES = _LETTER | {0x20: MARKED[0x20]}
_CASE = {i: MARKED[i] for i in range(ord("A"), ord("Z") + 1)}

_SAFE = bytes(i for i in range(256) if (chr(i).isalnum() and i < 128) or i >= 128 or i in b" ,.'\"!?")
"""Bytes that prose is made of."""
_QUIET = bytes(i for i in range(128) if chr(i).isalnum() or chr(i) in " ,.!?")
"""Bytes of which a line of code has others too, unless its first words say that it is one."""
_TELLING = b"`\\={}<>[]_^|&"
"""Bytes of which any may be of code; most prose has none."""
_HINTS: tuple[tuple[bytes, bytes, re.Pattern[bytes] | None], ...] = (
    (b"(", b"(", re.compile(rb"\((?<=\w\w\()")),
    (b"\n", b"\n ", None),
    (b"\n", b"\n\t", None),
    (b"(", b"\n(", None),
    (b";", b";", re.compile(rb";\s*(?:\n|\Z)")),
    (b"*", b"*", re.compile(rb"\*(?<![\w*)\]]\*)(?=[A-Za-z_])|\*(?<=\.\*)")),
    (b"-", b" -", re.compile(rb" --?(?=[A-Za-z])")),
    (b"-", b"\n-", re.compile(rb"\n--?(?=[A-Za-z])")),
    (b"$", b"$", re.compile(rb"\$(?=[A-Za-z])")),
    (b"%", b"%", re.compile(rb"%(?=[A-Za-z])")),
    (b"@", b"@", re.compile(rb"@(?=[A-Za-z])")),
    (b"/", b"//", re.compile(rb"//(?<!://)")),
    (b"+", b"++", None),
    (b"-", b"->", None),
    (b":", b"::", None),
    (b"+", b".+", None),
    (b"#", b"#!", None),
    (b"/", b"/*", None),
    (b"\n", b":\n", re.compile(rb"(?:\A|\n)[ \t]*[a-z_][\w.-]*:[ \t]*\r?\n[ \t]")),
)
"""Other bytes that may be, with their neighbours, and what must be around those."""

_NAME = re.compile(rb"\.(?<=[A-Za-z_]\.)(?=[A-Za-z_])")
_SQL = re.compile(rb"(?:SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP)\s")
"""What code is told by that is made of bytes of prose: names with a point within, SQL."""

_FENCE = re.compile(r"\s*(`{3,}|~{3,})")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])\s")
_OPENS = re.compile(r"[:{(\[,\\]\Z")
_END = re.compile(r"""[;{}]\Z|\A\s*[\[({<].*[\])}>][,;]?\Z|\A\s*(['"])\S+\1\Z|\A\s*[a-z_][\w.-]*:\Z""")
_BEGIN = re.compile(
    r"""\s*(?:
      [\])}]+[;,]?\Z                                                            # the end of a block
    | (?:if|elif|else|for|while|def|class|try|except|finally|with|match|case|switch|do)\b.*:\Z
    | (?:SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP)\s
    | (?:import|package|using|include|\#include)\s+[\w.<>"/:*]+;?\Z
    | from\s+[\w.]+\s+import\b
    | (?:\$|>>>|\.\.\.)\s+\S                                                    # behind a prompt
    )""",
    re.X,
)
_WITHIN = re.compile(
    r"==|&&|\|\||=>|->|::|:=|-=|\+=|\*=|/=|\|=|&=|%=|\+\+|<<|>>|</|/>|\$\{|\(\)|\[\]|//(?<!://)|/\*|\*/|#!"
)
"""What makes a line one of code: its end, its beginning, operators that nothing else has."""

_VALUE = r"""\s?(?:-?(?:\d[\d.]*|[A-Za-z]\b|∞|\\infty\b)|"[^"\n]{0,99}"|'[^'\n]{0,99}')\s?"""
_WHOLE: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "(",
        re.compile(
            r"\b[A-Za-z_]\w+\((?!(?:e?s|en|in|r|n|ies)\))(?:[^()\n]{0,200}\([^()\n]{0,200}\))*[^()\n]{0,200}\)?"
        ),
    ),
    ("[", re.compile(r"\b[A-Za-z_]\w*\[[^\]\n]{0,99}\]")),
    (".", re.compile(r"\b[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+(?:\(\))?")),
    ("<", re.compile(r"\b[A-Za-z_]\w*<[^<>\n]{1,60}>")),
    ("{", re.compile(r"""(?<![\w}^_\\])\{[^{}\n]{0,200}[:'"][^{}\n]{0,200}\}""")),
    ("[", re.compile(r"""\[[^\[\]\n]{0,200}['"][^\[\]\n]{0,200}\]""")),
    ("]", re.compile(r"\[\^?[^\]\s]{1,40}\][+*?{]")),
    ("-", re.compile(r"\[\^?[^\]\s]{0,40}\w-\w[^\]\s]{0,40}\][+*?]?")),
    (",", re.compile(rf"[\[(]{_VALUE}(?:,{_VALUE})+[\])]")),
    (".", re.compile(r"(?<!\S)[^\s`]*\.[*+][^\s`]*")),
    ('"', re.compile(r'"[^"\n]{0,200}"(?=\s?[=+])|"(?<=[=+]")[^"\n]{0,200}"|"(?<=[=+]\s")[^"\n]{0,200}"')),
    ("'", re.compile(r"'[^'\n]{0,200}'(?=\s?[=+])|'(?<=[=+]')[^'\n]{0,200}'|'(?<=[=+]\s')[^'\n]{0,200}'")),
    ("*", re.compile(r"\*(?<![\w*)\]]\*)(?=[A-Za-z_])(?![^*\n]*\*)")),
)
"""What of a line is kept whole, each with a character that it holds: a call (not `item(s)`), an element, a name with a
point, a type of types, a map, a list of texts, a class of characters, an interval or a tuple, any character often,
quotes beside an operator, a pointer."""
_NAMED: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("$", re.compile(r"\$[^$\n]+\$")),
    ("\\", re.compile(r"\\[A-Za-z]\w*")),
    ("$", re.compile(r"\$[A-Za-z]\w*")),
    ("%", re.compile(r"%[A-Za-z]\w*")),
    ("@", re.compile(r"@[A-Za-z]\w*")),
    ("-", re.compile(r"(?<!\S)--?[A-Za-z][\w-]*")),
    ("_", re.compile(r"\b\w*[^\W_]_+\w+")),
    ("=", re.compile(r"\b[A-Za-z]\w*(?=\s?=)|(?<==)[A-Za-z]\w*|(?<==\s)[A-Za-z]\w*")),
    ("^", re.compile(r"\b[A-Za-z]\w*(?=\s?\^)|(?<=\^)[A-Za-z]\w*")),
    *((c, re.compile(rf"\b[A-Z](?=\s?\{c})|(?<=\{c})[A-Z]\b|(?<=\{c}\s)[A-Z]\b")) for c in "<>+|/"),
)
"""What of a line keeps its case: LaTeX, variables, options, names with `_`, and names beside an operator."""
_WORD = r"[a-z]+(?:['\u2019-][a-z]+)*"
_SENTENCE = rf"[A-Z]?{_WORD}(?:[ ,;]+(?:{_WORD}|I|\d+)){{3,}}[.?!:]"
_PLAIN_LINE = re.compile(rf"{_SENTENCE}(?: {_SENTENCE})*")
"""A line of a text in the coding domain that is no code."""
_QUOTED = re.compile(r"(?<!`)(`{1,3})[^`\n]+\1")
_PLAIN = re.compile(r"[A-Z]?[^\W\d_A-Z]+(?:[ -][A-Z]?[^\W\d_A-Z]+)*")
_GAP = re.compile(r"(?<=\S)(?: [ \t]+|\t[ \t]*)(?=\S)")


def marked(text: bytes, coding: bool = False) -> bytes:
    """A text in UTF-8 with its code in characters that no rule touches; the text itself where there is none.

    Args:
        coding: it is of the coding domain: all of it is code, but for plain sentences.
    """
    if not coding and not _may_hold_code(text):
        return text
    lines = text.decode("utf-8", "replace").replace("\r\n", "\n").split("\n")
    return "\n".join(_lines(lines, coding)).encode()


def _may_hold_code(text: bytes) -> bool:
    if text[:1] in b" '\"" or _NAME.search(text):
        return True
    if (b"E" in text or b"DROP" in text) and _SQL.search(text):  # one of both is in each word
        return True
    other = text.translate(None, _SAFE)
    if not other:
        return False
    if len(other.translate(None, _TELLING)) != len(other) or text[:1] in b" \t(-":
        return True
    return any(hint in text and (around is None or around.search(text)) for hint, around in _hints(frozenset(other)))


@lru_cache(4096)
def _hints(other: frozenset[int]) -> tuple[tuple[bytes, re.Pattern[bytes] | None], ...]:
    """The hints that a text may hold, by its bytes that prose has not."""
    return tuple((hint, around) for byte, hint, around in _HINTS if byte[0] in other)


def _lines(lines: list[str], coding: bool) -> list[str]:
    """Lines, those that look like code to the letter, and the others with what of them does."""
    out: list[str] = []
    fence, before, opened, blank = "", False, False, True
    for raw in lines:
        line = raw.rstrip()
        found = _FENCE.match(line)
        if fence or found:
            begins = found[1] if found else ""
            if fence and begins[:3] == fence[:3] and len(begins) >= len(fence):
                fence = ""
                out.append("")
            elif fence:
                out.append(_line(line))
            else:
                fence = begins
                out.append("")
            before, opened = False, False
            continue
        indented = line[:1] == "\t" or (line[:4] == "    " and blank)
        inside = (indented or (line[:1] == " " and (before or opened))) and not _ITEM.match(line)
        blank = not line
        is_code = bool(line) and (inside or (not _PLAIN_LINE.fullmatch(line) if coding else _is_code(line)))
        out.append(_line(line) if is_code else _spans(line))
        if line:
            before, opened = is_code, bool(is_code and _OPENS.search(line))
    return out


def _line(line: str) -> str:
    """A line to the letter; its indentation and its end are a word."""
    if not line:
        return ""
    code = line.lstrip()
    indentation = line[: len(line) - len(code)].translate(_SPACES)
    code = _GAP.sub(lambda gap: f" {gap[0].translate(_SPACES)} ", code)
    return f"{chr(MARKED[0x0A])}{indentation} {code.translate(_LETTER)}"


def _is_code(line: str) -> bool:
    if line.isascii() and not line.encode().translate(None, _QUIET):  # most lines: a quarter of the time
        return _BEGIN.match(line) is not None
    return bool(_END.search(line) or _BEGIN.match(line) or _WITHIN.search(line))


def _spans(line: str) -> str:
    """A line of prose, with what of it looks like code to the letter."""
    if "`" in line:
        line = _QUOTED.sub(_span, line)
    for needle, pattern in _WHOLE:
        if needle in line:
            line = pattern.sub(lambda found: found[0].translate(_LETTER), line)
    for needle, pattern in _NAMED:
        if needle in line:
            line = pattern.sub(lambda found: found[0].translate(_CASE), line)
    return line


def _span(found: re.Match[str]) -> str:
    """Code between backticks; a word between them is one of the sentence."""
    text = found[0].strip("`")
    if not _PLAIN.fullmatch(text):
        text = _GAP.sub(lambda gap: f" {gap[0].translate(_SPACES)} ", text).translate(_LETTER)
    return f" {text} "


def prose(text: str) -> str:
    """A text without its code."""
    out: list[str] = []
    fence = ""
    for line in text.split("\n"):
        found = _FENCE.match(line)
        if found and (not fence or found[1].startswith(fence[:3])):
            fence = "" if fence else found[1]
        elif not fence and not _is_code(line.rstrip()):
            out.append(_QUOTED.sub(" ", line))
    return "\n".join(out)
