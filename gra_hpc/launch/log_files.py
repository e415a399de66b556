"""Which log belongs to which shard or merge.

RUN/logs/JOB/JOB_INDEX_0_log.out    an array task, over all its restarts (JOB_0_log.out: a job that is no array)
RUN/logs/local/PID_0_log.{out,err}  a job of the local executor
RUN/logs/beside/merge-ROUND-JOB.log a merge that a worker made beside its engines
RUN/logs/ATTEMPT/*.log              the engines of one worker, one file per start, named by its first attempt
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from gra_hpc.errors import StorageError
from gra_hpc.launch.submissions import load_all
from gra_hpc.log_tail import LINES, tail
from gra_hpc.run.attempts import Heartbeat
from gra_hpc.run.directory import RunDir, ShardDir
from gra_hpc.storage import read_json

PLAIN = "sbatch"
"""Directory of the logs of plain sbatch jobs."""
BESIDE = "beside"
"""Directory of the logs of merges that were made beside a worker's engines."""
LOCAL_LOGS = 50
"""So many of the newest logs of local jobs are looked through for a merge."""
_NAME = re.compile(r"\w[\w.+-]*", re.ASCII)
"""A job or an attempt, as files name it: one name, which leads to no other directory."""


@dataclass(frozen=True)
class Logs:
    """Logs of one shard or merge; paths may be of files that are gone."""

    job: tuple[Path, ...]
    """Of its newest job: one file, or stdout and stderr."""
    engines: tuple[Path, ...]
    """Of the engines of its newest attempt's worker."""

    @property
    def main(self) -> Path | None:
        """The file to open first."""
        return self.job[-1] if self.job else None


class Finder:
    """Finds the logs of many shards: the submissions are read once."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self._jobs: dict[tuple[str, int, int], str] = {}
        for submission in load_all(run).values():  # in their order: the newest wins
            for job in submission.jobs:
                if job.kind == "merge" and job.id:
                    self._jobs |= {("merge", number, 0): job.id for number in job.rounds}
                for index, shard in enumerate(job.shards if job.id else ()):
                    name = f"{job.id}_{index}" if len(job.shards) > 1 else job.id
                    self._jobs["workers", job.round, shard] = name

    def shard(self, round_: int, shard: ShardDir, beat: Heartbeat | None = None) -> Logs:
        """Logs of a shard: of its newest attempt's worker, or of one submitted since that was to begin there and did
        not."""
        names = [self._jobs.get(("workers", round_, shard.number), "")]
        engines: tuple[Path, ...] = ()
        if beat is not None:
            names.append(beat.job or local_job(beat.attempt))
            engines = self._engines(beat.worker or beat.attempt)
        else:
            for worker, job in attempts_of(shard)[-1:]:
                names.append(job)
                engines = self._engines(worker)
        found = [files for name in names if name and (files := self.files(name))]
        newest = max(reversed(found), key=lambda files: job_number(files[0]), default=())
        return Logs(newest, engines)

    def merge(self, round_: int) -> Logs:
        """Logs of the newest merge of a round: a job's under Slurm, or one beside a worker's engines."""
        files = self.files(self._jobs.get(("merge", round_, 0), ""))
        plain = self.run.logs / PLAIN
        both = [*files, *plain.glob(f"merge-{round_}-*.out"), *plain.glob("merge-current-*.out")]
        both += (self.run.logs / BESIDE).glob(f"merge-{round_}-*.log")
        if not both:
            return Logs(self._local_merge(round_), ())
        return Logs((max(reversed(both), key=_begun),), ())

    def _local_merge(self, round_: int) -> tuple[Path, ...]:
        """The log of the last local job that speaks of a round's merge; such jobs are not recorded as Slurm's are."""
        logs = sorted((self.run.logs / "local").glob("*_0_log.err"), key=_begun_here, reverse=True)
        for log in logs[:LOCAL_LOGS]:
            with contextlib.suppress(OSError):
                if any("gra_hpc.merge" in line and f" round {round_}: " in line for line in tail(log, LINES)):
                    return (log,)
        return ()

    def _engines(self, attempt: str) -> tuple[Path, ...]:
        directory = self.run.logs / attempt
        return tuple(sorted(directory.glob("*.log"))) if _NAME.fullmatch(attempt) and directory.is_dir() else ()

    def files(self, job: str) -> tuple[Path, ...]:
        """The files of `4242_7`, `4242` or `local-PID` that are there."""
        if not _NAME.fullmatch(job):
            return ()
        logs = str(self.run.logs)  # of a run of 20,000 shards many are asked for, and few are there
        if job.startswith("local-"):
            base = f"{logs}/local/{job.removeprefix('local-')}"
            files = [f"{base}_0_log.out", f"{base}_0_log.err"]
        else:
            files = [f"{logs}/{place}/{job}_0_log.out" for place in (job.partition("_")[0], PLAIN)]
        return tuple(Path(f) for f in files if os.path.isfile(f))  # noqa: PTH113


def _begun(log: Path) -> tuple[float, float]:
    """Orders logs of merges: by their jobs; those beside a local worker's engines, all of one machine, by its clock."""
    return (float("inf"), _begun_here(log)) if "-local-" in log.name else (job_number(log), 0.0)


def _begun_here(log: Path) -> float:
    """Orders logs of one machine, by its clock; a file that is gone was before all."""
    try:
        return log.stat().st_mtime
    except OSError:
        return 0.0


def job_number(log: Path) -> float:
    """Slurm's id of the job that a log belongs to: later jobs have higher ones. A local job, which Slurm has not
    numbered, was begun by hand behind them."""
    found = re.search(r"(\d+)(?:_\d+)*(?:_log)?\.\w+$", log.name)
    return int(found[1]) if found and log.parent.name != "local" else float("inf")


def attempts_of(shard: ShardDir) -> list[tuple[str, str]]:
    """The workers of the attempts that a published shard's manifest names, each with its job; none where it cannot be
    read."""
    try:
        said = read_json(shard.manifest)["attempts"]
        return [(str(a.get("worker") or a["attempt"]), str(a.get("job") or local_job(str(a["attempt"])))) for a in said]
    except (OSError, StorageError, KeyError, TypeError, AttributeError):
        return []


def local_job(attempt: str) -> str:
    """`local-PID` of an attempt's id (`NUMBER-local-PID-XXXX`); empty if it ran under Slurm."""
    parts = attempt.split("-")
    return f"local-{parts[2]}" if len(parts) > 2 and parts[1] == "local" else ""
