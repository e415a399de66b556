"""`gra clean`: what a run no longer needs. Submission files, and the logs of what is published; never data."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gra_hpc.config import presets
from gra_hpc.launch import submissions
from gra_hpc.launch.log_files import PLAIN, Finder, local_job
from gra_hpc.run.directory import RunDir
from gra_hpc.run.plan import Plan
from gra_hpc.run.publish import is_published
from gra_hpc.run.rounds import rounds_of, shards_of
from gra_hpc.storage import read_json

PICKLES = "*.pkl"
SCRIPTS = "*.sh"


@dataclass
class Kind:
    """Files of one kind."""

    name: str
    files: list[Path]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(f.stat().st_size for f in self.files if f.is_file())


def clean(run: RunDir, yes: bool) -> Iterator[str]:
    """List, or remove, what is no longer needed.

    Raises:
        LaunchError: jobs may be in the queue, and Slurm cannot be asked: their files are needed if they are requeued.
    """
    kinds = [k for k in found(run) if k.files]
    if not kinds:
        yield "nothing to remove"
        return
    for kind in kinds:
        yield f"{'removing' if yes else 'would remove'} {len(kind.files)} {kind.name}, {kind.size / 1e6:.1f} MB"
        if yes:
            for file in kind.files:
                file.unlink(missing_ok=True)
    if yes:
        _remove_empty(run.logs)
        yield "done; samples, manifests, journals and the logs of unpublished shards are untouched"
    else:
        yield f"next: gra clean {run.path} --yes"


def found(run: RunDir) -> list[Kind]:
    """Removable files. Those of jobs in Slurm's queue are left out: a requeued task starts from its pickle."""
    submitted = any(run.submissions.glob("*.json"))
    live = {str(task.job) for _, task in submissions.live(run)} if submitted else set()
    directories = [d for d in _subdirectories(run.logs) if d.name not in live]
    jobs = [d for d in directories if d.name.isdigit() or d.name in ("local", PLAIN)]
    here = submissions.somebody_submits(run)  # its local jobs may not have read their pickles yet
    pickles = [f for d in jobs for f in sorted(d.glob(PICKLES)) if d.name != "local" or not here]
    scripts = [f for d in jobs for f in sorted(d.glob(SCRIPTS))]
    if not live:
        scripts += sorted(run.logs.glob(f".submission_file_{SCRIPTS}"))
    return [
        Kind("submitit pickles", pickles),
        Kind("submission scripts", scripts),
        Kind("logs of published shards and finished merges", list(_logs_of_published(run, live))),
    ]


def _subdirectories(path: Path) -> list[Path]:
    return sorted(d for d in path.iterdir() if d.is_dir()) if path.is_dir() else []


def _logs_of_published(run: RunDir, live: set[str]) -> Iterator[Path]:
    """Job logs and engine logs of every attempt at a published shard, and of merges that are there."""
    plan, config, finder = Plan.load(run), presets.load(run.config), Finder(run)
    for number in rounds_of(plan, config.method.rounds):
        directory = run.round(number)
        for s in range(shards_of(run, plan, number)):
            shard = directory.shard(s)
            if not is_published(shard):
                continue
            newest = finder.shard(number, shard).job
            names = set()
            for attempt in read_json(shard.manifest)["attempts"]:
                yield from sorted((run.logs / attempt["attempt"]).glob("*"))
                names.add(attempt.get("job") or local_job(attempt["attempt"]))
            files = {*newest, *(f for name in sorted(names) for f in finder.files(name))}
            yield from sorted(f for f in files if _job_of(f) not in live)
        if directory.manifest.is_file():
            yield from (f for f in finder.merge(number).job if _job_of(f) not in live)


def _job_of(log: Path) -> str:
    """The job that a log belongs to."""
    found = re.fullmatch(r"(?:merge-\w+-)?(\d+)(?:_.*)?\.(?:out|err|log)", log.name)
    return found[1] if found else ""


def _remove_empty(logs: Path) -> None:
    for directory in _subdirectories(logs):
        if not any(directory.iterdir()):
            shutil.rmtree(directory, ignore_errors=True)
