"""Texts of others in the Markdown of a card: as they are, without any meaning of their own."""

from __future__ import annotations

import re

from gra_hpc.terminal import printable

_MARKS = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])")
"""What means something within a line of Markdown; an underscore inside a word means itself."""


def markdown(text: object) -> str:
    """A text of others within a line of Markdown: as it is, without any meaning as Markdown or HTML."""
    plain = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKS.sub(lambda m: f"\\{m[0]}", plain)


def code(text: object) -> str:
    """A text of others as a code span of Markdown."""
    plain = printable(text)
    ticks = "`" * (longest_run(plain, "`") + 1)
    edge = " " if plain[:1] == "`" or plain[-1:] == "`" else ""
    return f"{ticks}{edge}{plain}{edge}{ticks}"


def block(text: object) -> str:
    """Lines of others as a code block of Markdown, which nothing in them ends."""
    plain = printable(text, lines=True)
    fence = "`" * max(3, longest_run(plain, "`") + 1)
    return f"{fence}text\n{plain}\n{fence}"


def longest_run(text: str, character: str) -> int:
    """Length of the longest run of a character."""
    return max((len(run) for run in re.findall(f"{re.escape(character)}+", text)), default=0)
