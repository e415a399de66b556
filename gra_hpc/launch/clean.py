"""`gra clean`: what a run no longer needs. Submission files, and the logs of what is published; never data.

What goes is chosen from a listing of RUN/logs itself, two levels deep, without following a link. Names that come out of
manifests and submissions only select from that listing, so none of them leads elsewhere. Files are removed by the
handles of their directories: one that is swapped for a link meanwhile is not followed either.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gra_hpc.errors import StorageError
from gra_hpc.launch import submissions
from gra_hpc.launch.log_files import BESIDE, PLAIN, Finder, attempts_of, local_job
from gra_hpc.launch.slurm import index_ranges
from gra_hpc.run.attempts import Heartbeat, attempt_names
from gra_hpc.run.merged import Merged
from gra_hpc.run.publish import is_published
from gra_hpc.run.run import Run
from gra_hpc.terminal import word

TASKS = (".pkl", "_result.json")
SCRIPTS = ".sh"
_TASK = re.compile(r"(\d+)_(0|[1-9]\d*)(_\d+)?(_[a-z]+\.\w+)", re.ASCII)
"""A file of one task: job, index, and what follows."""
_LOG = re.compile(r"\d+(_\d+){0,2}_log\.(?:out|err)|merge-\d+-(?:local-)?\d+(_\d+)?\.log", re.ASCII)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OF_JOBS = ("local", PLAIN, BESIDE)
"""Directories of logs of jobs, beside those that are named by a job's id."""


@dataclass(frozen=True, order=True)
class Entry:
    """A file, or a link, in RUN/logs."""

    directory: str
    """Below RUN/logs; empty: RUN/logs itself."""
    name: str
    size: int
    """Bytes, of a link its own."""


@dataclass
class Kind:
    """Files of one kind."""

    name: str
    files: list[Entry]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(f.size for f in self.files)


def clean(run: Run, yes: bool) -> Iterator[str]:
    """List what is no longer needed, file by file; then, with `yes`, remove it.

    Raises:
        StorageError: none of it can be removed.
        LaunchError: jobs may be in the queue, and Slurm cannot be asked: their files are needed if they are requeued.
    """
    if run.logs.is_symlink():
        yield f"{run.logs}: is a link; nothing behind it is touched"
        return
    kinds = [k for k in found(run, listing(run.logs)) if k.files]
    if not kinds:
        yield "nothing to remove"
        return
    for kind in kinds:
        yield f"{'removing' if yes else 'would remove'} {len(kind.files)} {kind.name}, {kind.size / 1e6:.1f} MB"
        yield from (f"  {run.logs.name}/{line}" for line in _named(kind.files))
    if yes:
        files = [f for kind in kinds for f in kind.files]
        kept = _remove(run.logs, files)
        if len(kept) == len(files):
            raise StorageError(
                f"{run.logs}: nothing could be removed ({kept[0]})",
                f"whoever may write there types it: ls -ld {word(run.logs)}",
            )
        if kept:
            yield f"{len(kept)} of them stay: {kept[0]}"
        yield "done; samples, manifests, journals and the logs of unpublished shards are untouched"
    else:
        yield f"next: gra clean {word(run.path)} --yes"


def listing(logs: Path) -> list[Entry]:
    """Files and links in a directory and in those directly below it; links are listed, never followed."""
    return sorted(_listed(logs, "", below=True))


def _listed(path: Path, directory: str, below: bool) -> Iterator[Entry]:
    try:
        entries = list(os.scandir(path))
    except OSError:
        return
    for e in entries:
        with contextlib.suppress(OSError):  # gone meanwhile
            if e.is_dir(follow_symlinks=False):
                if below:
                    yield from _listed(path / e.name, e.name, below=False)
            elif e.is_symlink() or e.is_file(follow_symlinks=False):
                yield Entry(directory, e.name, e.stat(follow_symlinks=False).st_size)


def found(run: Run, there: list[Entry]) -> list[Kind]:
    """What of a listing may go. Files of jobs in Slurm's queue stay: a requeued task starts from its pickle."""
    submitted = any(run.submissions.glob("*.json"))
    live = {str(task.job) for _, task in submissions.live(run)} if submitted else set()
    jobs = [f for f in there if f.directory not in live and (f.directory.isdigit() or f.directory in _OF_JOBS)]
    here = submissions.somebody_submits(run)  # its local jobs may not have read their pickles yet
    tasks = [f for f in jobs if f.name.endswith(TASKS) and (f.directory != "local" or not here)]
    scripts = [f for f in jobs if f.name.endswith(SCRIPTS)]
    if not live:
        left = re.compile(r"\.submission_file_.*\.sh" if here else r"\.submission_file_.*\.sh|[0-9a-f]{32}\.pkl")
        scripts += [f for f in there if not f.directory and left.fullmatch(f.name)]
    named, workers = _logs_of_published(run, live)
    if _is_over(run):  # also those of workers that found nothing left to do
        named |= {(f.directory, f.name) for f in jobs if _LOG.fullmatch(f.name) and _job_of(Path(f.name)) not in live}
    engines = workers - {"", *(f.directory for f in jobs)}
    logs = [f for f in there if (f.directory, f.name) in named or (f.directory in engines and f.name.endswith(".log"))]
    return [
        Kind("files of tasks", tasks),
        Kind("submission scripts", scripts),
        Kind("logs of published shards and finished merges", logs),
    ]


