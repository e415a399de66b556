"""What engines have compiled, kept for those of other jobs and nodes: one file for each kind of engine.

    BASE/gra-cache-UID/compiled/KEY.tar    the caches of one engine, as they were when it was ready

Caches are on the node, each engine's own (`leftovers.claim_cache`), and go with the job where the node's disk does. The
first engine of a kind leaves a copy on a shared file system; others take it before they start. vLLM, torch and Triton
look by their own keys for what they find there: ours only says which copy is worth bringing. A copy appears whole, by a
rename, and is taken by nobody but its owner, since what lies in it is run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tarfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from gra_hpc.engines import vllm_installed
from gra_hpc.engines.bytecode import environment_name
from gra_hpc.engines.leftovers import own_directory
from gra_hpc.engines.vllm_server import EngineSpec, recorded, recorded_environment
from gra_hpc.errors import OwnershipError
from gra_hpc.owner import cache_directory
from gra_hpc.permissions import others_may_write
from gra_hpc.records import digest
from gra_hpc.storage import new_beside, opened_here
from gra_hpc.terminal import word

log = logging.getLogger(__name__)

LARGEST, ALL, MOST = 2 << 30, 4 << 30, 64
"""Bytes of one copy and of all of them together, and how many there are: the longest unused go first."""
_ROOT = "gra.root"
"""Header of a copy: the directory that its files name where they name one."""
_NOT_KEPT = ("startup_plan", "gpu_p2p_access_cache_for", "dummy_cache")
"""Of vLLM's caches, what holds for one node in one state: its free memory, its links between devices."""
_GROUP = "__grp__"
"""Triton's lists of files, which are the only ones that name others by their whole path."""
_OF_PLACES = ("--served-model-name", "--gpu-memory-utilization", "--kv-cache-memory-bytes")
"""Arguments that differ between engines that compile the same."""


def home(scratch: str) -> Path | None:
    """Where copies lie: on the site's shared directory, else in the user's cache directory; none: neither can be used.

    Args:
        scratch: `site.scratch`, expanded.
    """
    for base in (*([Path(scratch)] if scratch.startswith("/") else []), cache_directory()):
        try:
            return own_directory(own_directory(base, f"gra-cache-{os.getuid()}"), "compiled")
        except OSError as e:
            log.info("compiled code is not kept in %s (%s)", base, e.strerror)
    return None


def key(spec: EngineSpec, argv: Sequence[str]) -> str:
    """A name for what an engine compiles: the environment, the devices, and what it is started with."""
    package = vllm_installed.package(spec.engine.python)
    words, left = [], iter(recorded(argv))
    for option in left:
        if option in _OF_PLACES:
            next(left, None)
        else:
            words.append(option)
    environment = environment_name(package) if package else ""
    return digest("compiled", environment, _devices(spec.kind), words, recorded_environment(spec))


def _devices(kind: str) -> list[str]:
    """The devices of this node, and their driver."""
    wanted: tuple[str, ...] = ("model name", "flags", "Features", "CPU part")
    files = [Path("/proc/cpuinfo")]
    if kind != "cpu":
        wanted = ("Model", "NVRM", "gfx_target_version")
        files = [Path("/proc/driver/nvidia/version"), *Path("/proc/driver/nvidia/gpus").glob("*/information")]
        files += Path("/sys/class/kfd/kfd/topology/nodes").glob("*/properties")
    found = set()
    for file in files:
        with contextlib.suppress(OSError):
            found |= {
                line.strip()
                for line in file.read_text(encoding="utf-8", errors="replace").splitlines()
                if line.startswith(wanted)
            }
    return sorted(found)


def fetch(kept: Path, name: str, cache: Path) -> bool:
    """Fill an engine's caches from a copy; what is there stays. Once for each copy.

    Args:
        kept: as `home`.
        name: as `key`.
        cache: the engine's own directory, which no engine uses now.

    Returns:
        Whether something was brought.
    """
    mark = cache / f".{name}"
    if mark.exists():
        return False
    file = kept / f"{name}.tar"
    try:
        with open(file, "rb", opener=opened_here) as f:
            status = os.fstat(f.fileno())
            if status.st_uid != os.getuid() or others_may_write(status):
                raise OwnershipError(f"{file}: in other hands, and would be run as you", f"rm {word(file)}")
            with tarfile.open(fileobj=f, mode="r:") as tar:
                root = tar.pax_headers.get(_ROOT, "")
                for member in tar:
                    _bring(tar, member, cache, root)
        os.utime(file)
        mark.touch()
    except FileNotFoundError:
        return False
    except (OSError, tarfile.TarError, OwnershipError) as e:  # it compiles, as it would have without
        log.warning("compiled code is not taken from %s (%s)", file, e)
        return False
    log.info("compiled code of an earlier engine: %.0f MB from %s", status.st_size / 1e6, file)
    return True


