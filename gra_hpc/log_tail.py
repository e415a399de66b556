"""The end of a log: its last lines as a person may read them, and the one among them that says why it ends there."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

OURS = re.compile(r"^gra_hpc\.errors\.\w+: (.*?)(?: -> (.*))?$")
"""How Python prints an error of ours: its cause, and what to do next."""
ANY = re.compile(r"\S")
LINES = 640
"""What caused an end may stand above the tracebacks of all who heard of it."""
_BYTES = 64 << 10
_LINE_BYTES = 400
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def tail(path: Path, lines: int, start: int = 0) -> list[str]:
    """The last lines of a log, without control characters (progress bars, colours).

    Args:
        lines: at most so many; fewer where they are longer than 400 bytes.
        start: the byte at which the part begins that counts.

    Raises:
        OSError: it cannot be read.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as f:  # a FIFO would wait
        if not stat.S_ISREG(os.fstat(f.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        size = f.seek(0, os.SEEK_END)
        f.seek(max(start, size - max(_BYTES, _LINE_BYTES * lines)))
        text = _COLOURS.sub("", f.read().decode("utf-8", "replace"))
    found = [line.rpartition("\r")[2] if "\r" in line.rstrip("\r") else line for line in text.split("\n")]
    found = ["".join(c if c.isprintable() or c == "\t" else "" for c in line) for line in found]
    while found and not found[-1].strip():
        found.pop()
    return found[-lines:]


def telling(lines: Sequence[str], *signs: re.Pattern[str] | str) -> str:
    """The line that tells most: the last one with the first of some signs that any line has; empty if none has one.

    Args:
        signs: regular expressions, the best first. Where one has a group, the group is what is told.
    """
    for sign in signs:
        for line in reversed(lines):
            if found := re.search(sign, line.strip()):
                return found[1] if found.re.groups else found.string
    return ""


def last_words(path: Path, *signs: re.Pattern[str] | str) -> str:
    """What a log says last, in one line: a line with one of some signs (see `telling`), else the last line.

    Returns:
        An empty string if it says nothing, or cannot be read.
    """
    try:
        return telling(tail(path, LINES), *signs, ANY)
    except OSError:
        return ""
