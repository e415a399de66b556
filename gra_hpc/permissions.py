"""Who else may change a path: code, weights and settings are read only from where nobody else can put them."""

from __future__ import annotations

import functools
import os
import stat
from pathlib import Path

ROOT = 0


def ours_alone(path: Path) -> bool:
    """Whether a path is a directory, no link, that belongs to this user and that nobody else may write to."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


def foreign(path: Path) -> bool:
    """Whether what a path leads to belongs to another user than this one and root, or cannot be looked at."""
    try:
        return path.stat().st_uid not in (os.getuid(), *roots())
    except OSError:
        return True


def in_other_hands(path: Path) -> bool:
    """Whether somebody else could put another directory in the place of one of ours in this one: its owner, or anybody,
    where all may write and no sticky bit (as /tmp has) keeps each from the others' entries."""
    return foreign(path) or path.stat().st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH


@functools.cache
def roots() -> tuple[int, ...]:
    """The ids under which root's files appear: also `nobody`'s, in a user namespace (a container) without a root."""
    try:
        mapped = [line.split() for line in Path("/proc/self/uid_map").read_text(encoding="utf-8").splitlines()]
        if any(int(inside) == ROOT for inside, _, _ in mapped):
            return (ROOT,)
        return ROOT, int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return (ROOT,)
