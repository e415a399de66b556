"""Text for people: what others have written moves no cursor, turns no direction of writing, begins no line.

Names of files, words of models, manifests, heartbeats and Slurm's answers come from outside. On a terminal ESC hides or
rewrites what stands there, a bidirectional override shows other words than are there, and a line break lets foreign
words pass for ours. All that is shown goes through `printable`: commands print by `say`, errors are made of it, logs
are formatted by `log_lines.Formatter`, and `release/markdown.py` does the same for cards.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TextIO

_UNSAFE = (
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1: ESC, CSI, backspace, carriage return, next line
    "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # directions, separators, what is not seen
    "\ud800-\udfff"  # bytes of a file's name that are not UTF-8
    "\U000e0000-\U000e007f]"  # tags
)
_BREAK = f"\n|{_UNSAFE}"
_COMMANDS = ("gra ", "next: gra ", "then: gra ")
"""How a line begins that is there to be copied."""


def printable(text: object, lines: bool = False) -> str:
    """A text as it may be shown: characters that do more than stand there are written as JSON writes them, `\\u001b`.

    Args:
        lines: line breaks are the text's own, and stay.
    """
    return re.sub(_UNSAFE if lines else _BREAK, _escape, str(text))  # compiled when first used: not for `gra --help`


def _escape(found: re.Match[str]) -> str:
    n = ord(found[0])
    if n < 0x10000:
        return f"\\u{n:04x}" if n != 0x0A else "\\n"
    n -= 0x10000
    return f"\\u{0xD800 + (n >> 10):04x}\\u{0xDC00 + (n & 0x3FF):04x}"


def say(text: object = "", *, lines: bool = False, to: TextIO | None = None) -> None:
    """Print a line, now.

    Args:
        lines: it is several, all of them ours, or JSON.
        to: standard output if left out.
    """
    print(printable(text, lines), end="" if lines and str(text).endswith("\n") else "\n", file=to, flush=True)


def tell(text: str, indent: int = 2) -> None:
    """Print a line as lines that fit the terminal; a comment stays one, and a command is never broken.

    Args:
        indent: spaces before what does not fit: no word of others begins a line.
    """
    pad = len(text) - len(text.lstrip(" "))
    if text[pad:].startswith(_COMMANDS):
        say(text)
        return
    comment = text[pad:].startswith("# ")
    for fitting in wrapped(text, f"{' ' * pad}# " if comment else " " * max(pad, indent)):
        say(fitting)


def columns() -> int:
    """Width of the terminal; in a pipe, what COLUMNS says, or 80."""
    try:
        width = int(os.environ.get("COLUMNS", "0")) or os.get_terminal_size(1).columns
    except (ValueError, OSError):
        width = 0
    return max(40, width or 80)


def wrapped(text: str, before: str | int = 0) -> list[str]:
    """A text as lines that fit the terminal; a word that is longer, like a path, stays whole.

    Args:
        before: what stands before every line but the first; or how many spaces.
    """
    import textwrap

    fitting = textwrap.wrap(
        printable(text),
        columns(),
        subsequent_indent=before if isinstance(before, str) else " " * before,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )
    return fitting or [text]


def counted(n: int, noun: str) -> str:
    """`1 shard`, `2 shards`.

    Args:
        noun: of one.
    """
    return f"{n} {noun}{'' if n == 1 else 's'}"


def several(wrong: Iterable[tuple[str, str]], most: int = 5) -> str:
    """What is wrong in several places: the first few kinds, each with its first place, and how many more there are.

    Args:
        wrong: what, and where.
    """
    places: dict[str, list[str]] = {}
    for what, where in wrong:
        places.setdefault(what, []).append(where)
    shown = [
        f"{where[0]}: {what}" + (f" (and in {len(where) - 1} more)" if len(where) > 1 else "")
        for what, where in list(places.items())[:most]
    ]
    left = len(places) - len(shown)
    return "; ".join(shown) + (f"; and {counted(left, 'other')}" if left else "")


def block(title: str, text: str) -> Iterator[str]:
    """A text of several lines under its title, one line each."""
    yield f"{title}:"
    for line in text.splitlines() or [""]:
        yield f"    {line}"


def word(path: object) -> str:
    """A path as one word of a command: in quotes where a shell takes it for several; `~/` is outside of them."""
    import shlex

    home, rest = ("~/", text[2:]) if (text := str(path)).startswith("~/") else ("", text)
    return home + shlex.quote(rest) if rest else text


def shown(path: object) -> str:
    """A path as a person here would type it: from the current directory, if it lies in that."""
    text = str(path)
    try:
        here = f"{os.getcwd()}/"  # noqa: PTH109 (pathlib is not loaded for this)
    except OSError:
        return word(text)
    return word(text.removeprefix(here) or text)


def complain(text: object, *, lines: bool = False) -> None:
    """Print a line on standard error; with `lines`, several."""
    say(text, lines=lines, to=sys.stderr)


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """`sys.excepthook`: what Python prints, whatever words an error quotes."""
    say("".join(traceback.format_exception(kind, error, trace)), lines=True, to=sys.stderr)
