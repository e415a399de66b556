"""A file that is created whole, by one of those that would create it: how a shard is published.

With a hard link, where the file system has them: it fails when the name is taken. Else with a directory, since a rename
onto one that is not empty fails everywhere:

    .NAME.once-0/claimed    whoever renames this into place has won, whatever happens to it then
    .NAME.once-0/data       becomes NAME; by the winner, or by the next one that comes, should the winner be dead

A claim without its data is spent. It stays: a late loser must not find its place free. When NAME was moved away by
hand, the next claim is `.NAME.once-1`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from itertools import count
from pathlib import Path

from gra_hpc.errors import StorageError
from gra_hpc.storage import fsync_dir, full_disk_as_error, new_beside

CLAIM = re.compile(r"\..+\.once-\d+")
"""Name of a claim."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EXDEV)


def write_once(path: Path, data: bytes) -> bool:
    """Create a file whole, or leave the one that is there: of two writers, one wins.

    Returns:
        Whether this call's data is what the file holds.
    """
    with full_disk_as_error(path), new_beside(path) as f:
        temporary = Path(f.name)
        try:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
            try:
                os.link(temporary, path)  # atomic and exclusive, also on NFS
                won = True
            except FileExistsError:
                won = False
            except OSError as e:
                if e.errno not in _NO_LINKS:
                    raise
                won = _claim(temporary, path)
            fsync_dir(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    return won or path.read_bytes() == data


def _claim(temporary: Path, path: Path) -> bool:
    """Create a file from a temporary one without a hard link; whether this call did."""
    if path.exists():
        return False
    made = Path(f"{temporary}.d")
    made.mkdir()
    try:
        (made / "claimed").touch()
        temporary.rename(made / "data")
        fsync_dir(made)
        for number in count():
            claim = path.with_name(f".{path.name}.once-{number}")
            try:
                made.rename(claim)
                won = True
            except OSError:
                if not claim.is_dir():
                    raise
                won = False
            fsync_dir(path.parent)  # the claim lasts before the file can be seen
            with contextlib.suppress(FileNotFoundError):
                (claim / "data").rename(path)
            if won:
                return True
            _look_anew(path)
            if path.exists():
                return False
    finally:
        shutil.rmtree(made, ignore_errors=True)
    raise AssertionError("unreachable")


def _look_anew(path: Path) -> None:
    """Change a directory: a network file system then asks its server what is in it, and not what it remembers."""
    with new_beside(path) as f:
        Path(f.name).unlink()


def check(directory: Path) -> str:
    """How results are published on a directory's file system: `hard links` or `directories`.

    Raises:
        StorageError: of two writers both would win.
        OSError: it cannot be written to.
    """
    probe = directory / f".gra-once-{os.urandom(8).hex()}"
    probe.mkdir()
    try:
        (probe / "file").touch()
        try:
            os.link(probe / "file", probe / "link")
        except OSError:
            return _check_directories(probe)
        try:
            os.link(probe / "file", probe / "link")
        except FileExistsError:
            return "hard links"
        raise _not_exclusive(directory, "a second link of one name was accepted")
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def _check_directories(probe: Path) -> str:
    for name in "ab":
        (probe / name).mkdir()
        (probe / name / name).touch()
    try:
        (probe / "a").rename(probe / "claim")
        (probe / "b").rename(probe / "claim")
    except OSError:
        if [p.name for p in (probe / "claim").iterdir()] == ["a"]:
            return "directories"
    raise _not_exclusive(probe.parent, "no hard links, and directories are not renamed in one step")


def _not_exclusive(directory: Path, why: str) -> StorageError:
    return StorageError(
        f"{directory}: {why}: two attempts at once could both publish a shard", "plan the run on another file system"
    )
