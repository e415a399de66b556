"""Writing files so that a reader sees all of one or nothing, on local disks and shared file systems."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from gra_hpc.errors import ReleaseError, StorageError

WHOLE_BYTES = 512 << 20
"""Longest file that is read whole."""
SEAL = "seal"
"""Key of a JSON object that holds the digest of all others."""
LOCAL_TYPES = frozenset(
    ["tmpfs", "ramfs", "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "overlay", "zfs", "squashfs"]
)
"""File systems of one machine, unless it exports them."""
_NO_ROOM = {errno.ENOSPC: "no space left", errno.EDQUOT: "quota exceeded", errno.EFBIG: "file too large"}


@contextmanager
def full_disk_as_error(path: Path, then: str = "") -> Iterator[None]:
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


OWN = 0o644
"""Mode of a file that nobody else may write, whatever the umask: of what decides what runs as this user."""
PRIVATE = 0o600
"""Mode of a file that nobody else may read either."""


def new_beside(path: Path, mode: int = 0o666) -> BinaryIO:
    """A new, empty file beside `path`, open for writing; its `name` is its path.

    Nobody can foresee the name, and it is created exclusively: where others may write, a link that they have planted
    is not followed.

    Args:
        mode: its permissions, from which the umask takes.
    """
    name = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
    return open(name, "xb", opener=lambda p, flags: os.open(p, flags, mode))


def new_file(path: Path) -> BinaryIO:
    """A new, empty file at `path`, open for writing, without a buffer. What was there goes, a link for itself alone."""
    path.unlink(missing_ok=True)
    return path.open("xb", buffering=0)


def opened_here(path: str, flags: int) -> int:
    """An `opener` for `open`: the file itself, never what a link of that name points to.

    Raises:
        OSError: it is a link.
    """
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


@contextmanager
def whole_file(path: Path, durable: bool = True, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to fill, which takes the name `path` when the block ends. After an error it is gone, and `path` as it was.

    Args:
        durable: whether it must outlive a power loss.
        mode: its permissions, from which the umask takes.

    Raises:
        StorageError: no room.
    """
    with full_disk_as_error(path), new_beside(path, mode) as f:
        temporary = Path(f.name)
        try:
            yield f
            f.flush()
            if durable:
                os.fsync(f.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            fsync_dir(path.parent)


def write_atomic(path: Path, data: bytes, durable: bool = True, mode: int = 0o666) -> None:
    """Replace a file: temporary name, fsync unless it only informs, rename."""
    with whole_file(path, durable, mode) as f:
        f.write(data)


def to_json(value: Any) -> bytes:
    """Sorted, indented JSON: the same value gives the same bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def sealed(value: dict[str, Any]) -> bytes:
    """`to_json` of an object that carries a digest of itself, so that a changed bit is noticed where it is read."""
    return to_json({**value, SEAL: hashlib.sha256(to_json(value)).hexdigest()})


def unsealed(value: Any) -> Any:
    """Parsed JSON without its seal; what has none is returned as it is.

    Raises:
        ValueError: it is not what was sealed.
    """
    if not isinstance(value, dict) or SEAL not in value:
        return value
    rest = {k: v for k, v in value.items() if k != SEAL}
    if hashlib.sha256(to_json(rest)).hexdigest() != value[SEAL]:
        raise ValueError("changed since it was written: its seal is not that of its content")
    return rest


def read_regular(path: Path) -> bytes:
    """A file's bytes, if it is one (`open_regular`).

    Raises:
        OSError: it cannot be opened, or is something else.
        StorageError: it is larger than any that is read whole.
    """
    with open_regular(path) as f:
        size = os.fstat(f.fileno()).st_size
        if size > WHOLE_BYTES:
            raise StorageError(f"{path}: more than {WHOLE_BYTES >> 20} MiB", "bring the file back")
        data = f.read(size + 1)  # room for all that may be read would be made, and given back, for every small file
        return data if len(data) <= size else data + f.read(WHOLE_BYTES - len(data))


def read_json(path: Path, read: Callable[[Path], bytes] | None = None, then: str = "") -> Any:
    """Parsed JSON, without its seal.

    Args:
        then: what to do about a file that is none.
        read: reads the file, where that is not done as always.

    Raises:
        StorageError: naming the file, when it is not JSON, or changed since it was sealed.
        FileNotFoundError: when it does not exist.
    """
    then = then or "bring the file back, then type that again"
    try:
        value = orjson.loads((read or read_regular)(path))
    except orjson.JSONDecodeError as e:
        raise StorageError(f"{path}: not valid JSON ({e})", then) from None
    try:
        return unsealed(value)
    except (ValueError, TypeError) as e:  # TypeError: nested more deeply than any of ours
        raise StorageError(f"{path}: {e}", then) from None


def read_object(path: Path, *keys: str, then: str = "", read: Callable[[Path], bytes] | None = None) -> dict[str, Any]:
    """A JSON object that has some keys.

    Args:
        keys: with dots, those of objects inside.
        then: what to do about another one.
        read: reads the file, where that is not done as always.

    Raises:
        StorageError: naming the file, and the first key that is missing.
        FileNotFoundError: when it does not exist.
    """
    data = read_json(path, read, then)
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


def open_regular(path: Path) -> BufferedReader:
    """A file open for reading, if it is one: a FIFO that nobody writes to, or a device, would have no end.

    Raises:
        OSError: it cannot be opened, or is something else; the directory of a link's target does not matter.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:  # a NUL in its name
        raise OSError(errno.EINVAL, "no name of a file", str(path)) from None
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, "Is a directory" if stat.S_ISDIR(mode) else "not a regular file", str(path))
    return os.fdopen(fd, "rb")


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read to its end."""
    with open_regular(path) as f:
        before = _state(f.fileno())
        found = hashlib.file_digest(f, "sha256").hexdigest()
        if _state(f.fileno()) == before:
            _found[before] = found
    return found


def known_sha256(path: Path) -> str:
    """The same, read once a process unless it has changed."""
    with open_regular(path) as f:
        return _found.get(_state(f.fileno())) or sha256(path)


def entry(path: Path) -> dict[str, Any]:
    """What a manifest says of a file: its bytes and its SHA-256."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def checked(path: Path, recorded: Mapping[str, Any], then: str | Callable[[], str] = "") -> Path:
    """A file that is still what was recorded of it: read once a process, and again when it has changed since.

    Args:
        recorded: `bytes` and `sha256`, as `entry` makes them.
        then: what to do about another one, or what finds that out then.

    Raises:
        ReleaseError: it is not there, cannot be read, or is another one.
    """

    def wrong(what: str) -> ReleaseError:
        return ReleaseError(
            f"{path}: {what}", (then() if callable(then) else then) or "bring the file back, then type that again"
        )

    try:
        with open_regular(path) as f:
            size, found = os.fstat(f.fileno()).st_size, _found.get(_state(f.fileno()))
        if size != recorded["bytes"]:
            raise wrong(f"{size} bytes, {recorded['bytes']} were recorded")
        found = found or sha256(path)
    except OSError as e:
        raise wrong(f"{e.strerror}, though it was recorded") from None
    if found != (wanted := str(recorded["sha256"])):
        raise wrong(f"changed since it was written (SHA-256 {found[:12]}..., {wanted[:12]}... was recorded)")
    return path


_found: dict[tuple[int, ...], str] = {}
"""SHA-256 of files that this process has read, by what changes when a file does; a new name changes nothing."""


def _state(fd: int) -> tuple[int, ...]:
    s = os.fstat(fd)
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


def file_system(path: Path) -> str:
    """Type of the file system that a directory lies on (ext4, nfs4, lustre, ...)."""
    return mount_of(path)[1]


def mount_of(path: Path) -> tuple[str, str]:
    """Device (or server's directory) and type of the file system that a directory lies on."""
    best, source, kind = "", "", ""
    real = str(path.resolve())
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        device, mount, type_, *_ = line.split(" ")
        mount = mount.replace("\\040", " ")
        if len(mount) >= len(best) and (real == mount or real.startswith(mount.rstrip("/") + "/")):
            best, source, kind = mount, device, type_
    return source, kind
