"""Text for people: what others have written moves no cursor, turns no direction of writing, begins no line.

Names of files, words of models, manifests, heartbeats and Slurm's answers come from outside. On a terminal ESC hides or
rewrites what stands there, a bidirectional override shows other words than are there, and a line break lets foreign
words pass for ours. All that is shown goes through `printable`: commands print by `say`, errors are made of it, logs
are formatted by `Formatter`. `markdown` and `code` do the same for the cards of releases.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from types import TracebackType
from typing import TextIO

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1: ESC, CSI, backspace, carriage return, next line
    "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # directions, separators, what is not seen
    "\ud800-\udfff"  # bytes of a file's name that are not UTF-8
    "\U000e0000-\U000e007f]"  # tags
)
_BREAK = re.compile(f"\n|{_UNSAFE.pattern}")
_MARKS = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])")
"""What means something within a line of Markdown; an underscore inside a word means itself."""


def printable(text: object, lines: bool = False) -> str:
    """A text as it may be shown: characters that do more than stand there are written as JSON writes them, `\\u001b`.

    Args:
        lines: line breaks are the text's own, and stay.
    """
    return (_UNSAFE if lines else _BREAK).sub(_escape, str(text))


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


def complain(text: object) -> None:
    """Print a line on standard error."""
    say(text, to=sys.stderr)


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """`sys.excepthook`: what Python prints, whatever words an error quotes."""
    say("".join(traceback.format_exception(kind, error, trace)), lines=True, to=sys.stderr)


class Formatter(logging.Formatter):
    """Log records of one line each; only our own traceback has more."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: object) -> str:
        return printable(super().formatException(ei), lines=True)  # type: ignore[arg-type]


def log_to_stderr(form: str) -> None:
    """Log lines of a process of its own, on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter(form, "%H:%M:%S"))
    logging.basicConfig(handlers=[handler])


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
