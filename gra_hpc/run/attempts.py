"""An attempt at a shard: its name, its directory, its heartbeat, and whether attempts still get anywhere."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from gra_hpc.errors import StorageError
from gra_hpc.foreign import all_fit
from gra_hpc.owner import Owner
from gra_hpc.run.directory import ATTEMPT_NAME, AttemptDir, ShardDir
from gra_hpc.storage import fsync_dir, full_disk_as_error, opened_here, read_object, to_json, write_atomic


def job_id() -> str:
    """Slurm's id of this job, `ARRAY_TASK` for array tasks; empty outside Slurm.

    The local executor inside somebody's interactive allocation is outside: that job is not ours to requeue.
    """
    env = os.environ
    if env.get("SUBMITIT_EXECUTOR") == "local":
        return ""
    if "SLURM_ARRAY_JOB_ID" in env:
        return f"{env['SLURM_ARRAY_JOB_ID']}_{env.get('SLURM_ARRAY_TASK_ID', '0')}"
    return env.get("SLURM_JOB_ID", "")


def restart_count() -> int:
    """How often Slurm has requeued this job."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0") or 0)


def begin(shard: ShardDir, beat: Heartbeat | None = None) -> AttemptDir:
    """Make the directory of a new attempt. Its name is never used twice, and comes behind those that are there.

    Attempts are numbered by what the directory holds, whatever clocks say. Of two that begin in the same moment, and so
    have one number, always the same comes first.

    Args:
        beat: its first heartbeat, which is there when the attempt is: one without would count as at work for a while,
            though its process may have died at once, or have found no room.

    Raises:
        StorageError: no room; nothing is left of the attempt.
    """
    # The local executor names its logs by the pid of the process that started ours.
    local = os.environ.get("SUBMITIT_LOCAL_JOB_ID") or os.getpid()
    where = f"{job_id()}.{restart_count()}" if job_id() else f"local-{local}"
    token = secrets.token_hex(2)
    with full_disk_as_error(shard.path):
        made = shard.attempts / f".{where}-{token}"
        # Made before the others are listed: a network file system lists a directory anew that it has changed.
        made.mkdir(parents=True)
        number = 1 + max((_number(name) for name in attempt_names(shard)), default=0)
        attempt = shard.attempt(f"a{number:05d}-{where}-{token}")
        if beat is not None:
            beat.attempt = attempt.id
            try:
                write_atomic(AttemptDir(made, attempt.id).heartbeat, beat.data(), durable=False)
            except BaseException:
                shutil.rmtree(made, ignore_errors=True)
                raise
        made.rename(attempt.path)
        # up to RUN/rounds: a synced journal in an unsynced directory would not outlive a power loss
        for directory in (shard.attempts, shard.path, *list(shard.path.parents)[:3]):
            fsync_dir(directory)
    return attempt


def _number(name: str) -> int:
    """Of an attempt's name: `a00007-4242_7.0-beef`; 0 of names that begin with a time, as they did once."""
    found = re.match(r"a(\d{5,})-", name)
    return int(found[1]) if found else 0


def attempt_names(shard: ShardDir) -> list[str]:
    """Names of all attempts at a shard, in their order."""
    try:
        there = (p.name for p in shard.attempts.iterdir() if not p.name.startswith("."))
        names = [name for name in there if ATTEMPT_NAME.fullmatch(name)]
    except OSError:  # none yet, or swept a moment ago
        return []
    return sorted(names, key=lambda name: (_number(name), name))


def earlier(shard: ShardDir, than: AttemptDir | None = None) -> list[AttemptDir]:
    """The other attempts at a shard that left a journal, or what bears its name, in their order."""
    found = [shard.attempt(n) for n in attempt_names(shard) if than is None or n != than.id]
    return [a for a in found if os.path.lexists(a.journal)]


class SharedTime:
    """A worker's seconds, divided among the attempts that are open: their sum is its time, whatever overlaps.

    Of each part is known what engines did meanwhile (`WAITED`). The time in which no attempt was open, and what they
    did then, is told by the next one that opens, apart from its own seconds (`BEFORE`).
    """

    def __init__(self) -> None:
        self._open: dict[str, dict[str, float]] = {}
        self._since = time.monotonic()
        self._lock = threading.Lock()
        self._doing = ""
        self._between: dict[str, float] = {}

    def of(self, attempt: str) -> float:
        """Seconds of an attempt so far; it is open from when this is first asked."""
        with self._lock:  # a shard is published in a thread
            return self._settled(attempt).get("", 0.0)

    def waited(self, attempt: str) -> dict[str, float]:
        """What of an open attempt's seconds, and of those before it, the engines did not work in full: by `WAITED`; and
        the seconds before it (`BEFORE`). What is none is left out."""
        with self._lock:
            mine = self._settled(attempt)
            return {what: round(mine[what], 3) for what in (*WAITED, BEFORE) if mine.get(what)}

    def doing(self, what: str) -> None:
        """From now on the engines do this: one of `WAITED`, or nothing of them."""
        if what != self._doing:
            with self._lock:
                self._settle()
                self._doing = what

    def close(self, attempt: str) -> None:
        """An attempt has ended."""
        with self._lock:
            self._settled(attempt)
            del self._open[attempt]

    def _settled(self, attempt: str) -> dict[str, float]:
        self._settle()
        if attempt not in self._open:
            self._open[attempt] = {**self._between, "": 0.0, BEFORE: self._between.get("", 0.0)}
            self._between = {}
        return self._open[attempt]

    def _settle(self) -> None:
        now = time.monotonic()
        past, self._since = now - self._since, now
        for mine in self._open.values() or (self._between,):
            for what in {"", self._doing}:
                mine[what] = mine.get(what, 0.0) + past / max(1, len(self._open))


