"""Node-local directories of engines, and the sweep of those whose owner died together with its guards.

A node's private directory (`BASE/gra-UID-TOKEN`, mode 0700) holds `owner.json`, one `NAME.state` per guard, the sockets
and the temporary directories. Whoever starts engines later in the same `BASE` removes what dead owners left: processes
by their session, shared memory by its name and inode, files.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gra_hpc.engines import guard
from gra_hpc.errors import EngineError
from gra_hpc.owner import Owner, Sightings
from gra_hpc.permissions import in_other_hands, ours_alone
from gra_hpc.storage import LOCAL_TYPES, file_system

log = logging.getLogger(__name__)

SOCKET_PATH_MAX = 107
"""Longest path of a Unix socket on Linux, in bytes."""
LONGEST_NAME = 48
"""Bytes that engines need below the private directory: `/e00-00/tmp/` and vLLM's socket names (a UUID)."""


SILENT_S = 900.0
"""A directory whose owner is not known, unchanged for so long, is nobody's."""
_TOKEN = re.compile(r"[0-9a-f]{8}")
"""End of a private directory's name."""


def private_directory(base: Path) -> Path:
    """A new directory for one owner's sockets, temporary files and guard states, readable by this user only.

    `base` is used unless paths below it would be too long for a Unix socket, it cannot hold sockets, or it is in other
    hands; then /tmp.

    Raises:
        EngineError: when neither can be written.
    """
    causes = []
    for parent in dict.fromkeys([base.absolute(), Path("/tmp")]):
        path = parent / f"gra-{os.getuid()}-{secrets.token_hex(4)}"
        if len(os.fsencode(path)) + LONGEST_NAME > SOCKET_PATH_MAX:
            causes.append(f"{parent}: too long for a Unix socket")
            continue
        try:
            parent.mkdir(parents=True, exist_ok=True)
            if in_other_hands(parent):
                causes.append(f"{parent}: others could put a directory in the place of ours")
                continue
            path.mkdir(mode=0o700)
            (path / "owner.json").write_text(json.dumps(Owner.me().to_dict()), encoding="utf-8")
        except OSError as e:
            causes.append(f"{parent}: {e.strerror}")
            continue
        return path
    raise EngineError(
        f"no node-local directory for the engines' sockets: {'; '.join(causes)}", "set site.local_dir=DIR"
    )


@dataclass
class Swept:
    """What a sweep removed."""

    directories: list[Path] = field(default_factory=list)
    processes: list[int] = field(default_factory=list)
    shm: list[str] = field(default_factory=list)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def end_session(state: dict[str, Any], grace: float = 0.0) -> list[int]:
    """End the processes of one guard's session, whoever of them is left, and the shared memory they held.

    Args:
        state: what the guard wrote (`Guard.save`).
        grace: seconds that a living guard gets to do it itself.

    Returns:
        The pids that had to be killed.
    """
    leader, started = int(state.get("pid", 0)), int(state.get("start", 0))
    if not leader or not started:
        return []
    strays = {int(pid): int(start) for pid, start in state.get("strays", {}).items()}

    def living() -> list[int]:
        mine = guard.session_members(leader, started)
        return mine + [pid for pid, start in strays.items() if guard.start_time(pid) == start]

    found = living()
    shm = {str(k): int(v) for k, v in state.get("shm", {}).items()} | guard.mapped_shm(found)
    if found and not guard.end(living, grace):
        log.error("engine processes %s cannot be killed", living())
    guard.unlink_shm(shm)
    return found


