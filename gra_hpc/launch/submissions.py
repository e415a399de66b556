"""What was handed to Slurm: one file per submission, written before sbatch is called and completed after it.

Every job carries a comment `gra:RUN:SUBMISSION:NUMBER`, so that a job whose submitter was killed before it could note
the job's id is still known. Jobs belong to a run at its place (`places`): a copy has the same files, none of the jobs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import IO, Any

from gra_hpc.errors import LaunchError
from gra_hpc.launch import slurm
from gra_hpc.launch.places import Place, place_of
from gra_hpc.owner import Beat, Owner, Sightings
from gra_hpc.permissions import closed_directory
from gra_hpc.records import digest
from gra_hpc.run.attempts import Heartbeat, earlier
from gra_hpc.run.directory import OutputDir, RunDir
from gra_hpc.storage import PRIVATE, opened_here, read_json, to_json, write_atomic
from gra_hpc.terminal import complain, word

log = logging.getLogger(__name__)

SILENT_S = 300.0
"""A submitter on another login node, which cannot be looked at, is taken to be alive until nothing was seen to change
for so long."""
TURN_S = 180.0
"""Longest wait of a cancel for a submission, and of a submission for a cancel."""
POLL_S = 0.3
_TOKEN = re.compile(r"s(\d{5,})-")


@dataclass
class Job:
    """One sbatch: an array of workers, or a merge."""

    kind: str
    """workers or merge."""
    round: int
    """The first that it is for."""
    shards: list[int] = field(default_factory=list)
    """Of each array index: the shard that its worker begins at."""
    id: str = ""
    """Slurm's id; empty until sbatch has answered."""
    settings: str = ""
    """Digest of the settings in its sbatch text (`queue_gap.settings_digest`)."""
    plain: bool = False
    """Submitted by a shell (`slurm/chain.sh`): its id is never noted, and its options are its own."""
    moved: bool = False
    """Submitted when the run lay elsewhere: it looks for it there. Not written down."""
    last: int = 0
    """The last round that it is for: of workers, which go on, and of the merge behind them. 0: its first."""

    @property
    def through(self) -> int:
        return max(self.round, self.last)

    @property
    def rounds(self) -> range:
        return range(self.round, self.through + 1)


@dataclass
class Submission:
    """One file in RUN/submissions."""

    token: str
    created: float
    """Unix time, for people."""
    jobs: list[Job]
    host: str = ""
    pid: int = 0
    owner: dict[str, Any] = field(default_factory=dict)
    """Its submitter's process, told from every other one (`Owner.of`)."""
    complete: bool = False
    """Whether its submitter came to its end."""
    path: str = ""
    """Of the run, when it was submitted."""

    @classmethod
    def new(cls, run: OutputDir, jobs: list[Job]) -> Submission:
        """The next one, by what is there, whatever clocks say."""
        numbers = [int(m[1]) for p in run.submissions.glob("*.json") if (m := _TOKEN.match(p.name))]
        me = Owner.me()
        token = f"s{1 + max(numbers, default=0):05d}-{me.pid}-{secrets.token_hex(2)}"
        return cls(token, time.time(), jobs, me.host, me.pid, me.to_dict(), path=str(run.path))

    def save(self, run: OutputDir) -> None:
        """Write it whole; only the process that made it ever does."""
        closed_directory(run.submissions, 0o700)
        data = asdict(self)
        for job in data["jobs"]:
            del job["moved"]
        write_atomic(run.submissions / f"{self.token}.json", to_json(data), mode=PRIVATE)

    @classmethod
    def load(cls, path: Path) -> Submission:
        data = read_json(path)
        return cls(**{**data, "jobs": [Job(**j) for j in data["jobs"]]})

    def place(self, run: OutputDir) -> Place:
        """Where it was made, as seen from a run that holds it."""
        return place_of(run.path, self.path, f"{run.submissions.name}/{self.token}.json")

    def comment(self, run: OutputDir, number: int) -> str:
        """Marks job `number` of this submission in Slurm's queue."""
        return f"{prefix(run)}{self.token}:{number}"


def prefix(run: OutputDir) -> str:
    """Start of the comment of all jobs of a run."""
    return f"gra:{digest(str(run.path), size=4)}:"


