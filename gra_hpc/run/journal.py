"""The journal: every answered model call, durable, served again when the same question is asked again.

One append-only file per attempt, with one writer ever. A line is

    crc32 of the rest, 8 hex digits | digest of key and request, 32 hex digits | JSON of the call

A call is safe from a kill as soon as `append` returns (it is in the kernel), and from a power loss after the next
batched fsync, which a thread does beside the event loop. Reading trusts nothing: a torn tail is cut off, a corrupt line
is isolated and reported, everything else is kept.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from operator import attrgetter
from pathlib import Path

import orjson

from gra_hpc.errors import StorageError
from gra_hpc.records import Call
from gra_hpc.storage import fsync_dir, full_disk_as_error

log = logging.getLogger(__name__)

_HEAD = 8 + 1 + 32 + 1
_BLOCK = 8 << 20
_FIELDS = attrgetter(*(f.name for f in fields(Call)))
_START = re.compile(rb"[0-9a-f]{8} [0-9a-f]{32} \[")


def call_name(key: str, digest: str) -> bytes:
    """Name of a call in the index: digest of its key and its request."""
    return blake2b(f"{key}\0{digest}".encode(), digest_size=16).digest()


def encode(call: Call) -> bytes:
    """One journal line."""
    body = b"%s %s" % (call_name(call.key, call.digest).hex().encode(), orjson.dumps(_FIELDS(call)))
    return b"%08x %s\n" % (zlib.crc32(body), body)


def decode(line: bytes) -> Call:
    """The call in one whole journal line."""
    return Call(*orjson.loads(line[_HEAD:]))


def _whole(line: bytes | memoryview) -> bool:
    return len(line) > _HEAD and bytes(line[:9]) == b"%08x " % zlib.crc32(line[9:])


def _sample(line: bytes) -> bytes:
    """The sample's id in a whole line: its key begins with it."""
    start = _HEAD + 2
    return line[start : line.find(b"/", start)]


@dataclass
class Scan:
    """What reading one journal file found."""

    path: Path
    calls: int = 0
    corrupt: list[int] = field(default_factory=list)
    """Byte offsets of lines that are not what was written."""
    torn: int = 0
    """Bytes of an unfinished last line, cut off."""


def scan(path: Path, found: Scan) -> Iterator[tuple[bytes, int, int, bytes]]:
    """The whole lines of a journal: name of the call, offset and length in bytes, id of its sample. `found` is filled
    on the way."""
    start = 0
    rest = b""
    with path.open("rb", buffering=0) as f:
        while block := f.read(_BLOCK):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                if _whole(line):
                    found.calls += 1
                    yield bytes.fromhex(line[9:41].decode()), start, len(line), _sample(line)
                else:
                    found.corrupt.append(start)
                    # where the line break itself was destroyed, the next call is still behind it
                    for m in _START.finditer(line, 1):
                        inner = line[m.start() :]
                        if _whole(inner):
                            found.calls += 1
                            name = bytes.fromhex(inner[9:41].decode())
                            yield name, start + m.start(), len(inner), _sample(inner)
                            break
                start += len(line) + 1
    found.torn = len(rest)


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
        self._files: list[int] = []
        # name -> file number, offset, length, packed into one integer: 1M calls take about 200 MB
        self._index: dict[bytes, int] = {}
        self._used: dict[bytes, None] = {}
        self._touched: dict[bytes, None] = {}
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
        self._files.append(os.open(path, os.O_RDONLY))
        for name, offset, length, sample in scan(path, found):
            self._index.setdefault(name, number << 64 | offset << 24 | length)
            self._touched.pop(sample, None)
            self._touched[sample] = None
        self.scans.append(found)
        if not found.calls:  # attempts that came to nothing may be many; open files may not
            os.close(self._files.pop())
        for offset in found.corrupt:
            log.warning("%s: byte %d: corrupt line skipped; its call will be asked again", path, offset)
        if found.torn:
            log.warning("%s: unfinished last line (%d bytes) cut off", path, found.torn)

    def __len__(self) -> int:
        return len(self._index)

    def touched(self) -> list[str]:
        """Samples that earlier attempts have asked about, the latest first: there the work was cut off."""
        return [sample.decode() for sample in reversed(self._touched)]

    def get(self, key: str, digest: str) -> Call | None:
        """The answer to a question, if it was asked before with the same request."""
        name = call_name(key, digest)
        place = self._index.get(name)
        if place is None:
            return None
        call = self._load(place)
        if call is None:
            del self._index[name]
            return None
        self.served += 1
        self._used[name] = None
        return call

    def _load(self, place: int) -> Call | None:
        length = place & 0xFFFFFF
        line = os.pread(self._files[place >> 64], length, place >> 24 & 0xFFFFFFFFFF)
        return decode(line) if len(line) == length and _whole(line) else None

    def append(self, call: Call) -> None:
        """Keep an answer. When this returns, a kill cannot lose it.

        Raises:
            StorageError: disk full or quota exceeded, now or in an fsync since the last call.
        """
        if self._failed is not None:
            self._told = True
            raise self._failed
        line = encode(call)
        if len(line) > 0xFFFFFF:
            raise StorageError(f"{self.path}: an answer of {len(line)} bytes is too long for the journal")
        try:
            with full_disk_as_error(self.path):
                written = os.write(self._fd, line)
                while written < len(line):
                    written += os.write(self._fd, line[written:])
        except (StorageError, OSError) as e:
            self._failed, self._told = e, True  # the file may end in a torn line: nothing may follow it
            raise
        name = call_name(call.key, call.digest)
        self._index.setdefault(name, (len(self._files) - 1) << 64 | self._size << 24 | len(line) - 1)
        self._used[name] = None
        self._size += len(line)
        self.appended += 1
        self._waiting += 1
        if self._waiting >= self._fsync_calls:
            self._wake.set()

    def used(self) -> Iterator[Call]:
        """Every call that was served or appended in this attempt, in key order: what the shard publishes."""
        keyed = sorted((call.key, name) for name in self._used if (call := self._load(self._index[name])))
        for _, name in keyed:
            call = self._load(self._index[name])
            if call is not None:
                yield call

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
