"""`gra cancel`: end this run's jobs in Slurm, and no others."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from gra_hpc.config.site import Executor
from gra_hpc.errors import LaunchError
from gra_hpc.launch import slurm
from gra_hpc.launch.submissions import Does, Job, match, refuse_copy, sole_submitter, somebody_submits
from gra_hpc.run.run import Run
from gra_hpc.terminal import counted, word

WAIT_S = 60.0
"""Longest wait for cancelled tasks: Slurm gives them KillWait, 30 s on most sites."""


def cancel(run: Run, waiting_only: bool = False, workers: int = 0) -> Iterator[str]:
    """Cancel a run's tasks. A submission that is being made comes to its end before.

    Args:
        waiting_only: leave those alone that are on a node.
        workers: only so many workers, of the first round in the queue: those that wait, then those that came last.

    Yields:
        What was done, for people.

    Raises:
        LaunchError: Slurm cannot be asked, or refused; the run does not use Slurm, or is a copy of one that is at work;
            or another process submits it, for long.
    """
    submitted = any(run.submissions.glob("*.json"))
    if not submitted and run.config.site.executor is Executor.local:
        if not somebody_submits(run):
            yield "nothing to cancel: no gra submit runs this run"
            yield f"next: gra status {word(run.path)}"
            return
        raise LaunchError(f"{run.path}: runs on this machine, not in Slurm", "press Ctrl-C where gra submit runs")
    if not submitted:
        yield "nothing of this run is in Slurm's queue"
        return
    with sole_submitter(run, Does.cancels):
        yield from _cancel(run, waiting_only, workers)


def _cancel(run: Run, waiting_only: bool, workers: int) -> Iterator[str]:
    queue = slurm.queue()
    found = match(run, queue)
    tasks = [task for _, task in found]
    if not tasks:
        refuse_copy(run, queue)
    chosen = [t for t in tasks if t.waiting or not waiting_only]
    if workers:
        chosen = last_workers(found, chosen)[:workers]
    if not chosen:
        yield "nothing of this run is in Slurm's queue" + (" and waiting" if waiting_only and tasks else "")
        return
    running = sum(t.running for t in chosen)
    # An array that is cancelled whole is one request; single tasks of it are named only when others stay.
    whole = {t.job for t in chosen} - {t.job for t in tasks if t not in chosen}
    ids: list[int | str] = [*sorted(whole), *(t.id for t in chosen if t.job not in whole)]
    slurm.cancel(ids)
    yield f"cancelled {counted(len(chosen), 'task')}: {running} running, {len(chosen) - running} waiting"
    if running:
        yield "what they were answered is kept; waiting for them to leave their nodes ..."
        left = wait_until_gone({t.id for t in chosen})
        if left:
            yield f"{left} still on their nodes after {WAIT_S:g} s: gra status {word(run.path)} before you resume"
            return
    yield f"next: gra {'status' if workers else 'resume'} {word(run.path)}"


def last_workers(found: Sequence[tuple[Job, slurm.Task]], chosen: Sequence[slurm.Task]) -> list[slurm.Task]:
    """The workers among some tasks, of the round that the run is at: the first to go first."""
    mine = [(job.round, task) for job, task in found if job.kind == "workers" and task in chosen]
    now = min((round_ for round_, _ in mine), default=0)
    return sorted((t for round_, t in mine if round_ == now), key=lambda t: (t.running, -t.job, -(t.index or 0)))


def wait_until_gone(ids: set[str]) -> int:
    """Wait until cancelled tasks are gone: a resume before that would take them for alive. How many are left."""
    deadline = time.monotonic() + WAIT_S
    while True:
        left = sum(t.active and t.id in ids for t in slurm.queue())
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(1.0)
