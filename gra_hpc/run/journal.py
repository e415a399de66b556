"""The journal: every answered model call, durable, served again when the same question is asked again.

One append-only file per attempt, with one writer ever. A line is

    crc32 of the rest, 8 hex digits | digest of key and request, 32 hex digits | JSON of the call

A call is safe from a kill as soon as `append` returns (it is in the kernel), and from a power loss after the next
batched fsync, which a thread does beside the event loop. Reading trusts nothing: a torn tail is cut off; a line that is
not what was written, or that holds no call of its name, is isolated and counted, as is a file that cannot be read;
everything else is kept.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from itertools import islice
from math import isfinite
from operator import attrgetter
from pathlib import Path
from typing import Any

import orjson

from gra_hpc.errors import StorageError
from gra_hpc.records import Call
from gra_hpc.storage import fsync_dir, full_disk_as_error

log = logging.getLogger(__name__)

_HEAD = 8 + 1 + 32 + 1
_BLOCK = 8 << 20
_LONGEST = 0xFFFFFF
"""Bytes of the longest line: its length has 24 bits in the index."""
_NAMED = 20
"""Corrupt lines whose place is told; all are counted."""
_STARTS = 64
"""So many places in a corrupt line may be the beginning of a whole one."""
_FIELDS = attrgetter(*(f.name for f in fields(Call)))
_START = re.compile(rb"[0-9a-f]{8} [0-9a-f]{32} \[")
_TYPES: tuple[type, ...] = tuple({"str": str, "int": int, "float": float}[str(f.type)] for f in fields(Call))


def call_name(key: str, digest: str) -> bytes:
    """Name of a call in the index: digest of its key and its request."""
    return blake2b(f"{key}\0{digest}".encode(), digest_size=16).digest()


def encode(call: Call, name: bytes = b"") -> bytes:
    """One journal line; thoughts are its last field, and only there where there are some.

    Args:
        name: the call's, where it is known already.
    """
    values = _FIELDS(call)
    written = orjson.dumps(values if call.thoughts else values[:-1])
    body = b"%s %s" % ((name or call_name(call.key, call.digest)).hex().encode(), written)
    return b"%08x %s\n" % (zlib.crc32(body), body)


def decode(line: bytes) -> Call:
    """The call in one journal line.

    Raises:
        ValueError: its checksum is wrong, or it holds no call, or another one than its name says.
    """
    if not _whole(line):
        raise ValueError("its checksum is wrong")
    values = orjson.loads(line[_HEAD:])
    if isinstance(values, list) and len(values) == len(_TYPES) - 1:
        values.append("")
    if not isinstance(values, list) or tuple(map(type, values)) != _TYPES:
        values = _typed(values)
    call = Call(*values)
    counts = 0 <= call.prompt_tokens < 1 << 31 and 0 <= call.completion_tokens < 1 << 31
    if not (counts and -(1 << 63) <= call.seed < 1 << 63 and isfinite(call.at) and isfinite(call.seconds)):
        raise ValueError("a number out of its range")
    if line[9 : _HEAD - 1] != call_name(call.key, call.digest).hex().encode():
        raise ValueError("not the call of its name")
    return call


def _typed(values: Any) -> list[Any]:
    """The fields of a call; a whole number may stand where another one belongs.

    Raises:
        ValueError: they are others.
    """
    if not isinstance(values, list) or len(values) != len(_TYPES):
        raise ValueError("not the fields of a call")
    out = [float(v) if t is float and type(v) is int else v for v, t in zip(values, _TYPES, strict=True)]
    if tuple(map(type, out)) != _TYPES:
        raise ValueError("a field of another type")
    return out


def _whole(line: bytes | memoryview) -> bool:
    return len(line) > _HEAD and bytes(line[:9]) == b"%08x " % zlib.crc32(line[9:])


def _call(line: bytes) -> Call | None:
    """The call in a line; none if it holds none."""
    try:
        return decode(line)
    except ValueError:
        return None


@dataclass
class Scan:
    """What reading one journal file found."""

    path: Path
    calls: int = 0
    corrupt: int = 0
    """Lines that are not what was written, or hold no call of their name."""
    corrupt_at: list[int] = field(default_factory=list)
    """Byte offsets of the first of them."""
    torn: int = 0
    """Bytes of an unfinished last line, cut off."""
    problem: str = ""
    """Why the file could not be read, or not to its end; empty: it could."""

    def spoilt(self, at: int) -> None:
        """Count a corrupt line."""
        self.corrupt += 1
        if self.corrupt <= _NAMED:
            self.corrupt_at.append(at)


def scan(path: Path, found: Scan) -> Iterator[tuple[bytes, int, int, str]]:
    """The calls of a journal: name, offset and length of the line in bytes, id of the sample. `found` is filled on the
    way; an error of the file system ends the journal there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO of that name would wait for ever
    except OSError as e:
        found.problem = e.strerror or str(e)
        return
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            yield from _scan(fd, found)
        else:
            found.problem = "not a regular file"
    except OSError as e:
        found.problem = e.strerror or str(e)
    finally:
        os.close(fd)


