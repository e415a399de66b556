"""A submitter that dies half-way: what it left in the queue is known, and `gra resume` makes it whole."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import MiniSlurm
from slurm_runs import SHARDS

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

MakeRun = Callable[..., Any]
MOMENTS: dict[str, Callable[[Any], bool]] = {
    "before the first sbatch": lambda run: any(run.run.submissions.glob("*.json")),
    "when Slurm has the first array": lambda run: bool(names(run)),
    "when all but the merge are there": lambda run: len([j for j in run.jobs() if j.id]) >= 2,
}


def names(run: Any) -> list[str]:
    """Tasks in Slurm that carry this run's name, whatever the submissions say."""
    lines = run.cluster.run("squeue", "-h", "-r", "-o", "%i %j").splitlines()
    return [line.split()[0] for line in lines if line.split()[1].startswith(f"gra-{run.run.name}")]


def wait_for(what: Callable[[], Any]) -> None:
    """Until it holds, looked at often: the moment is short. Only the test's own limit ends the wait."""
    while not what():
        time.sleep(0.005)


@pytest.mark.parametrize("moment", list(MOMENTS))
def test_resume_after_a_killed_submitter(moment: str, cluster: MiniSlurm, slurm_run: MakeRun) -> None:
    run = slurm_run(cluster, "site.max_array_size=2", "engine.simulated_latency_s=1", "launch.window=2")
    submitter = run.start_gra("submit", run.run.path)
    wait_for(lambda: MOMENTS[moment](run) or submitter.poll() is not None)
    time.sleep(random.Random(moment).random() * 0.1)
    submitter.send_signal(signal.SIGKILL)
    submitter.communicate()
    known = {t.id for _, t in run.queue()}
    assert set(names(run)) <= known | {t.id for _, t in run.queue()}, "a job that no submission knows"
    said = run.gra("submit", run.run.path, code=1)
    assert f"was started before -> gra resume {run.run.path}" in said
    run.quick()
    run.resume()
    assert sum(job.kind == "workers" for job, _ in run.queue()) <= SHARDS, "more workers than shards"
    assert {t.id for _, t in run.queue()} >= set(names(run))
    run.wait_release()
    run.check()


def test_two_submitters_at_once(cluster: MiniSlurm, slurm_run: MakeRun) -> None:
    """The second is told of the first, instead of submitting what the first is about to submit."""
    run = slurm_run(cluster, "site.max_array_size=2")
    first = run.start_gra("submit", run.run.path)
    wait_for(lambda: any(run.run.submissions.glob("*.json")))
    first.send_signal(signal.SIGSTOP)
    said = run.gra("resume", run.run.path, code=1)
    assert f"is being submitted by process {first.pid} on " in said
    first.send_signal(signal.SIGCONT)
    out, _ = first.communicate(timeout=120)
    assert first.returncode == 0, out
    assert len(run.jobs()) == 3
    run.wait_release()
    run.check()