def _logs_of_published(run: Run, live: set[str]) -> tuple[set[tuple[str, str]], set[str]]:
    """Of every attempt at a published shard, and of merges that are there: directories and names of the job's logs, and
    the directories of its engines' logs. Some of them may not be in RUN/logs."""
    finder = Finder(run)
    files: set[Path] = set()
    engines: set[str] = set()
    needed: set[str] = set()
    unpublished: set[Path] = set()
    for number in run.rounds:
        directory = run.round(number)
        for s in range(run.shards_of(number)):
            shard = directory.shard(s)
            if not is_published(shard):
                for name in attempt_names(shard):  # its workers have published others, and their logs are one
                    if beat := Heartbeat.read(shard.attempt(name)):
                        needed.add(beat.worker)
                        unpublished |= {*finder.files(beat.job or local_job(name))}
                continue
            files |= {*finder.shard(number, shard).job}
            for worker, job in attempts_of(shard):
                engines.add(worker)
                files |= {*finder.files(job)}
        if directory.manifest.is_file():
            files |= {*finder.merge(number).job}
    return {(f.parent.name, f.name) for f in files - unpublished if _job_of(f) not in live}, engines - needed


def _is_over(run: Run) -> bool:
    """Whether all shards are published, all rounds merged, and the release is there: else a log may say why not."""
    try:
        return (run.release / "manifest.json").is_file() and all(
            (merged := Merged.load(run.round(n))) is not None
            and all(s in merged.unneeded or is_published(run.round(n).shard(s)) for s in range(run.shards_of(n)))
            for n in run.rounds
        )
    except StorageError:  # a merge that is damaged is to be made again
        return False


def _job_of(log: Path) -> str:
    """The job that a log belongs to."""
    found = re.fullmatch(r"(?:merge-\w+-(?:local-)?)?(\d+)(?:_.*)?\.(?:out|err|log)", log.name)
    return found[1] if found else ""


def _named(files: list[Entry]) -> Iterator[str]:
    """Every file's path below RUN/logs; those of an array's tasks as one: `7/7_[0-3,5]_submitted.pkl`."""
    arrays: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for f in files:
        if task := _TASK.fullmatch(f.name):
            arrays[f.directory, f"{task[1]}_", f"{task[3] or ''}{task[4]}"].append(int(task[2]))
        else:
            path = f"{f.directory}/{f.name}" if f.directory else f.name
            yield "".join(c if c.isprintable() else "\ufffd" for c in path)
    for (directory, before, after), indices in sorted(arrays.items()):
        some = index_ranges(indices)
        yield f"{directory}/{before}{f'[{some}]' if len(indices) > 1 else some}{after}"


def _remove(logs: Path, files: list[Entry]) -> list[str]:
    """Remove files, and directories that are empty then, by handles that follow no link; what could not be removed."""
    by_directory: dict[str, list[str]] = defaultdict(list)
    for f in files:
        by_directory[f.directory].append(f.name)
    kept = []
    try:
        with _opened(logs) as root:
            for directory, names in by_directory.items():
                try:
                    with _opened(directory or ".", root) as handle:
                        kept += [f"{directory}/{name}: {e}" for name in names if (e := _unlink(name, handle))]
                except OSError as e:
                    kept += [f"{directory}/{name}: {e.strerror}" for name in names]
            for directory in os.listdir(root):  # noqa: PTH208
                with contextlib.suppress(OSError):  # no directory, or something is left in it
                    os.rmdir(directory, dir_fd=root)
    except OSError as e:
        return [f"{logs}: {e.strerror}"] * len(files)
    return kept


def _unlink(name: str, directory: int) -> str:
    """Remove a file in an open directory; why not, if it stays."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except OSError as e:
        return e.strerror or str(e)
    return ""


@contextlib.contextmanager
def _opened(path: Path | str, below: int | None = None) -> Iterator[int]:
    handle = os.open(path, _DIRECTORY, dir_fd=below)
    try:
        yield handle
    finally:
        os.close(handle)
