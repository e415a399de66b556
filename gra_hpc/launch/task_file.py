"""The file that a job begins with: its task, pickled by who submitted it.

    python -u -P -m gra_hpc.launch.task_file RUN/logs/JOB

Whoever writes such a file decides what runs. submitit's own command unpickles whatever lies there; here only a file
counts that belongs to the user whose job it is, and that nobody else may write. It is looked at and read by one handle:
renaming it, or a directory above it, while the job waits or starts puts nothing else in its place.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
import traceback
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
from submitit.core import job_environment
from submitit.core.logger import get_logger
from submitit.core.utils import DelayedSubmission, JobPaths

from gra_hpc.errors import LaunchError, StorageError
from gra_hpc.permissions import closed_directory, own_bytes
from gra_hpc.storage import PRIVATE, full_disk_as_error, read_object, to_json, write_atomic

MODULE = "gra_hpc.launch.task_file"
WAIT_S = 60
"""A job may start before its submitter has learnt its id, and given the file its name."""


class Submitted(DelayedSubmission):
    """A task as it is handed over, and again when the job goes back to the queue."""

    def dump(self, filepath: str | Path) -> None:
        """Write it for this user alone."""
        write_atomic(Path(filepath), cloudpickle.dumps(self), durable=False, mode=PRIVATE)


def write(logs: Path, tasks: Sequence[Any], minutes: int, timeouts: int) -> list[Path]:
    """A new file for each task in the directory of logs; `place` names them once the jobs have their ids.

    Args:
        minutes: the jobs' time limit.
        timeouts: how often each may reach that.

    Raises:
        StorageError: no room.
    """
    closed_directory(logs)
    files = []
    for task in tasks:
        submitted = Submitted(task)
        submitted.set_timeout(minutes, timeouts)
        path = logs / f"{uuid.uuid4().hex}.pkl"  # nobody foresees the name, nor looks there until it has its own
        with full_disk_as_error(path), open(path, "xb", opener=_private) as f:
            f.write(cloudpickle.dumps(submitted))
        files.append(path)
    return files


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, PRIVATE)


def place(files: Iterable[tuple[Path, JobPaths]], name: str) -> None:
    """Move files to where their jobs look for them.

    Args:
        name: submitted_pickle or submission_file.
    """
    closed = set()
    for file, paths in files:
        target: Path = getattr(paths, name)
        if target.parent not in closed:  # of an array all have one
            closed.add(closed_directory(target.parent))
        file.rename(target)


def command(python: str, folder: str) -> str:
    """The shell's words that run the task of a job."""
    return f"{python} -u -P -m {MODULE} {folder}"


def outcome(paths: JobPaths) -> dict[str, str]:
    """What a local job has left: `result`, or `error` with its traceback; empty if it was killed."""
    try:
        return {str(k): str(v) for k, v in read_object(_outcome(paths)).items()}
    except (OSError, StorageError):
        return {}


def _outcome(paths: JobPaths) -> Path:
    return Path(paths.result_pickle).with_suffix(".json")


def run(folder: str) -> None:
    """Run the task of this job.

    Raises:
        OwnershipError: its file is in other hands.
        LaunchError: there is none.
        Exception: what the task raises.
    """
    os.environ.update(SUBMITIT_FOLDER=folder, PYTHONSAFEPATH="1")
    env, log = job_environment.JobEnvironment(), get_logger()
    file = Path(env.paths.submitted_pickle)
    log.info(f"Starting with {env}")  # marks where this attempt's part of the log begins
    deadline = time.monotonic() + WAIT_S
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.5)
    told: dict[str, str] = {}
    try:
        try:
            data = own_bytes(file, "only who made a directory of jobs submits them")
        except OSError as e:
            raise LaunchError(f"{file}: {e.strerror}; its submitter was killed?", "submit it again") from None
        submitted = pickle.loads(data)
        env._handle_signals(env.paths, submitted)
        told["result"] = str(submitted.result())
        log.info("Job completed successfully")
    except Exception:
        told["error"] = traceback.format_exc()
        log.error("Submitted job triggered an exception")
        raise
    finally:
        if env.cluster == "local" and told:  # under Slurm nobody asks
            write_atomic(_outcome(env.paths), to_json(told), durable=False, mode=PRIVATE)


if __name__ == "__main__":
    run(sys.argv[1])