def sweep(base: Path) -> Swept:
    """Remove what dead owners left below `base` and /tmp. Living owners, other users and other hosts are left alone."""
    swept = Swept()
    here, uid = Owner.me(), os.getuid()
    with Sightings() as seen:
        for parent in dict.fromkeys([base.absolute(), Path("/tmp")]):
            for path in sorted(parent.glob(f"gra-{uid}-*")):
                try:
                    status = path.lstat()
                except OSError:
                    continue
                if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid:
                    continue
                if not _TOKEN.fullmatch(path.name.rpartition("-")[2]):
                    continue  # somebody's, of a name like ours
                owner = Owner.read(path / "owner.json")
                if owner is None:  # killed before it had said who it is
                    rebooted = seen.unchanged_s(path) >= SILENT_S
                else:  # to a disk of this machine nobody writes but it
                    rebooted = owner.boot != here.boot and file_system(parent) in LOCAL_TYPES
                if not rebooted:
                    if owner is None or owner.alive() is not False:
                        continue  # another node's on a shared file system, another container's, or a living one
                    _end(path, swept)
                shutil.rmtree(path, ignore_errors=True)
                swept.directories.append(path)
    if swept.directories:
        log.warning(
            "swept %d directories and %d processes that a dead shard had left on this node",
            len(swept.directories),
            len(swept.processes),
        )
    return swept


def _end(path: Path, swept: Swept) -> None:
    """End what the guards of a dead owner have left."""
    for file in sorted(path.glob("*.state")):
        state = _json(file)
        guarded = guard.start_time(int(state.get("pid", 0)))  # then it is at it already
        swept.processes += end_session(state, grace=12.0 if guarded else 0.0)


def own_directory(base: Path, name: str) -> Path:
    """A directory of a foreseeable name where others may write, like /tmp: this user's alone.

    What lies in it is loaded as code or as weights later. Where somebody else has taken the name (or left ours open to
    others), there is another one, which the next shard finds again.

    Raises:
        OSError: `base` cannot be written, or is in other hands.
    """
    base.mkdir(parents=True, exist_ok=True)
    if in_other_hands(base):
        raise PermissionError(errno.EPERM, "others could put a directory in the place of ours", str(base))
    home = base / name
    with contextlib.suppress(FileExistsError):
        home.mkdir(mode=0o700)
    if not ours_alone(home):
        taken, others = home, _others(base, name)
        if not others:
            made = base / f"{name}-{secrets.token_hex(4)}"
            made.mkdir(mode=0o700)
            others = _others(base, name)  # two shards at once agree on the first
            if others[0] != made:
                with contextlib.suppress(OSError):
                    made.rmdir()
        home = others[0]
        log.warning("%s is not a directory of yours alone; using %s", taken, home)
    home.chmod(0o700)
    return home


def _others(base: Path, name: str) -> list[Path]:
    """Directories that took the place of a taken name before."""
    return sorted(p for p in base.glob(f"{name}-*") if _TOKEN.fullmatch(p.name[len(name) + 1 :]) and ours_alone(p))


def claim_cache(base: Path, name: str) -> tuple[Path, int]:
    """A compile cache of one engine's own that outlives the shard on this node.

    Two engines of the same name on one node (two shards) get different directories: each is held by a file lock, which
    the kernel drops when its owner dies. What vLLM looks up about a model's class (12 s of a start on a CPU) is the
    same for all of a node, and written whole: the first engine of an architecture leaves it to the others.

    Args:
        base: node-local directory; where it cannot be used, /tmp is.

    Returns:
        The directory, and the lock's file descriptor (close it to give the cache back).
    """
    try:
        home = own_directory(base, f"gra-cache-{os.getuid()}")
    except OSError as e:
        log.warning("no caches in %s (%s); using /tmp", base, e.strerror)
        home = own_directory(Path("/tmp"), f"gra-cache-{os.getuid()}")
    classes = own_directory(home, "modelinfos")
    if file_system(home) not in LOCAL_TYPES:  # file locks may reach no further than this node
        name = f"{name}-{os.uname().nodename}"
    for slot in range(64):
        path = home / f"{name}-{slot}"
        path.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            continue
        mine = path / "vllm" / classes.name  # below VLLM_CACHE_ROOT
        if not mine.exists():
            mine.parent.mkdir(mode=0o700, exist_ok=True)
            mine.symlink_to(classes)
        return path, fd
    raise EngineError(f"{base}: 64 caches of {name} are in use", "are engines of other shards still running?")
