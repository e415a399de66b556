"""`gra cancel`: end this run's jobs in Slurm, known by their comment or by the ids that its submissions recorded."""

from __future__ import annotations

from collections.abc import Iterator

from gra_hpc import presets
from gra_hpc.config import Executor
from gra_hpc.errors import LaunchError
from gra_hpc.launch import slurm
from gra_hpc.launch.submissions import load_all, prefix
from gra_hpc.rundir import RunDir


def tasks_of(run: RunDir) -> list[slurm.Task]:
    """Tasks of a run that wait or run: one query.

    A site's submit plugin may rewrite comments: an id that a submission recorded counts too, unless Slurm has given
    it to a job of another name since.

    Raises:
        LaunchError: Slurm cannot be asked.
    """
    ids = {job.id for submission in load_all(run).values() for job in submission.jobs if job.id}
    mark, name = prefix(run), f"gra-{run.name}"[:60]
    return [
        task
        for task in slurm.queue()
        if task.active
        and (task.comment.startswith(mark) or (str(task.job) in ids and task.name.startswith(name)))
    ]


def cancel(run: RunDir, waiting_only: bool = False) -> Iterator[str]:
    """Cancel a run's tasks.

    Args:
        waiting_only: leave those alone that are on a node.

    Yields:
        What was done, for people.

    Raises:
        LaunchError: Slurm cannot be asked, or refused; or the run does not use Slurm.
    """
    submitted = any(run.submissions.glob("*.json"))
    if not submitted and presets.load(run.config).site.executor is Executor.local:
        raise LaunchError(
            f"{run.path}: runs on this machine, not in Slurm", "press Ctrl-C where gra submit runs"
        )
    tasks = tasks_of(run) if submitted else []
    chosen = [t for t in tasks if t.waiting or not waiting_only]
    if not chosen:
        yield "nothing of this run is in Slurm's queue" + (" and waiting" if waiting_only and tasks else "")
        return
    running = sum(t.running for t in chosen)
    # An array that is cancelled whole is one request; single tasks of it are named only when others stay.
    whole = {t.job for t in chosen} - {t.job for t in tasks if t not in chosen}
    ids: list[int | str] = [*sorted(whole), *(t.id for t in chosen if t.job not in whole)]
    slurm.cancel(ids)
    yield f"cancelled {len(chosen)} tasks: {running} running, {len(chosen) - running} waiting"
    if running:
        yield "what they were answered is kept; a running task ends within Slurm's KillWait"
    yield f"next: gra resume {run.path}"