def _scan(fd: int, found: Scan) -> Iterator[tuple[bytes, int, int, str]]:
    start, rest, beyond = 0, b"", False
    while block := os.read(fd, _BLOCK):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if beyond:  # the end of a line that is longer than any of ours
                beyond = False
            elif (call := _call(line)) is not None:
                found.calls += 1
                yield call_name(call.key, call.digest), start, len(line), _sample(call)
            else:
                found.spoilt(start)
                # where the line break itself was destroyed, the next call is still behind it
                for m in islice(_START.finditer(line, 1), _STARTS):
                    inner = line[m.start() :]
                    if (call := _call(inner)) is not None:
                        found.calls += 1
                        yield call_name(call.key, call.digest), start + m.start(), len(inner), _sample(call)
                        break
            start += len(line) + 1
        if len(rest) > _LONGEST:
            if not beyond:
                found.spoilt(start)
            beyond, start, rest = True, start + len(rest), b""
    found.torn = 0 if beyond else len(rest)


def _sample(call: Call) -> str:
    """The sample's id: a call's key begins with it."""
    return call.key.partition("/")[0]


class Journal:
    """All journals of a shard, read; and the one of this attempt, written.

    Args:
        earlier: journal files of other attempts, in attempt order: the first answer to a question wins.
        path: this attempt's file; it must not exist yet.
        fsync_s: longest time an answer may wait for the disk, in seconds.
        fsync_calls: most answers that may wait for the disk.
    """

    def __init__(self, earlier: Sequence[Path], path: Path, fsync_s: float = 5.0, fsync_calls: int = 256) -> None:
        self.path = path
        self.scans: list[Scan] = []
        self.appended = 0
        self.served = 0
        self.gone = 0
        """Lines that held a call when they were read first, and none when its answer was wanted; asked again."""
        self.lost: dict[bytes, None] = {}
        """Names of calls that were served or appended, and whose line holds none now: `used` is without them."""
        self._files: list[int] = []
        # name -> file number, offset, length, packed into one integer: 1M calls take about 200 MB
        self._index: dict[bytes, int] = {}
        self._used: dict[bytes, None] = {}
        self._touched: dict[str, None] = {}
        self._size = 0
        self._failed: StorageError | OSError | None = None
        self._told = False
        self._fsync_s, self._fsync_calls = fsync_s, fsync_calls
        self._waiting = 0
        self._wake = threading.Event()
        self._closing = False
        for file in earlier:
            self._read(file)
        with full_disk_as_error(path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
            fsync_dir(path.parent)
        self._files.append(fd)
        self._fd = fd
        self._thread = threading.Thread(target=self._sync_forever, name="journal-fsync", daemon=True)
        self._thread.start()

    def _read(self, path: Path) -> None:
        found = Scan(path)
        number = len(self._files)
        for name, offset, length, sample in scan(path, found):
            self._index.setdefault(name, number << 64 | offset << 24 | length)
            self._touched.pop(sample, None)
            self._touched[sample] = None
        self.scans.append(found)
        if found.calls:  # attempts that came to nothing may be many; open files may not
            self._files.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        for offset in found.corrupt_at:
            log.warning("%s: byte %d: corrupt line skipped; its call will be asked again", path, offset)
        if found.corrupt > len(found.corrupt_at):
            log.warning("%s: %d more corrupt lines", path, found.corrupt - len(found.corrupt_at))
        if found.torn:
            log.warning("%s: unfinished last line (%d bytes) cut off", path, found.torn)
        if found.problem:
            log.warning("%s: %s: what else it holds will be asked again", path, found.problem)

    def __len__(self) -> int:
        return len(self._index)

    def touched(self) -> list[str]:
        """Samples that earlier attempts have asked about, the latest first: there the work was cut off."""
        return list(reversed(self._touched))

    @property
    def corrupt(self) -> int:
        """Lines that could not be used, in all journals."""
        return sum(s.corrupt for s in self.scans) + self.gone

    @property
    def unread(self) -> int:
        """Journals that could not be read, or not to their end."""
        return sum(bool(s.problem) for s in self.scans)

    def get(self, key: str, digest: str) -> Call | None:
        """The answer to a question, if it was asked before with the same request."""
        name = call_name(key, digest)
        place = self._index.get(name)
        if place is None:
            return None
        call = self._load(place)
        if call is None:
            log.warning("a call of %s can no longer be read from its journal; asked again", key.partition("/")[0])
            del self._index[name]
            self.gone += 1
            return None
        self.served += 1
        self._used[name] = None
        return call

    def _load(self, place: int) -> Call | None:
        try:
            return _call(os.pread(self._files[place >> 64], place & _LONGEST, place >> 24 & 0xFFFFFFFFFF))
        except OSError as e:
            log.warning("%s: %s", self.path.parent.parent, e.strerror)
            return None

    def append(self, call: Call) -> None:
        """Keep an answer. When this returns, a kill cannot lose it.

        Raises:
            StorageError: disk full or quota exceeded, now or in an fsync since the last call.
        """
        if self._failed is not None:
            self._told = True
            raise self._failed
        name = call_name(call.key, call.digest)
        line = encode(call, name)
        if len(line) > _LONGEST:
            raise StorageError(f"{self.path}: an answer of {len(line)} bytes is too long for the journal")
        try:
            with full_disk_as_error(self.path):
                written = os.write(self._fd, line)
                while written < len(line):
                    written += os.write(self._fd, line[written:])
        except (StorageError, OSError) as e:
            self._failed, self._told = e, True  # the file may end in a torn line: nothing may follow it
            raise
        self._index.setdefault(name, (len(self._files) - 1) << 64 | self._size << 24 | len(line) - 1)
        self._used[name] = None
        self._size += len(line)
        self.appended += 1
        self._waiting += 1
        if self._waiting >= self._fsync_calls:
            self._wake.set()

    def used(self) -> Iterator[Call]:
        """Every call that was served or appended in this attempt, in key order: what the shard publishes. What can no
        longer be read is counted (`lost`): its answer has been used, and is asked no more."""
        self.lost = {}
        keyed = []
        for name in self._used:
            if (call := self._used_call(name)) is not None:
                keyed.append((call.key, name))
        for _, name in sorted(keyed):
            if (call := self._used_call(name)) is not None:
                yield call
        if self.lost:
            log.warning(
                "%s: %d used answers can no longer be read from their journals: they are not in the calls table",
                self.path, len(self.lost),
            )  # fmt: skip

    def _used_call(self, name: bytes) -> Call | None:
        place = self._index.get(name)
        call = None if place is None else self._load(place)
        if call is None:
            self.lost[name] = None
        return call

    def flush(self) -> None:
        """Make everything appended so far durable.

        Raises:
            StorageError, OSError: the disk did not take it, now or before: the kernel reports a failed write once,
                and a second fsync would succeed without it.
        """
        if self._failed is None:
            self._sync()
        if self._failed is not None:
            self._told = True
            raise self._failed

    def _sync(self) -> None:
        self._waiting = 0
        try:
            with full_disk_as_error(self.path):
                os.fsync(self._fd)
        except (StorageError, OSError) as e:
            self._failed = e

    def _sync_forever(self) -> None:
        while not self._closing:
            self._wake.wait(self._fsync_s)
            self._wake.clear()
            if self._waiting and not self._closing and self._failed is None:
                self._sync()

    def close(self) -> None:
        """Flush and close; further calls are an error.

        Raises:
            StorageError, OSError: the disk did not take everything, and no call has said so yet.
        """
        if self._closing:
            return
        self._closing = True
        self._wake.set()
        self._thread.join()
        try:
            if not self._told:
                self.flush()
        finally:
            for fd in self._files:
                os.close(fd)
