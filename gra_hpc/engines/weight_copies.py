"""Copies of model directories on a node's own disk: one per node, whole, verified, shared by its tasks.

    BASE/gra-weights-UID/IDENTITY/      a copy: the model's files
    BASE/gra-weights-UID/IDENTITY.json  digests of its files, and their states, written once it is whole
    BASE/gra-weights-UID/IDENTITY.lock  held shared while an engine may read the copy, exclusively while it is made

The locks are the kernel's (node-local disks only): they end with their holder, so nothing is ever stale. A copy that
no one holds may be removed to make room, the longest unused first.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from gra_hpc.config.settings import ModelConfig
from gra_hpc.engines.leftovers import own_directory
from gra_hpc.errors import EngineError, GraError
from gra_hpc.models.identity import Book, State, identity, state_of
from gra_hpc.storage import LOCAL_TYPES, file_system

log = logging.getLogger(__name__)

CHUNK = 16 << 20
PATIENCE_S = 30.0
"""Longest wait for the others that hold a copy which is not whole."""
SPARE = 0.1
"""Share of the disk that is left to others when no budget is set."""


@dataclass(frozen=True)
class Copy:
    """A copy that is held: it stays as long as `release` has not been called."""

    directory: Path
    size: int
    """Bytes."""
    seconds: float
    """Time it took to make it, or to find it whole."""
    made: bool
    """Whether this task made it."""
    lock: int
    """File descriptor of the shared lock."""

    def release(self) -> None:
        os.close(self.lock)


@contextlib.contextmanager
def local_weights(
    models: dict[str, ModelConfig], identities: dict[str, str], base: Path, budget_gb: float
) -> Iterator[dict[str, ModelConfig]]:
    """The models with their directories on this node's disk, held for the duration of the block.

    A model that cannot be copied (no room, a broken disk) is used where it lies; the log says so.

    Args:
        models: by name; `path` is a directory.
        identities: what each model's copy must be, by name (`files.identity`).
        base: node-local directory.
        budget_gb: most that all copies may take; 0: all but a tenth of the disk.
    """
    held: list[Copy] = []
    try:
        out = {}
        for name, model in models.items():
            try:
                copy = local_copy(Path(model.path), model, identities[name], base, budget_gb)
            except (OSError, EngineError) as e:
                log.warning("weights of %s are read from %s: not copied (%s)", name, model.path, e)
                out[name] = model
                continue
            held.append(copy)
            rate = copy.size / 1e9 / max(copy.seconds, 1e-6)
            if copy.made:
                log.info(
                    "weights of %s: %.2f GB copied to %s in %.1f s (%.2f GB/s), verified",
                    name, copy.size / 1e9, copy.directory, copy.seconds, rate,
                )  # fmt: skip
            else:
                log.info(
                    "weights of %s: found on this node, verified in %.1f s (%s)", name, copy.seconds, copy.directory
                )
            out[name] = replace(model, path=str(copy.directory))
        yield out
    finally:
        for copy in held:
            copy.release()


def local_copy(directory: Path, model: ModelConfig, wanted: str, base: Path, budget_gb: float = 0.0) -> Copy:
    """A copy of a model on this node, made if there is none, and held.

    Of several tasks that want the same model at once, one copies and the others wait.

    Args:
        directory: the model's files, on the shared file system.
        model: its entry, for the identity.
        wanted: its identity.
        base: node-local directory.
        budget_gb: most that all copies may take.

    Raises:
        EngineError: the source is not what was planned, there is no room, or `base` is no disk of this node alone.
        OSError: the disk refuses.
    """
    began = time.monotonic()
    home = own_directory(base, f"gra-weights-{os.getuid()}")
    if (kind := file_system(home)) not in LOCAL_TYPES:
        raise EngineError(
            f"{base} is on {kind}: its file locks may not reach other nodes, which would remove a copy in use",
            "site.local_dir=a disk of the node itself",
        )
    made, patience = False, PATIENCE_S
    lock = os.open(home / f"{wanted}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            fcntl.flock(lock, fcntl.LOCK_SH)  # waits while another task copies
            size = _whole(home, model, wanted)
            if size is not None:
                break
            fcntl.flock(lock, fcntl.LOCK_UN)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # another one copies now, or looks at it as we did, or uses it
                pause = random.uniform(0.02, 0.2)
                patience -= pause
                if patience < 0:
                    raise EngineError(f"{home / wanted}: not whole, and in use by another task") from None
                time.sleep(pause)
                continue
            if _whole(home, model, wanted) is None:
                _make(home, directory, model, wanted, budget_gb)
                made = True
    except BaseException:
        os.close(lock)
        raise
    os.utime(home / wanted)
    return Copy(home / wanted, size, time.monotonic() - began, made, lock)


def _make(home: Path, directory: Path, model: ModelConfig, wanted: str, budget_gb: float) -> None:
    target, mark = home / wanted, home / f"{wanted}.json"
    mark.unlink(missing_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    files = source_files(directory)
    _make_room(home, sum(f.stat().st_size for f in files), budget_gb)
    try:
        book = Book(mark)
        book.write(_copy(files, target))
        if identity(target, model, book) != wanted:
            raise EngineError(
                f"{directory}: its files changed since the run was planned", "plan a new run, or restore them"
            )
    except BaseException:
        mark.unlink(missing_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        raise


def source_files(directory: Path) -> list[Path]:
    """What is copied: the files of the directory itself (Hub snapshots hold links to them)."""
    return sorted(p for p in directory.iterdir() if p.is_file() and not p.name.startswith("."))


def _whole(home: Path, model: ModelConfig, wanted: str) -> int | None:
    """Bytes of a copy that is complete and still what it was (sizes, times, inodes); none if it is not."""
    target, mark = home / wanted, home / f"{wanted}.json"
    try:
        states = Book(mark).states()
        same = states and all(state_of(target / name) == state for name, state in states.items())
        if same and identity(target, model, Book(mark)) == wanted:
            return sum(size for size, *_ in states.values())
        why = "its files changed"
    except (OSError, GraError) as e:
        why = str(e)
    if mark.exists():
        log.warning("copy of weights %s is not whole (%s): to be made anew", target, why)
    return None


def _copy(files: list[Path], target: Path) -> dict[str, tuple[State, str]]:
    """Copy files, and compare those whose digest their name in the Hub's cache states (`blobs/SHA256`).

    Returns:
        By name: the state of the copy, and the digest of what was read.
    """
    target.mkdir(mode=0o700)
    found = {}
    for file in files:
        digest = hashlib.sha256()
        stated = file.resolve().name if file.is_symlink() else ""
        copy = target / file.name
        with file.open("rb") as source, copy.open("wb") as out:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
        if len(stated) == 64 and digest.hexdigest() != stated:
            raise EngineError(
                f"{file}: is not what the Hub's cache says it is", "gra fetch --again, then gra resume RUN"
            )
        found[copy.name] = (state_of(copy), digest.hexdigest())
    return found


def _make_room(home: Path, size: int, budget_gb: float) -> None:
    """Remove copies that nobody holds, the longest unused first, until another one fits.

    Raises:
        EngineError: it does not fit even so.
    """
    disk = shutil.disk_usage(home)
    budget = int(budget_gb * 1e9) or int(disk.total * (1 - SPARE))
    copies = sorted((p for p in home.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime)
    sizes = {p: sum(f.stat().st_size for f in p.iterdir()) for p in copies}
    reserve = int(disk.total * SPARE) if not budget_gb else 0
    for old in copies:
        if sum(sizes.values()) + size <= budget and shutil.disk_usage(home).free - reserve >= size:
            return
        lock = os.open(home / f"{old.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (home / f"{old.name}.json").unlink(missing_ok=True)
            shutil.rmtree(old, ignore_errors=True)
            log.info("removed a copy of weights to make room: %s (%.2f GB)", old, sizes.pop(old) / 1e9)
        except OSError:
            continue  # in use
        finally:
            os.close(lock)
    free = shutil.disk_usage(home).free - reserve
    if sum(sizes.values()) + size > budget or free < size:
        raise EngineError(
            f"{home}: no room for {size / 1e9:.1f} GB of weights ({free / 1e9:.1f} GB free, "
            f"{sum(sizes.values()) / 1e9:.1f} of {budget / 1e9:.1f} GB taken by copies in use)",
            "site.copy_weights=false reads them from where they are; site.copy_weights_gb allows more",
        )