def job_name(run: OutputDir) -> str:
    """Name of a run's jobs in Slurm; a merge's has `-merge` behind it."""
    return f"gra-{run.name}"[:60]


class Does(Enum):
    """What a process does with a run that no other may do at the same time."""

    submits = "submits its jobs"
    cancels = "cancels its jobs"
    runs = "runs it there"


@contextlib.contextmanager
def sole_submitter(run: OutputDir, does: Does = Does.submits, wait_s: float = TURN_S) -> Iterator[None]:
    """Be the only one that submits a run, cancels it, or does it here: a file lock, which the kernel drops when its
    holder dies. Of one that submits and one that cancels, the second waits for the first.

    Where file locks reach one node only, submitters on two go by what each has written (`refuse_while_at_work`).

    Args:
        does: what this process does.
        wait_s: longest wait for another one.

    Raises:
        LaunchError: another process is at it.
    """
    closed_directory(run.submissions, 0o700)
    path = _lock(run)
    with open(path, "a+b", opener=opened_here) as file:
        if not _turn(run, file, does, wait_s):
            yield  # what is done there on its machine has no jobs to cancel
            return
        file.truncate(0)
        file.write(to_json({**Owner.me().to_dict(), "does": does.name}))
        file.flush()
        try:
            with Beat(path):
                yield
        finally:
            file.truncate(0)


def _turn(run: OutputDir, file: IO[bytes], does: Does, wait_s: float) -> bool:
    """Lock a file; whether it is needed."""
    deadline, told = time.monotonic() + wait_s, False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            other, who = _doing(_lock(run)), Owner.read(_lock(run)) or "another process"
        except OSError:
            log.debug("%s: no file locks here; submitters go by what each has written", run.path)
            return True
        if does is Does.cancels and other is Does.runs:
            return False
        if Does.cancels not in (does, other) or time.monotonic() >= deadline:
            doing = "cancelled" if other is Does.cancels else "submitted"
            raise LaunchError(
                f"{run.path}: is being {doing} by {who}", f"wait, then gra status {word(run.path)}"
            ) from None
        if not told:
            complain(f"waiting for {who}, which {other.value} ...")
            told = True
        time.sleep(POLL_S)


def _doing(path: Path) -> Does:
    """What the process does that holds a lock."""
    try:
        return Does[json.loads(path.read_bytes())["does"]]
    except (OSError, ValueError, LookupError, TypeError):
        return Does.submits


def somebody_submits(run: OutputDir) -> bool:
    """Whether another process submits a run, or does it on its machine, as far as can be told."""
    path = _lock(run)
    owner = Owner.read(path)
    if owner is None or owner == Owner.me():
        return False
    with Sightings() as seen:
        return not seen.dead(owner, path, SILENT_S)


def _lock(run: OutputDir) -> Path:
    return run.submissions / ".lock"


def refuse_while_at_work(run: OutputDir) -> None:
    """Two that submit at once would submit twice.

    Raises:
        LaunchError: another process is at it.
    """
    with Sightings() as seen:
        for s in load_all(run).values():
            file = run.submissions / f"{s.token}.json"
            owner = Owner.of(s.owner)
            if s.complete or not s.pid or owner == Owner.me() or s.place(run) is Place.copied:
                continue
            if seen.dead(owner, file, SILENT_S):
                continue
            raise LaunchError(
                f"{run.path}: is being submitted by process {s.pid} on {s.host}",
                f"wait, then gra status {word(run.path)}; where that process is gone, type this again in"
                f" {SILENT_S / 60:.0f} minutes",
            )


def load_all(run: OutputDir) -> dict[str, Submission]:
    """All submissions of a run, by token, in their order (tokens once began with a time: those come first)."""
    found = (Submission.load(p) for p in sorted(run.submissions.glob("*.json")))
    return {s.token: s for s in found}


def live(run: OutputDir, timeout: float = slurm.TIMEOUT_S) -> list[tuple[Job, slurm.Task]]:
    """Tasks of a run that wait or run, with what each one is for: one query.

    Args:
        timeout: longest wait for squeue, in seconds.

    Raises:
        LaunchError: Slurm cannot be asked.
    """
    return match(run, slurm.queue(timeout=timeout))


