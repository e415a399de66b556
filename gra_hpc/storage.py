"""Writing files so that a reader sees all of one or nothing, on local disks and shared file systems."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from gra_hpc.errors import StorageError

_NO_ROOM = {errno.ENOSPC: "no space left", errno.EDQUOT: "quota exceeded", errno.EFBIG: "file too large"}


@contextmanager
def room(path: Path, then: str = "") -> Iterator[None]:
    """Turn 'disk full' and 'quota exceeded' into one clear line; other errors pass."""
    try:
        yield
    except OSError as e:
        if e.errno in _NO_ROOM:
            raise StorageError(
                f"{path}: {_NO_ROOM[e.errno]} on this file system; nothing was published half",
                then or "make room, then gra resume RUN",
            ) from e
        raise


def fsync_dir(path: Path) -> None:
    """Make renames in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_file(path: Path) -> None:
    """Make a file's content durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file: temporary name, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with room(path):
        try:
            with temporary.open("wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            temporary.replace(path)
            fsync_dir(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_once(path: Path, data: bytes) -> bool:
    """Create a file whole, or leave the one that is there: of two writers, one wins.

    Returns:
        Whether this call's data is what the file holds.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.uname().nodename}.tmp")
    with room(path):
        try:
            with temporary.open("wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            try:
                os.link(temporary, path)  # atomic and exclusive, also on NFS
            except FileExistsError:
                return path.read_bytes() == data
            except OSError as e:
                if e.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK):
                    raise
                if path.exists():  # a file system without hard links: last writer wins, still whole
                    return path.read_bytes() == data
                temporary.replace(path)
            fsync_dir(path.parent)
            return True
        finally:
            temporary.unlink(missing_ok=True)


def to_json(value: Any) -> bytes:
    """Sorted, indented JSON: the same value gives the same bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def read_json(path: Path) -> Any:
    """Parsed JSON.

    Raises:
        StorageError: naming the file, when it is not JSON.
        FileNotFoundError: when it does not exist.
    """
    try:
        return orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as e:
        raise StorageError(f"{path}: not valid JSON ({e})", "bring the file back, then type that again") from None


def read_object(path: Path, *keys: str, then: str = "") -> dict[str, Any]:
    """A JSON object that has some keys.

    Args:
        keys: with dots, those of objects inside.
        then: what to do about another one.

    Raises:
        StorageError: naming the file, and the first key that is missing.
        FileNotFoundError: when it does not exist.
    """
    data = read_json(path)
    for key in ("", *keys):
        value = data
        for part in key.split(".") if key else ():
            value = value.get(part) if isinstance(value, dict) else None
        if value is None or not (key or isinstance(value, dict)):
            raise StorageError(
                f"{path}: {f'without {key}' if key else 'not an object'}",
                then or "bring the file back, then type that again",
            )
    assert isinstance(data, dict)
    return data


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
