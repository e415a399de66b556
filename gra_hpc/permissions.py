"""Who else may change a path: code, weights and settings are read only from where nobody else can put them."""

from __future__ import annotations

import functools
import grp
import os
import pwd
import stat
from pathlib import Path

from gra_hpc.errors import OwnershipError
from gra_hpc.terminal import word

ROOT = 0
CODE = (".py", ".yaml", ".yml", ".json")
"""Files of a directory that say what of its Python is run."""
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def ours_alone(path: Path) -> bool:
    """Whether a path is a directory, no link, that belongs to this user and that nobody else may write to."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & OTHERS_WRITE


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


def others_may_write(status: os.stat_result) -> bool:
    """Whether a file's mode lets anybody else change it. A group that has its user alone is nobody else."""
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not _private(status.st_gid)


@functools.cache
def _private(gid: int) -> bool:
    """Whether a group is this user's own, as many systems give each one: of the user's name, without others in it."""
    try:
        me, group = pwd.getpwuid(os.getuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return me.pw_gid == gid and group.gr_name == me.pw_name and set(group.gr_mem) <= {me.pw_name}


def own_bytes(path: Path, then: str = "") -> bytes:
    """A file that decides what runs in this user's name: read only if it is this user's, and nobody else's to write.

    What is read is what was looked at, whoever moves files and directories meanwhile.

    Args:
        then: what to do about another user's file.

    Raises:
        OwnershipError: it is in other hands, or no file.
        OSError: it cannot be read.
    """
    with open(path, "rb", opener=_without_waiting) as f:
        status = os.fstat(f.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OwnershipError(f"{path}: not a file", then)
        if status.st_uid != os.getuid():
            raise OwnershipError(f"{path}: belongs to {_user(status.st_uid)}, and would decide what runs as you", then)
        if others_may_write(status):
            raise OwnershipError(
                f"{path}: others may write it (mode {stat.S_IMODE(status.st_mode):o}), and so decide what runs as you",
                f"look through it, then chmod go-w {word(path)}",
            )
        return f.read()


def refuse_in_other_hands(path: Path) -> None:
    """Refuse settings that somebody else may change, alone or with their directory: they decide what runs as this user.

    `GRA_TRUST` names directories of others, as a path does, whose content is taken as it is.

    Raises:
        OwnershipError: with the way out.
    """
    real = path.resolve()
    trusted = [Path(d).resolve() for d in os.environ.get("GRA_TRUST", "").split(os.pathsep) if d.startswith("/")]
    if any(real.is_relative_to(d) for d in trusted):
        return
    way = f"copy it to a directory of yours, or trust who may: GRA_TRUST={real.parent}"
    for place in (real, real.parent):
        status = place.stat()
        if foreign(place):
            raise OwnershipError(f"{path}: {place} belongs to {_user(status.st_uid)}, who could run code as you", way)
        sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
        if others_may_write(status) and not sticky:
            raise OwnershipError(
                f"{path}: others may write {place}, and so run code as you",
                f"look through it, then chmod go-w {word(place)}; or {way}",
            )


def refuse_code_in_other_hands(directory: Path) -> None:
    """The same for a directory whose Python may be run: itself, and each file of code or settings in it.

    Raises:
        OwnershipError: with the way out.
    """
    refuse_in_other_hands(directory)
    for path in directory.rglob("*"):
        if path.suffix in CODE and path.is_file():
            refuse_in_other_hands(path)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # of a pipe: nobody may be at its other end


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def closed_directory(path: Path, mode: int = 0o755) -> Path:
    """A directory of this user's in which nobody else may write, whatever the umask; made, or closed, if need be.

    Args:
        mode: what others may do in it; the umask may take from that.

    Raises:
        OwnershipError: it is another user's.
    """
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise OwnershipError(
            f"{path}: not a directory of yours (owner {_user(status.st_uid)}), and would decide what runs as you",
            "only who made a directory of jobs submits them",
        )
    if status.st_mode & 0o777 & ~mode:
        path.chmod(stat.S_IMODE(status.st_mode) & (mode | 0o7000))
    return path


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
