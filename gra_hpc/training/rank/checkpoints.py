"""Checkpoints on disk: sealed when whole, pruned, removed."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import stat
from pathlib import Path

from gra_hpc.errors import OwnershipError
from gra_hpc.permissions import others_may_write
from gra_hpc.storage import fsync_dir, fsync_file, to_json, write_atomic
from gra_hpc.terminal import word
from gra_hpc.training.directory import COMPLETE, Checkpoint, FinetuneDir, checkpoints

log = logging.getLogger(__name__)


def seal(path: Path, step: int) -> None:
    """Make a checkpoint durable and count: complete.json is written last."""
    files = sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        fsync_file(file)
    for directory in [p for p in path.rglob("*") if p.is_dir()] + [path]:
        fsync_dir(directory)
    sizes = {str(p.relative_to(path)): p.stat().st_size for p in files}
    write_atomic(path / COMPLETE, to_json({"step": step, "files": sizes}))
    fsync_dir(path.parent)


def refuse_foreign(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that somebody else could have put there: some of its files are pickles, which run code.

    Raises:
        OwnershipError: with the file that is in other hands.
    """
    for path in (checkpoint.path.parent, checkpoint.path, *checkpoint.path.rglob("*")):
        status = path.lstat()
        kinds = stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)
        if not kinds or status.st_uid != os.getuid() or others_may_write(status):
            raise OwnershipError(
                f"{path}: others may have put it there, and what it holds runs as you",
                f"remove {checkpoint.path}, or if you know it: chmod -R go-w {word(checkpoint.path.parent)}",
            )


def prune(out: FinetuneDir, keep: int) -> None:
    """Remove whole checkpoints but the latest ones. Its complete.json goes first: half removed is not whole."""
    whole = [c for c in checkpoints(out) if (c.path / COMPLETE).is_file()]
    for old in whole[keep:]:
        remove(old)


def remove(checkpoint: Checkpoint) -> None:
    """Remove a checkpoint so that at no moment half of one seems whole.

    Renamed first: a copy of this job that still writes it (Slurm can run two) finds it gone, and can never seal the
    rest of it.
    """
    gone = checkpoint.path.with_name(f".gone-{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        checkpoint.path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def sweep(out: FinetuneDir) -> None:
    """Remove checkpoints that were not written to their end, and what a removal that was killed has left."""
    for checkpoint in checkpoints(out):
        if not checkpoint.described():
            log.info("%s: not whole, removed", checkpoint.path)
            remove(checkpoint)
    for gone in out.checkpoints.glob("*/.gone-*"):
        shutil.rmtree(gone, ignore_errors=True)
