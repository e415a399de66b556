"""Checks of directories: does the shared one keep its promises, is there room, do clocks agree."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from gra_hpc import once
from gra_hpc.config.site import SiteConfig
from gra_hpc.doctor.finding import Finding, failure, ok, warning
from gra_hpc.errors import StorageError
from gra_hpc.permissions import in_other_hands
from gra_hpc.run import disk_space
from gra_hpc.run.engines import local_directory
from gra_hpc.storage import LOCAL_TYPES, file_system, new_file

ROOM_GB, LEAST_GB = 10.0, 1.0
INODES, LEAST_INODES = 50_000, 2_000
SKEW_S = 5.0
SLOW_S = 0.1


def shared(directory: Path, slurm: bool) -> Iterable[Finding]:
    """A directory for runs or caches: writable, renames that replace, exclusive links, room.

    Args:
        slurm: whether other nodes have to see it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        yield failure(f"{directory}: cannot be made ({e.strerror})", "choose a directory of yours on the shared disk")
        return
    kind = file_system(directory)
    where = f"{directory} ({kind or 'file system unknown'})"
    probe = directory / f".gra-doctor-{socket.gethostname()}-{secrets.token_hex(4)}"
    try:
        began = time.monotonic()
        _promises(probe)
        how = once.check(directory)
        took = time.monotonic() - began
    except OSError as e:
        yield failure(f"{where}: {e.strerror}", "choose a directory of yours with quota left: df -h, df -i, quota -s")
        return
    except AssertionError as e:
        yield failure(f"{where}: {e}", "use another file system: results are published by rename")
        return
    except StorageError as e:
        yield failure(e.what, e.then)
        return
    finally:
        for suffix in ("", ".new"):
            probe.with_name(probe.name + suffix).unlink(missing_ok=True)
    if slurm and kind in LOCAL_TYPES:
        yield warning(
            f"{where}: looks like a disk of this machine alone", "gra doctor SITE --job tells whether nodes see it"
        )
    else:
        yield ok(f"{where}: writable, renames replace, {how} are exclusive")
    if took > SLOW_S * 10:
        yield warning(f"{where}: ten small files took {took:.1f} s", "metadata is slow now: prefer few large shards")
    yield from space_left(directory)


def _promises(probe: Path) -> None:
    """What storage.py relies on.

    Raises:
        AssertionError: with what does not hold.
    """
    new = probe.with_name(f"{probe.name}.new")
    _write(probe, b"old")
    for i in range(10):
        _write(new, b"new %d" % i)
        new.replace(probe)
    if probe.read_bytes() != b"new 9":
        raise AssertionError("a rename did not replace the file")


def _write(path: Path, data: bytes) -> None:
    """A new file, durable."""
    with new_file(path) as f:
        f.write(data)
        os.fsync(f.fileno())


def space_left(directory: Path, least_gb: float = LEAST_GB, good_gb: float = ROOM_GB) -> Iterable[Finding]:
    """Free bytes and inodes, as the file system and the quota commands tell."""
    left = disk_space.free(directory)
    free = left.bytes / 1e9
    text = f"{directory}: {free:,.0f} GB free" + ("" if left.files is None else f", {left.files:,} inodes")
    if free < least_gb or (left.files is not None and left.files < LEAST_INODES):
        yield failure(text, "make room, or choose another directory")
    elif free < good_gb or (left.files is not None and left.files < INODES):
        yield warning(text, "a run needs about 10 files per shard and 10 GB per million samples: make room")
    else:
        yield ok(f"{text} (by file system and quota)")


def local(site: SiteConfig) -> Iterable[Finding]:
    """The node-local directory: writable, able to hold sockets, not shared."""
    directory = local_directory(site)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"gra-doctor-{secrets.token_hex(4)}"
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(str(path))
        path.unlink()
    except OSError as e:
        yield failure(
            f"node-local directory {directory}: no Unix socket can be made there ({e.strerror or e})",
            "site.local_dir=/tmp, or what your site names $TMPDIR",
        )
        return
    kind = file_system(directory)
    if in_other_hands(directory):
        yield warning(
            f"node-local directory {directory}: others could put theirs in the place of ours; /tmp is used instead",
            "site.local_dir=a directory of yours, or one with a sticky bit",
        )
    elif kind and kind not in LOCAL_TYPES:
        yield warning(f"node-local directory {directory} is on {kind}", "site.local_dir=a disk of the node itself")
    else:
        yield ok(f"node-local directory {directory} ({kind})")
    yield from space_left(directory, 0.5, 5.0)


def clock(directory: Path) -> Iterable[Finding]:
    """This machine's clock against the file server's: nothing is decided by them, but people read the times of logs."""
    probe = directory / f".gra-doctor-clock-{socket.gethostname()}-{secrets.token_hex(4)}"
    try:
        before = time.time()
        _write(probe, b"now")
        skew = probe.stat().st_mtime - before
    finally:
        probe.unlink(missing_ok=True)
    if abs(skew) > SKEW_S:
        yield warning(
            f"clocks: the file server is {skew:+.0f} s from this machine", "tell support; times in logs will not fit"
        )
    else:
        yield ok("clocks agree with the file server")