def _bring(tar: tarfile.TarFile, member: tarfile.TarInfo, cache: Path, root: str) -> None:
    """One file of a copy, whole, unless there is one: caches of one node are partly shared."""
    path = PurePosixPath(member.name)
    target = cache / path
    source = tar.extractfile(member) if member.isreg() else None
    if source is None or path.is_absolute() or ".." in path.parts or target.exists():
        return
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    data = source.read()
    if root and path.name.startswith(_GROUP):
        data = data.replace(os.fsencode(root), os.fsencode(cache))
    with new_beside(target, 0o700 if member.mode & 0o100 else 0o600) as f:
        f.write(data)
    os.utime(f.name, (member.mtime, member.mtime))
    Path(f.name).rename(target)


def remove(kept: Path, name: str) -> None:
    """Remove a copy."""
    with contextlib.suppress(OSError):
        (kept / f"{name}.tar").unlink(missing_ok=True)


def clear(cache: Path) -> None:
    """Remove all caches of an engine that did not start with a copy: of the copy, or of the node, is the fault."""
    with contextlib.suppress(OSError):
        for path in cache.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != ".lock":  # which is held
                path.unlink(missing_ok=True)


def keep(kept: Path, name: str, cache: Path, stop: threading.Event) -> bool:
    """Leave a copy of an engine's caches, once it is ready, for others; of several at once, one stays.

    Args:
        stop: set when nobody waits for it any more.

    Returns:
        Whether there was none before.
    """
    file = kept / f"{name}.tar"
    try:
        if file.exists():
            return False
        found = dict(_files(cache))
        size = sum(s.st_size for _, s in found.values())
        if not found or size > LARGEST:
            return False
        _make_room(kept, size)
        with new_beside(file, 0o600) as out:
            temporary = Path(out.name)
            try:
                with tarfile.open(
                    fileobj=out, mode="w:", format=tarfile.PAX_FORMAT, pax_headers={_ROOT: str(cache)}
                ) as tar:
                    for member, (path, _) in sorted(found.items()):
                        if stop.is_set():
                            return False
                        with contextlib.suppress(FileNotFoundError):  # it was one for a moment
                            tar.add(path, member, recursive=False)
                out.flush()
                os.fsync(out.fileno())
                temporary.rename(file)
            finally:
                temporary.unlink(missing_ok=True)
        (cache / f".{name}").touch()
    except (OSError, tarfile.TarError) as e:
        log.warning("compiled code is not kept in %s (%s)", file, e)
        return False
    log.info("compiled code is kept for other engines: %.0f MB in %s", size / 1e6, file)
    return True


def _files(cache: Path) -> Iterator[tuple[str, tuple[Path, os.stat_result]]]:
    """The files of an engine's caches that are worth keeping, by their names in a copy."""
    for top, directories, names in os.walk(cache):
        here = Path(top)
        links = [d for d in directories if (here / d).is_symlink()]  # what a node's engines share
        directories[:] = [d for d in directories if not d.startswith(_NOT_KEPT) and d not in links]
        paths = [here / n for n in names] + [p for d in links for p in (here / d).iterdir()]
        for path in paths:
            name = path.relative_to(cache)
            if name.name.startswith((".", *_NOT_KEPT)) or name.suffix in (".lock", ".tmp", ".pid"):
                continue
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and not path.is_symlink():
                    yield str(name), (path, path.stat())


def _make_room(kept: Path, size: int) -> None:
    """Remove copies until another one fits, the longest unused first."""
    copies = []
    for path in kept.glob("*.tar"):
        with contextlib.suppress(FileNotFoundError):
            copies.append((path.stat().st_mtime, path.stat().st_size, path))
    copies.sort()
    while copies and (len(copies) >= MOST or sum(n for _, n, _ in copies) + size > ALL):
        copies.pop(0)[2].unlink(missing_ok=True)
