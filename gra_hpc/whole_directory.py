"""A directory that appears whole: built beside its final place, renamed into it, its remains swept after a death."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from gra_hpc import storage

log = logging.getLogger(__name__)

_BEAT_S = 30.0
_SILENT_S = 900.0
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class Staging:
    """A temporary directory for one future directory: `out` becomes it, `scratch` is thrown away.

    The owner holds a file lock (the kernel drops it when the owner dies), and touches the lock file, so that another
    node can tell a dead owner from a busy one.
    """

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> Staging:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        sweep(self.target)
        while not self._make():
            pass
        self.out = self.path / "out"
        self.scratch = self.path / "scratch"
        self._stop = threading.Event()
        self._beat = threading.Thread(target=self._touch, daemon=True)
        self._beat.start()
        try:
            with storage.room(self.path):
                self.out.mkdir()
                self.scratch.mkdir()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _make(self) -> bool:
        """Create the directory and lock it; false when another merge swept it in between."""
        self.path = self.target.parent / f".{self.target.name}-{os.uname().nodename}-{secrets.token_hex(4)}"
        lock = self.path / "lock"
        with storage.room(self.path):
            self.path.mkdir()
            try:
                self._lock = os.open(lock, os.O_CREAT | os.O_RDWR, 0o644)
            except FileNotFoundError:
                return False
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            return False
        except OSError:
            log.debug("%s: no file locks here; other merges go by the heartbeat", self.path)
        try:
            if lock.stat().st_ino == os.fstat(self._lock).st_ino:
                return True
        except FileNotFoundError:
            pass
        os.close(self._lock)
        return False

    def _touch(self) -> None:
        while not self._stop.wait(_BEAT_S):
            try:
                os.utime(self._lock)
            except OSError:
                return

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._beat.join()
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def publish(self, better: Callable[[], bool]) -> bool:
        """Rename `out` into place.

        Args:
            better: asked when something is there already: whether ours should take its place.

        Returns:
            Whether ours is in place.
        """
        with storage.room(self.out):
            for path in sorted(self.out.rglob("*"), reverse=True):  # what is in a directory before its entries
                if path.is_dir():
                    storage.fsync_dir(path)
                elif path.is_file():
                    storage.fsync_file(path)
            storage.fsync_dir(self.out)
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
                    continue
            storage.fsync_dir(self.target.parent)
        return True


def _exchange(a: Path, b: Path) -> bool:
    """Swap two directories in one step, where kernel and file system can."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0)


def sweep(target: Path) -> list[Path]:
    """Remove what dead owners left beside `target`."""
    return [p for p in sorted(target.parent.glob(f".{target.name}-*")) if p.is_dir() and _remove_if_dead(p, target)]


def _remove_if_dead(path: Path, target: Path) -> bool:
    try:
        # Made if it is not there: its owner was killed before it had its lock, or is about to take it. Whoever takes it
        # first has the directory.
        fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        return False
    try:
        dead = time.time() - os.fstat(fd).st_mtime > _SILENT_S
        if path.name.startswith(f".{target.name}-{os.uname().nodename}-"):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held while we remove it
                dead = True
            except BlockingIOError:
                dead = False
            except OSError:
                pass  # no locks on this file system: by the heartbeat
        if dead:
            log.info("%s: removing what a dead merge left", path)
            shutil.rmtree(path, ignore_errors=True)
        return dead
    finally:
        os.close(fd)
