"""Checkpoints on disk: sealed when whole, pruned, removed."""

from __future__ import annotations

import shutil
from pathlib import Path

from gra_hpc.storage import fsync_dir, fsync_file, to_json, write_atomic
from gra_hpc.training.directory import COMPLETE, Checkpoint, FinetuneDir, checkpoints


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


def prune(out: FinetuneDir, keep: int) -> None:
    """Remove whole checkpoints but the latest ones. Its complete.json goes first: half removed is not whole."""
    whole = [c for c in checkpoints(out) if (c.path / COMPLETE).is_file()]
    for old in whole[keep:]:
        remove(old)


def remove(checkpoint: Checkpoint) -> None:
    """Remove a checkpoint so that at no moment half of one seems whole."""
    (checkpoint.path / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint.path, ignore_errors=True)
