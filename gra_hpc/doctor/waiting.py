"""A job that a person waits for at the login node: watched in the queue, cancelled when it is in vain."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path

from gra_hpc.doctor.finding import Finding, failure
from gra_hpc.launch import slurm
from gra_hpc.views.last_words import last_words

POLL_S = 2.0


def await_job(
    job: str, log: Path, done: Callable[[], bool], wait_s: float, say: Callable[[str], None]
) -> Finding | None:
    """Wait until a job has left what it was asked for.

    Args:
        log: its log.
        done: whether that is there; looked at every two seconds.
        wait_s: longest time until it runs; then it is cancelled. Its time limit bounds the rest.
        say: told when its state changes.

    Returns:
        Why it is not there; none: it is.
    """
    state, begin, said = "", time.monotonic(), ""
    try:
        while not done():
            time.sleep(POLL_S)
            tasks = slurm.queue([job])
            if not tasks:
                time.sleep(POLL_S)  # a shared file system may show the report a moment later
                return None if done() else died(log)
            state = f"{tasks[0].state.lower()}{f' ({tasks[0].reason})' if tasks[0].reason else ''}"
            if state != said:
                say(f"job {job}: {state}")
                said = state
            if tasks[0].hopeless or (not tasks[0].running and time.monotonic() - begin > wait_s):
                slurm.cancel([job])
                return failure(
                    f"job {job} did not run within {time.monotonic() - begin:.0f} s: {state}",
                    "another partition or QOS, a shorter site.time_minutes, or --wait SECONDS",
                )
    except BaseException:
        slurm.cancel([job])
        raise
    return None


def died(log: Path) -> Finding:
    """Why a job ended without a report."""
    if not log.exists():
        return failure(
            f"the job ended without a log: {log.parent.parent} is not visible on the compute node, or not writable",
            "use a directory on the shared file system",
        )
    if "Exec format error" in (last_words(log) or ""):
        return failure(
            f"the job's Python is not for the node's processor (this one is {platform.machine()})",
            "make the environment on a node of that kind (aarch64 for Grace), and name it: site.python",
        )
    return failure(
        f"the job died: {last_words(log) or 'no reason in its log'} (log: {log})",
        "site.python, site.modules and site.setup must give the job a Python with gra-hpc",
    )
