"""The local executor: the same jobs without Slurm, a bounded number at once, watched until the end."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from gra_hpc.errors import IncompleteError, LaunchError
from gra_hpc.launch.legs import legs_of
from gra_hpc.launch.tasks import MergeTask, WorkerTask
from gra_hpc.log_tail import ANY, OURS, last_words, telling
from gra_hpc.owner import Owner
from gra_hpc.permissions import closed_directory
from gra_hpc.run.directory import round_name
from gra_hpc.run.publish import is_published
from gra_hpc.run.rounds import Step, is_taken_back, remaining
from gra_hpc.run.run import Run
from gra_hpc.run.unneeded import Unneeded
from gra_hpc.terminal import tell, word

POLL_S = 0.3
_YEAR_MIN = 60 * 24 * 365
"""submitit's local jobs end after two minutes unless told otherwise."""


@dataclass(frozen=True)
class Watched:
    """A local job that ends when its submitter is gone, also after kill -9: nothing may go on unseen."""

    task: Any
    submitter: Owner

    @classmethod
    def by_me(cls, task: Any) -> Watched:
        return cls(task, Owner.me())

    def __call__(self) -> Any:
        threading.Thread(target=self._watch, daemon=True).start()
        return self.task()

    def _watch(self) -> None:
        while self.submitter.alive() is not False:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        os.kill(os.getpid(), signal.SIGKILL)  # its engines' guards notice


def run_all(run: Run, watch: Callable[[], None] = lambda: None) -> None:
    """Run everything that is left of a run, round by round.

    Args:
        watch: called a few times a second while jobs run (the progress display).

    Raises:
        IncompleteError: shards that ended without a result; all others were still run.
        KeyboardInterrupt: passed on after the jobs have ended.
    """
    parallel = run.config.launch.parallel or 1
    before = signal.signal(signal.SIGTERM, _interrupted)
    try:
        while steps := remaining(run):
            step = steps[0]
            if step.shards:
                _shards(run, step, legs_of(run, steps)[0].last, parallel, watch)
                if [s.round for s in remaining(run)][:1] != [step.round]:
                    continue  # the workers have merged it, and gone on
            last = step.round == run.rounds[-1]
            tell(f"{round_name(step.round)}: merging{', and the release is made' if last else ''}")
            job = _submit(run, MergeTask(str(run.path), step.round))
            _wait([job], watch)
            if not is_taken_back(run, step.round):
                _require_result(job, run)
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupted(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _shards(run: Run, step: Step, last: int, parallel: int, watch: Callable[[], None]) -> None:
    """Have workers do a round, and those behind it to the last of the leg. Where one was killed others follow, as long
    as that gets further."""
    left = list(step.shards)
    while left:
        places = left[:: -(-len(left) // parallel)]
        jobs = [_submit(run, WorkerTask(str(run.path), step.round, place, last=last)) for place in places]
        _wait(jobs, watch)
        unneeded = Unneeded(run, step.round).shards()
        before = left
        left = [s for s in left if s not in unneeded and not is_published(run.round(step.round).shard(s))]
        said = [_outcome(job) for job in jobs]
        if left and (all(said) or len(left) == len(before)):
            shards = ", ".join(str(s) for s in left)
            cause, advice, log = _error(
                next((j for j, s in zip(jobs, said, strict=True) if "result" not in s), jobs[0])
            )
            raise IncompleteError(
                f"{round_name(step.round)}: shard {shards} not published: {cause} (log: {log})",
                f"{advice}, then gra resume {word(run.path)}" if advice else f"gra resume {word(run.path)}",
            )


def _submit(run: Run, task: Any) -> Any:
    import submitit

    from gra_hpc.launch import task_file

    class Executor(submitit.LocalExecutor):
        @property
        def _submitit_command_str(self) -> str:
            return task_file.command(self.python, shlex.quote(str(self.folder)))

    closed_directory(run.logs)
    os.environ["PYTHONSAFEPATH"] = "1"  # submitit starts its controller by -m
    with _quiet(), _deaf_to_ctrl_c():
        executor = Executor(folder=closed_directory(run.logs / "local"))
        executor.update_parameters(timeout_min=_YEAR_MIN, stderr_to_stdout=False)
        return executor._internal_process_submissions([task_file.Submitted(Watched.by_me(task))])[0]


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """What is started meanwhile does not hear a terminal's Ctrl-C: we do, and end our jobs in their order."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _wait(jobs: list[Any], watch: Callable[[], None]) -> None:
    try:
        while any(not j.done() for j in jobs):
            watch()
            time.sleep(POLL_S)
    except BaseException:
        _stop(jobs)
        raise


def _stop(jobs: list[Any]) -> None:
    """End jobs on Ctrl-C: SIGTERM drains them; what does not end is killed, and its engines with it."""
    for job in jobs:
        with contextlib.suppress(OSError):
            job._process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 30
    while any(not j.done() for j in jobs) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for job in jobs:
        if not job.done():
            job._process.kill()


def _outcome(job: Any) -> dict[str, str]:
    """What a job has left (`task_file.outcome`)."""
    from gra_hpc.launch.task_file import outcome

    return outcome(job.paths)


def _error(job: Any) -> tuple[str, str, Path]:
    """The last line of what a job raised: cause and advice; and its log."""
    log = Path(job.paths.stderr)
    trace = _outcome(job).get("error", "")
    last = telling(trace.splitlines(), ANY) or last_words(log) or last_words(Path(job.paths.stdout))
    last = last or "the process ended without a result"
    ours = OURS.match(last)
    cause, advice = (ours[1], ours[2] or "") if ours else (last, "")
    return cause, advice.partition(", then gra resume")[0], log


def _require_result(job: Any, run: Run) -> None:
    """Raises LaunchError unless a job came to its end."""
    if "result" not in _outcome(job):
        cause, advice, log = _error(job)
        raise LaunchError(f"{cause} (log: {log})", f"{advice or 'mend it'}, then gra resume {word(run.path)}")


@contextlib.contextmanager
def _quiet() -> Any:
    """submitit warns about parameters it does not know for local jobs."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
