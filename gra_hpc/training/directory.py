"""The directory of a fine-tuning job: where everything of it lies. This module only names and lists.

OUT/config.yaml                                       frozen when first submitted
    tokens/{data/, tokens.json}                       the prepared examples, renamed into place
    checkpoints/ATTEMPT/checkpoint-N/..., complete.json      complete.json is written last
    model/                                            safetensors and tokenizer, renamed into place
    loss.jsonl  loss.png  done.json                   done.json is written last
    rendezvous/                                       where ranks of several nodes meet; nobody else enters
    logs/  submissions/
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra_hpc.errors import StorageError
from gra_hpc.run.directory import JobDir
from gra_hpc.storage import read_json

COMPLETE = "complete.json"
"""Written last into a checkpoint: step, and the size of every file."""


@dataclass(frozen=True)
class FinetuneDir(JobDir):
    """Paths of one fine-tuning job."""

    KIND = "a fine-tuning job"
    COMMAND = "finetune"

    @property
    def tokens(self) -> Path:
        return self.path / "tokens"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def meetings(self) -> Path:
        return self.path / "rendezvous"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def losses(self) -> Path:
        return self.path / "loss.jsonl"

    @property
    def plot(self) -> Path:
        return self.path / "loss.png"


@dataclass(frozen=True)
class Checkpoint:
    """One directory that an attempt has saved, or was about to."""

    path: Path

    @property
    def step(self) -> int:
        return int(self.path.name.rpartition("-")[2])

    def described(self) -> dict[str, Any] | None:
        """What complete.json says, if it is there and every file has the size it says."""
        try:
            said: dict[str, Any] = read_json(self.path / COMPLETE)
            sizes = {name: (self.path / name).stat().st_size for name in said["files"]}
        except (OSError, StorageError, LookupError, TypeError, ValueError):
            return None
        return said if sizes == said["files"] else None


def checkpoints(out: FinetuneDir) -> Iterator[Checkpoint]:
    """All checkpoints of all attempts, whole or not, the latest step first."""
    found = [Checkpoint(p) for p in out.checkpoints.glob("*/checkpoint-*") if p.is_dir()]
    yield from sorted(found, key=lambda c: (-c.step, str(c.path)))


def attempts(out: FinetuneDir) -> list[Path]:
    """Directories of all attempts, in their order: of jobs by Slurm's id and restart, of local ones by their number."""
    there = [p for p in out.checkpoints.iterdir() if p.is_dir()] if out.checkpoints.is_dir() else []
    return sorted(there, key=lambda p: (_numbers(p.name), p.name))


def next_number(out: FinetuneDir) -> int:
    """Of the next local attempt."""
    local = (p.name for p in attempts(out) if p.name.startswith("local-"))
    return 1 + max((_numbers(name)[0] for name in local), default=0)


def _numbers(name: str) -> tuple[int, ...]:
    """`job-42_3.1`, `local-00007-4242`; of local ones that begin with a time, as they did once, 0."""
    if re.match(r"local-\d{8}T", name):
        return (0,)
    return tuple(int(n) for n in re.findall(r"\d+", name)) or (0,)


def newest(out: FinetuneDir) -> Checkpoint | None:
    """The latest whole checkpoint."""
    return next((c for c in checkpoints(out) if c.described()), None)