WAITED = ("start", "idle", "tail")
"""What engines do that is no work in full. start: they start, from the check of their models to the first answer; idle:
no call is in flight; tail: fewer samples are in flight than there are places: none is left to begin, or they drain."""
BEFORE = "before"
"""Beside them: seconds of the worker in which none of its attempts was open, just before one."""


@dataclass
class Heartbeat:
    """What an attempt tells about itself, every few seconds, in a file of its own."""

    attempt: str
    shard: int
    round: int
    planned: int = 0
    job: str = field(default_factory=job_id)
    restart: int = field(default_factory=restart_count)
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    owner: dict[str, Any] = field(default_factory=lambda: Owner.me().to_dict())
    """Its process, told from every other one (`Owner.of`)."""
    worker: str = ""
    """Its worker: the directory of its engines' logs. Empty: a worker of this attempt alone, and named like it."""
    gpus: int | None = None
    """GPUs that the attempt was given, used or not; none: not recorded."""
    started: float = field(default_factory=time.time)
    at: float = 0.0
    """Both are Unix times of its machine's clock, for people."""
    seconds: float = 0.0
    """Since it began, by a clock that never steps; of time that several attempts of one worker share, its part."""
    waited: dict[str, float] = field(default_factory=dict)
    """What of these, and of those `BEFORE` them, the engines did not work in full, in seconds, by `WAITED`."""
    phase: str = "starting"
    """starting, running, draining, embedding, publishing, or how it ended: published, drained, stopped, overtaken,
    failed."""
    message: str = ""
    """Why it ended, for people."""
    accepted: int = 0
    rejected: int = 0
    failed: int = 0
    calls: int = 0
    """Calls answered by engines in this attempt."""
    replayed: int = 0
    """Calls served from journals."""
    tokens: dict[str, list[int]] = field(default_factory=dict)
    """By role: prompt and completion tokens of this attempt's own calls."""
    corrupt: int = 0
    """Lines of journals, and whole journals, that could not be used."""
    slowest_call_s: float = 0.0
    """Longest call so far, in seconds: what the time before a time limit must leave."""

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self.time: SharedTime | None = None

    @property
    def lasted(self) -> float:
        """Seconds since this process began it; its part of them."""
        return self.time.of(self.attempt) if self.time else time.monotonic() - self._began

    @property
    def done(self) -> int:
        return self.accepted + self.rejected + self.failed

    @property
    def ended(self) -> bool:
        return self.phase in ("published", "drained", "overtaken", "failed")

    def data(self) -> bytes:
        """What is written now."""
        self.at, self.seconds = time.time(), round(self.lasted, 3)
        if self.time:
            self.waited = self.time.waited(self.attempt)
        return to_json(asdict(self))

    def write(self, attempt: AttemptDir) -> None:
        """Replace the heartbeat file; without fsync: it only informs. The directory may be gone once another attempt
        has published. Where there is no room for a new file, the one that is there is written over: how an attempt
        ended is known on a full disk too."""
        data = self.data()
        try:
            write_atomic(attempt.heartbeat, data, durable=False)
        except (OSError, StorageError):
            with contextlib.suppress(OSError), open(attempt.heartbeat, "r+b", opener=opened_here) as file:
                file.write(data.ljust(os.fstat(file.fileno()).st_size))  # within the blocks that it has

    @classmethod
    def read(cls, attempt: AttemptDir) -> Heartbeat | None:
        """The last heartbeat of an attempt, if it wrote one, and it is one still."""
        try:
            data = read_object(attempt.heartbeat)
            known = cls.__dataclass_fields__
            beat = cls(**{k: v for k, v in data.items() if k in known})
            return beat if all_fit(beat) and all(len(v) == 2 for v in beat.tokens.values()) else None
        except (OSError, StorageError, TypeError):
            return None


def stuck(shard: ShardDir, than: AttemptDir, attempts: int = 2) -> bool:
    """Whether the last attempts before this one ended without a single new answered call.

    Args:
        attempts: so many.
    """
    last = earlier(shard, than)[-attempts:]
    return len(last) == attempts and all(_came_to_nothing(a) for a in last)


def _came_to_nothing(attempt: AttemptDir) -> bool:
    """Whether it has answered nothing; one that is known to be at it still may."""
    if attempt.journal.is_file() and attempt.journal.stat().st_size:
        return False
    beat = Heartbeat.read(attempt)
    owner = Owner.of(beat.owner) if beat and not beat.ended else None
    return owner is None or not owner.alive()


def newest_attempt(shard: ShardDir) -> Heartbeat | None:
    """The last heartbeat of the newest attempt at a shard, if there is any."""
    names = attempt_names(shard)
    return Heartbeat.read(shard.attempt(names[-1])) if names else None