def match(run: OutputDir, tasks: Iterable[slurm.Task]) -> list[tuple[Job, slurm.Task]]:
    """The tasks of a queue that belong to a run and wait or run, with what each one is for.

    They are known by their comment, or, where a site's plugin rewrites comments, by an id that a submission recorded.
    Those of a run that this one is a copy of are that one's.
    """
    known = load_all(run)
    places = {token: submission.place(run) for token, submission in known.items()}
    return [
        (replace(job, moved=places[token] is Place.moved), task)
        for token, job, task in _recorded(run, known, tasks)
        if places[token] is not Place.copied
    ]


def original(run: OutputDir, tasks: Iterable[slurm.Task]) -> str:
    """The run that this one is a copy of, if its jobs wait or run among some tasks; else empty."""
    known = load_all(run)
    copied = {token: s for token, s in known.items() if s.place(run) is Place.copied}
    return next((copied[token].path for token, *_ in _recorded(run, copied, tasks)), "")


def refuse_copy(run: OutputDir, tasks: Iterable[slurm.Task]) -> None:
    """A copy of a run that is at work is not touched, nor does it touch anything.

    Raises:
        LaunchError: it is one.
    """
    if of := original(run, tasks):
        raise LaunchError(
            f"{run.path}: this is a copy of {of}, whose jobs run; nothing was touched",
            f"gra status {word(of)}; once that has ended, or gra cancel {word(of)}, the copy may go on by itself",
        )


def _recorded(
    run: OutputDir, known: dict[str, Submission], tasks: Iterable[slurm.Task]
) -> Iterator[tuple[str, Job, slurm.Task]]:
    """Tasks that wait or run and that some submissions recorded: token, what each is for, task."""
    by_id = {job.id: (token, job) for token, s in known.items() for job in s.jobs if job.id}
    names = {token: job_name(OutputDir(Path(s.path)) if s.path else run) for token, s in known.items()}
    for task in tasks:
        token, _, number = task.comment.rpartition(":")
        token = token.rpartition(":")[2]
        if not task.active:
            continue
        if token in known and number.isdigit() and int(number) < len(known[token].jobs):
            yield token, known[token].jobs[int(number)], task
        elif (found := by_id.get(str(task.job))) and task.name.startswith(names[found[0]]):
            yield *found, task


def by_hand(
    run: RunDir, rounds: tuple[int, int], shards: Iterable[int], tasks: Iterable[slurm.Task]
) -> list[tuple[Job, slurm.Task]]:
    """Running tasks that nobody recorded (`sbatch slurm/synthesize.sbatch`), known by the shards' latest heartbeats.

    Args:
        run: its directory.
        rounds: the first and the last that workers are to do.
        shards: those of the first that are not published.
        tasks: those of the queue that `match` does not know.
    """
    running = {task.id: task for task in tasks if task.running}
    out = []
    for shard in shards if running else ():
        directory = run.round(rounds[0]).shard(shard)
        latest = earlier(directory)[-1:]
        beat = Heartbeat.read(latest[0]) if latest else None
        if beat is not None and (task := running.pop(beat.job, None)) is not None:
            out.append((Job("workers", rounds[0], id=str(task.job), plain=True, last=rounds[1]), task))
    return out


def in_queue(run: OutputDir, kind: str) -> str:
    """Slurm's id of a job of this kind that waits or runs; empty if there is none.

    Raises:
        LaunchError: Slurm cannot be asked, or another process submits just now.
    """
    refuse_while_at_work(run)
    ids = [str(task.job) for job, task in live(run) if job.kind == kind and not task.hopeless and not job.moved]
    return ids[-1] if ids else ""


def dependency(kind: str, ids: Sequence[str]) -> str:
    """`afterok:1:2`, or nothing."""
    known = [i for i in ids if i]
    return f"{kind}:{':'.join(dict.fromkeys(known))}" if known else ""


def record(run: OutputDir, submission: Submission, done: bool = False) -> None:
    """Write a submission down; before sbatch is called, and after."""
    submission.complete = done
    submission.save(run)
