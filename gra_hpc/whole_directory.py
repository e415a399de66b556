"""A directory that appears whole: built beside its final place, renamed into it, its remains swept after a death.

    .NAME-HOST-TOKEN/owner.json    who builds it; touched as long as it is at it
    .NAME-HOST-TOKEN/out/          becomes NAME
    .NAME-HOST-TOKEN/scratch/      thrown away

Whoever builds later sweeps what the dead have left (`owner`). An owner that was stopped for long can be taken for dead
from another machine. So a sweep first renames what it takes away, `out` too, each in one step: the owner has published
by then, or finds its directory gone (`Swept`) and begins again.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from gra_hpc import storage
from gra_hpc.errors import StorageError
from gra_hpc.owner import Beat, Owner, Sightings

log = logging.getLogger(__name__)

SILENT_S = 900.0
"""An owner of another node that was not heard of for so long is dead; its heart beats every half minute."""
TRIES = 3
"""So often one that was taken for dead begins again."""
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_TOKEN = r"-[0-9a-f]{8}"

Made = TypeVar("Made")


class Swept(StorageError):
    """The owner of a temporary directory was taken for dead."""


def build_whole(target: Path, work: Callable[[Staging], Made]) -> Made:
    """Build a directory in a temporary one; begin again when it was swept meanwhile.

    Args:
        work: fills `Staging.out` and publishes it.

    Raises:
        Swept: at every try.
    """
    for _ in range(TRIES - 1):
        try:
            with Staging(target) as staging:
                return work(staging)
        except Swept as e:
            log.warning("%s; begun again", e.what)
    with Staging(target) as staging:
        return work(staging)


class Staging:
    """A temporary directory for one future directory."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> Staging:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        sweep(self.target)
        for left in reversed(range(TRIES)):
            try:
                self._make()
                break
            except FileNotFoundError:  # swept before its owner was written down
                if not left:
                    raise
        self._beat.__enter__()
        return self

    def _make(self) -> None:
        self.path = self.target.parent / f"{_prefix(self.target)}{secrets.token_hex(4)}"
        self.out, self.scratch = self.path / "out", self.path / "scratch"
        owner = self.path / "owner.json"
        self._beat = Beat(owner)
        try:
            with storage.full_disk_as_error(self.path):
                self.path.mkdir(mode=0o700)  # names in it can be foreseen: nobody else plants links there
                owner.write_bytes(storage.to_json(Owner.me().to_dict()))
                self.out.mkdir()
                self.scratch.mkdir()
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._beat.__exit__(None, None, None)
        swept = not self._there()
        shutil.rmtree(self.path, ignore_errors=True)
        sweep(self.target)  # what was there at the beginning may have been silent for long enough by now
        if swept and isinstance(e, Exception) and not isinstance(e, Swept):
            raise self._swept() from e

    def _there(self) -> bool:
        try:
            self.path.lstat()
        except OSError:  # also of a handle that another node made stale
            return False
        return True

    def _swept(self) -> Swept:
        return Swept(
            f"{self.path}: was removed while it was built: this process stood still for long, and was taken for dead",
            "type that again",
        )

    def publish(self, better: Callable[[], bool]) -> bool:
        """Rename `out` into place.

        Args:
            better: asked when something is there already: whether ours should take its place.

        Returns:
            Whether ours is in place, whole.

        Raises:
            Swept: it has been removed, or is not what it was before the rename.
        """
        with storage.full_disk_as_error(self.out):
            for path in sorted(self.out.rglob("*"), reverse=True):  # what is in a directory before its entries
                if path.is_dir():
                    storage.fsync_dir(path)
                elif path.is_file():
                    storage.fsync_file(path)
            storage.fsync_dir(self.out)
            ours, whole = _identity(self.out), _inventory(self.out)
            while True:
                try:
                    self.out.rename(self.target)
                    break
                except OSError as e:
                    if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                if not better():
                    return False
                if _exchange(self.out, self.target):
                    break
                try:  # no atomic exchange on this file system: for an instant there is none
                    self.target.rename(self.path / f"old-{secrets.token_hex(4)}")
                except FileNotFoundError:
                    if not self._there():
                        raise
            storage.fsync_dir(self.target.parent)
            if _identity(self.target) != ours:
                return False  # another one has taken its place already
            if _inventory(self.target) != whole:
                self.target.rename(self.target.parent / f".{self.target.name}-broken-{secrets.token_hex(4)}")
                raise self._swept()
        return True


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _inventory(path: Path) -> dict[str, int]:
    """Sizes of all files, by name."""
    return {str(p.relative_to(path)): p.stat().st_size for p in path.rglob("*") if p.is_file()}


def _exchange(a: Path, b: Path) -> bool:
    """Swap two directories in one step, where kernel and file system can."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0)


def sweep(target: Path) -> list[Path]:
    """Remove what dead owners left beside `target`; of another node's, what was seen silent for long."""
    ours = re.compile(re.escape(f".{target.name}-") + r".*" + _TOKEN, re.DOTALL)
    found = [
        p
        for p in sorted(target.parent.glob(".*"))
        if ours.fullmatch(p.name) and p.is_dir() and not p.is_symlink()
        if os.access(p, os.R_OK | os.W_OK | os.X_OK)  # another member's of the group is theirs to sweep
    ]
    if not found:
        return []
    with Sightings() as seen:
        return [
            p
            for p in found
            if _unclaimed(p, target) or seen.dead(Owner.read(p / "owner.json"), _heart(p), SILENT_S)
            if _remove(p, target)
        ]


def _prefix(target: Path) -> str:
    """Begin of the names of this node's temporary directories."""
    return f".{target.name}-{os.uname().nodename}-"


def _unclaimed(path: Path, target: Path) -> bool:
    """Whether somebody of this node has made it and nothing more: dead, or else begins again (`Staging`)."""
    mine = re.fullmatch(re.escape(_prefix(target)) + "[0-9a-f]{8}", path.name)
    return bool(mine) and not (path / "out").is_dir() and Owner.read(path / "owner.json") is None


def _heart(path: Path) -> Path:
    """What is touched as long as its owner lives; the directory itself, if it was killed before that was there."""
    owner = path / "owner.json"
    return owner if owner.is_file() else path


def _remove(path: Path, target: Path) -> bool:
    """Take a directory away, then remove it; false when another one was faster."""
    grave = target.parent / f".{target.name}-swept-{secrets.token_hex(4)}"
    try:
        path.rename(grave)
    except OSError as e:
        log.debug("%s: not swept: %s", path, e.strerror)
        return False
    log.info("%s: removing what a dead process left", path)
    with contextlib.suppress(FileNotFoundError):
        # An owner on another node may hold a handle of the directory, by which it can still rename `out` into place:
        # then there is none here any more, and what it has published is not touched.
        (grave / "out").rename(grave / "gone")
    for part in sorted(grave.iterdir(), key=lambda p: p.name == "owner.json"):  # who it was, last
        shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)
    shutil.rmtree(grave, ignore_errors=True)
    return True
