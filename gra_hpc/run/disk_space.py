"""Space on a run's file system: what is free, in bytes and in files, and about how much a run will take."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from gra_hpc.config.settings import RunConfig, SamplingConfig
from gra_hpc.errors import StorageError
from gra_hpc.flows.expected import THOUGHT_TOKENS
from gra_hpc.storage import file_system, mount_of

BYTES_PER_TOKEN = 4.5
CALL_BYTES = 450
"""Of one call without its text: key, digests and figures, in the journal and then in the shard's table."""
COPIES = 3.0
"""Times that a text lies on the disk at worst, some copies compressed: journal, calls, samples, merged, release."""
EMBEDDING_BYTES = 2048
FILES_PER_SHARD = 25
"""Attempts, tables and logs of one shard, while it runs."""
FILES_PER_RUN = 200
LONG_ANSWER = 512
"""Tokens of a usual response, where max_tokens allows more."""
QUOTA_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class DiskSpace:
    """Bytes and files."""

    bytes: int
    files: int | None
    """None: not limited, or not known."""

    def __str__(self) -> str:
        files = "" if self.files is None else f" and {self.files:,} files"
        size = f"{self.bytes / 1e9:,.0f} GB" if self.bytes >= 1e10 else f"{self.bytes / 1e6:,.0f} MB"
        return f"{size}{files}"


def needed(config: RunConfig, candidates: int, shards: int, thinking: Collection[str] = ()) -> DiskSpace:
    """About what a run takes at most, all rounds together: an estimate from usual lengths of answers.

    Args:
        candidates: of one round.
        shards: of one round.
        thinking: models that think before they answer.
    """
    m = config.method
    longest = _max_tokens(m.sampling, 4096)
    verdicts = (2 * m.reviewers + 1) * min(120, m.verdict_tokens)
    tokens = min(LONG_ANSWER, longest) + min(96, longest) + verdicts + 60
    calls = 4 + 2 * m.reviewers + 1
    members = [member.model for member in config.committee.values()] or list(config.models)
    thinkers = sum(name in thinking for name in members) / max(1, len(members))
    thoughts = calls * thinkers * min(THOUGHT_TOKENS, m.sampling.thinking_tokens or THOUGHT_TOKENS)
    each = COPIES * BYTES_PER_TOKEN * (tokens + thoughts) + calls * CALL_BYTES + EMBEDDING_BYTES
    return DiskSpace(int(each * candidates * m.rounds), FILES_PER_RUN + FILES_PER_SHARD * shards * m.rounds)


def _max_tokens(sampling: SamplingConfig, default: int) -> int:
    return sampling.max_tokens or default


def free(path: Path) -> DiskSpace:
    """What this user may still write below a directory: the file system's own figures (on XFS, CephFS and others they
    follow a directory's quota), and the user's and groups' quotas, by `lfs quota` on Lustre and `quota` elsewhere."""
    s = os.statvfs(path)
    spaces = [DiskSpace(s.f_bavail * s.f_frsize, s.f_favail if s.f_files else None), *_lustre(path), *_quota(path)]
    counts = [r.files for r in spaces if r.files is not None]
    return DiskSpace(min(r.bytes for r in spaces), min(counts) if counts else None)


def _lustre(path: Path) -> Iterator[DiskSpace]:
    """Quotas that `lfs quota` tells; nothing on other file systems, or when it does not answer."""
    if file_system(path) != "lustre":
        return
    for who in (["-u", str(os.getuid())], ["-g", str(os.getgid())]):
        room = parse_lfs_quota(_said("lfs", "quota", "-q", *who, str(path)))
        if room is not None:
            yield room


def _quota(path: Path) -> Iterator[DiskSpace]:
    """Quotas that `quota` tells of a path's file system, NFS included; nothing where there is no such command."""
    if file_system(path) == "lustre" or os.getuid() == 0:
        return
    for who in ("-u", "-g"):
        for line in _said("quota", "-w", "-p", who).splitlines():
            device, _, figures = line.strip().partition(" ")
            if device == mount_of(path)[0] and (room := parse_lfs_quota(f"x {figures}")) is not None:
                yield room


def _said(*command: str) -> str:
    """What a command prints; nothing when it is not there or does not answer."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=QUOTA_TIMEOUT_S, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def parse_lfs_quota(text: str) -> DiskSpace | None:
    """What is left by a line of `lfs quota -q` or `quota -w -p`: PATH, then `kbytes quota limit grace`, twice.

    There 0 is no limit, and a `*` marks a figure above its quota. None when it tells no limit.
    """
    fields = [word.rstrip("*") for word in text.split()[-8:]]
    figures = fields[:3] + fields[4:7]
    if len(fields) < 8 or not all(f.isdigit() for f in figures):
        return None
    kbytes, soft, hard, files, files_soft, files_hard = (int(f) for f in figures)
    limit, files_limit = hard or soft, files_hard or files_soft
    if not limit and not files_limit:
        return None
    room = max(0, limit - kbytes) * 1024 if limit else 1 << 62
    return DiskSpace(room, max(0, files_limit - files) if files_limit else None)


def check(path: Path, need: DiskSpace) -> None:
    """Refuse a run that cannot fit.

    Args:
        path: the run's directory, or where it will be.

    Raises:
        StorageError: less than half of the estimate is free.
    """
    half = DiskSpace(need.bytes // 2, None if need.files is None else need.files // 2)
    if shortage(path, half):
        raise StorageError(
            shortage(path, need), "make room, plan the run on another file system, or take fewer seeds or shards"
        )


def shortage(path: Path, need: DiskSpace) -> str:
    """What to tell the user when there is less than needed; empty when there is enough.

    Args:
        path: where the run is or will be: its nearest existing parent is asked.
    """
    while not path.is_dir():
        path = path.parent
    have = free(path)
    files_short = have.files is not None and need.files is not None and have.files < need.files
    if have.bytes >= need.bytes and not files_short:
        return ""
    return f"{path}: about {need} needed, {have} free for you"
