"""What Slurm does to a run: cancelled tasks, preemption, time limits, dead nodes and daemons, two copies of a task.

Each test ends with a release equal to that of a run without a fault.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import NODES, MiniSlurm, mini_slurm
from slurm_runs import SEEDS, SHARDS, release_of

from gra_hpc.launch.round_end import PROCESS
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json
from tools.faults.faults import make_run, undisturbed

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

MakeRun = Callable[..., Any]
SLOW = ("engine.simulated_latency_s=2", "launch.window=1")
"""A shard takes about half a minute, unless `quick` is called before it starts again."""


def running(run: Any) -> dict[int, Any]:
    """Workers that run, by the shard that each was to begin at."""
    return {job.shards[t.index or 0]: t for job, t in run.queue() if job.kind == "workers" and t.running}


def at_work(run: Any, answers: int = 2) -> None:
    """Until all shards run and have been answered something."""
    run.wait(lambda: len(running(run)) == SHARDS)
    run.wait(lambda: all(run.answers(n) >= answers for n in range(SHARDS)))


def test_resume_while_it_runs_and_after_a_cancelled_task(cluster: MiniSlurm, slurm_run: MakeRun) -> None:
    run = slurm_run(cluster, "engine.simulated_latency_s=6", "launch.window=1")  # nobody is done before it is typed
    run.submit()
    at_work(run)
    before = {t.id for _, t in run.queue()}
    for _ in range(2):  # typed while tasks run, and twice
        assert "5 tasks wait or run already\nnothing to submit: all that is left is in the queue" in run.resume()
    assert {t.id for _, t in run.queue()} == before
    assert len(run.jobs()) == 2
    cluster.run("scancel", running(run)[2].id)
    run.wait(lambda: 2 not in running(run))
    said = run.resume()
    array, merge = run.jobs()[-2:]
    assert f"round 1: array {array.id} of 1 worker for " in said
    assert f"merge {merge.id} after afterany:{array.id}:{run.jobs()[0].id}" in said
    run.resume()
    assert len(run.jobs()) == 4
    run.wait_release()
    assert run.attempts(2)[-1]["replayed"] >= 2
    run.check()


def test_the_others_take_over_and_a_round_without_workers_is_told(cluster: MiniSlurm, slurm_run: MakeRun) -> None:
    run = slurm_run(cluster, *SLOW)
    run.submit()
    at_work(run)
    assert "cancelled 3 tasks: 3 running" in run.gra("cancel", run.run.path, "--workers", 3)
    run.wait(lambda: len(running(run)) == 1)
    cluster.run("scancel", *(t.id for t in running(run).values()))
    run.wait(lambda: not run.queue())
    # the merge did not wait for ever; it says what is missing and what to type
    assert not run.run.release.exists()
    assert "round 1: 4 of 4 shards are not published: 0-3 -> gra resume" in run.logs()
    answered = sum(run.answers(n) for n in range(SHARDS))
    run.quick()
    assert "of 1 worker for 4 shards" in run.resume("launch.workers=1")
    run.wait_release()
    assert len({run.attempts(n)[-1]["worker"] for n in range(SHARDS)}) == 1
    assert sum(run.attempts(n)[-1]["replayed"] for n in range(SHARDS)) == answered
    run.check()


def test_workers_are_added_while_it_runs(cluster: MiniSlurm, slurm_run: MakeRun) -> None:
    run = slurm_run(cluster, *SLOW, "launch.workers=1")
    assert "of 1 worker for 4 shards" in run.submit()
    run.wait(lambda: running(run) and run.answers(0) >= 1)
    said = run.gra("submit", run.run.path, "--add", 2, "site.partition=high")
    added, merge = run.jobs()[-2:]
    assert f"round 1: array {added.id} of 2 workers for 4 shards" in said
    assert f"merge {merge.id} after afterany:{added.id}:{run.jobs()[0].id}" in said
    run.wait(lambda: sum(run.answers(n) > 0 for n in range(SHARDS)) >= 3)
    partitions = cluster.run("squeue", "-h", "-o", "%P", "-j", added.id).split()
    assert set(partitions) == {"high"}
    assert "nothing to submit" in run.resume()
    run.wait_release()
    run.check()


@pytest.fixture(scope="session")
def two_rounds(runs_dir: Path, reference: Run) -> Run:
    """A run of two rounds, made in this process without a fault."""
    assert reference.plan_file.is_file(), "its seeds are there"
    return undisturbed(make_run(runs_dir / "two-rounds", SEEDS, [f"launch.shards={SHARDS}", "method.rounds=2"]))


def test_the_worker_that_merges_is_killed_and_another_one_goes_on(
    cluster: MiniSlurm, slurm_run: MakeRun, two_rounds: Run
) -> None:
    run = slurm_run(cluster, "method.rounds=2", "launch.linger_s=600")
    run.submit()
    found: list[psutil.Process] = []

    def merges() -> bool:
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if PROCESS in words and str(run.run.path) in words:
                process.suspend()
                found.append(process)
        return bool(found)

    run.wait(merges)
    (merge,) = found
    worker = merge.parent()
    assert worker is not None
    assert "merging" in run.gra("status", run.run.path)
    worker.kill()
    run.wait_release()
    assert len(run.jobs()) == 2, "nobody had to type anything"
    assert release_of(run.run) == release_of(two_rounds)
    assert not merge.is_running()


def test_workers_come_and_go_while_rounds_follow_each_other(
    cluster: MiniSlurm, slurm_run: MakeRun, two_rounds: Run
) -> None:
    run = slurm_run(cluster, *SLOW, "engine.simulated_latency_s=0.5", "method.rounds=2", "launch.workers=2")
    run.submit()
    run.wait(lambda: sum(run.answers(n) > 0 for n in range(SHARDS)) >= 2)
    said = run.gra("submit", run.run.path, "--add", 2, "site.partition=high")
    assert "rounds 1 to 2: array" in said and "of 2 workers for " in said
    run.wait(lambda: sum(t.running for job, t in run.queue() if job.kind == "workers") == 4)
    assert "cancelled 3 tasks: 3 running" in run.gra("cancel", run.run.path, "--workers", 3)
    run.wait(lambda: run.run.round(1).manifest.is_file())
    assert "of 1 worker for " in run.gra("submit", run.run.path, "--add", 1)
    run.wait_release()
    assert release_of(run.run) == release_of(two_rounds)


def preempt(cluster: MiniSlurm) -> int:
    """A job of higher priority that takes every node, whole."""
    return cluster.sbatch("--partition=high", f"--nodes={NODES}", "--exclusive", "--wrap=srun sleep 300")


def test_preemption_with_the_jobs_own_signal(cluster: MiniSlurm, slurm_run: MakeRun) -> None:
    run = slurm_run(cluster, *SLOW)
    run.submit()
    at_work(run)
    other = preempt(cluster)
    run.wait(lambda: not running(run) and len(run.queue()) == SHARDS + 1)
    answered = [run.answers(n) for n in range(SHARDS)]
    assert {run.beats(n)[-1].phase for n in range(SHARDS)} <= {"drained", "published"}
    run.quick()
    cluster.run("scancel", other)
    run.wait_release()
    for n in range(SHARDS):
        first, *_, last = run.attempts(n)
        assert (first["restart"], last["restart"]) == (0, 1)
        assert last["replayed"] == answered[n], "an answered call was asked again, or lost"
    assert len(run.jobs()) == 2, "Slurm's own requeue was enough"
    run.check()


def test_preemption_without_it(cluster_term: MiniSlurm, slurm_run: MakeRun) -> None:
    """SIGTERM, then SIGKILL: such a task must not exit by itself, or Slurm would not run it again."""
    run = slurm_run(cluster_term, *SLOW)
    run.submit()
    at_work(run)
    other = preempt(cluster_term)
    run.wait(lambda: not running(run) and len(run.queue()) == SHARDS + 1)
    answered = [run.answers(n) for n in range(SHARDS)]
    assert {run.beats(n)[-1].phase for n in range(SHARDS)} <= {"stopped", "running", "draining"}
    run.quick()
    cluster_term.run("scancel", other)
    run.wait_release()
    assert [run.attempts(n)[-1]["replayed"] for n in range(SHARDS)] == answered
    assert len(run.jobs()) == 2
    run.check()


@pytest.mark.slow  # Slurm itself takes two minutes over it
def test_a_time_limit_drains_and_requeues(cluster: MiniSlurm, slurm_run: MakeRun) -> None:
    """A limit of one minute, the shortest that Slurm knows; a shard needs longer."""
    run = slurm_run(
        cluster, "engine.simulated_latency_s=4", "launch.window=1", "site.time_minutes=1", "site.signal_lead_s=12",
        "launch.shards=1", "seeds.limit=3",
    )  # fmt: skip
    run.submit()
    run.wait(lambda: any(b.phase == "drained" for b in run.beats(0)), 120)
    drained = run.beats(0)[0]
    assert drained.calls == run.answers(0) > 0
    run.wait_release(300)
    first, second, *_ = run.attempts(0)
    assert (first["phase"], first["restart"], second["restart"]) == ("drained", 0, 1)
    assert len(run.jobs()) == 2
    assert sum(a["calls"] for a in run.attempts(0)) == run.attempts(0)[-1]["calls"] + run.attempts(0)[-1]["replayed"]


def test_a_node_loses_power(cluster: MiniSlurm, slurm_run: MakeRun) -> None:
    run = slurm_run(cluster, *SLOW, "site.cpus_per_task=16")  # two to a node
    run.submit()
    at_work(run)
    lost = [n for n, t in running(run).items() if t.node == "node2"]
    assert lost
    cluster.kill_node(2)
    began = time.monotonic()
    run.quick()
    answered = {n: run.answers(n) for n in lost}
    run.wait(lambda: all(len(run.beats(n)) > 1 or n in run.published() for n in lost), 120)
    print(f"running elsewhere after {time.monotonic() - began:.0f} s")
    run.wait_release()
    for n in lost:  # by whom: the same workers elsewhere, or others
        assert run.attempts(n)[-1]["replayed"] >= answered[n]
    assert len(run.jobs()) == 2
    run.check()


@pytest.mark.slow  # Slurm itself takes two minutes over it
def test_the_controller_dies(cluster: MiniSlurm, slurm_run: MakeRun) -> None:
    """What runs goes on; a task that must requeue meanwhile waits for the controller."""
    run = slurm_run(cluster, *SLOW)
    run.submit()
    at_work(run)
    cluster.kill_ctld()
    os.kill(run.beats(3)[-1].pid, signal.SIGUSR2)
    run.wait(lambda: run.beats(3)[-1].phase == "drained")
    answered = run.answers(3)
    run.quick()
    run.wait(lambda: "not requeued yet" in run.logs(), 120)
    said = run.gra("status", run.run.path)
    assert "Slurm could not be asked" in said
    run.wait(lambda: len(run.published()) >= SHARDS - 1)
    cluster.start_ctld()
    run.wait_release()
    assert run.attempts(3)[-1]["replayed"] == answered
    assert len(run.jobs()) == 2
    run.check()


def test_a_merge_that_fails_stops_the_next_round(cluster: MiniSlurm, slurm_run: MakeRun) -> None:
    """afterok on a failed merge: the next round is cancelled, and does not wait for ever; resume submits both."""
    run = slurm_run(cluster, *SLOW, "method.rounds=2", "launch.inline_merge_rows=0")
    run.submit()
    at_work(run)
    assert {job.round for job, _ in run.queue()} == {1, 2}
    cluster.run("scancel", *(t.id for t in running(run).values()))
    run.wait(lambda: not run.queue())
    assert "round 1: 4 of 4 shards are not published: 0-3 -> gra resume" in run.logs()
    assert not run.run.round(2).shards.exists()
    run.quick()
    said = run.resume()
    assert "round 1: array" in said and "round 2: array" in said
    run.wait_release()
    assert len(read_json(run.run.release / "manifest.json")["rounds"]) == 2


def test_a_controller_that_forgets(slurm_run: MakeRun) -> None:
    """A slurmctld killed right after it took a job may not know of it later: resume submits what is not there.

    Or it knows of the job, but not that it runs: it starts the job again, its node refuses, and Slurm holds the job.
    On a cluster of its own: ids that the controller has forgotten are given again, and nodes refuse those.
    """
    with mini_slurm() as small:
        run = slurm_run(small)
        run.submit()
        small.kill_ctld(saved=False)
        small.start_ctld()
        run.resume()
        run.wait(lambda: not any(job.kind == "workers" and not task.hopeless for job, task in run.queue()))
        run.resume()
        run.wait_release()
        run.check()


def test_a_batch_step_dies(cluster: MiniSlurm, slurm_run: MakeRun) -> None:
    """Slurm gives the task up and may start it again while its step lives on: one result, whoever is first."""
    run = slurm_run(cluster, "engine.simulated_latency_s=4", "launch.window=1")
    run.submit()
    at_work(run)
    shown = cluster.run("scontrol", "show", "job", running(run)[1].id)
    number = re.search(r"JobId=(\d+)", shown)[1]  # type: ignore[index]
    (batch,) = [
        p.pid
        for p in psutil.process_iter(["name", "cmdline"])
        if f"[{number}.batch]" in " ".join(p.info["cmdline"] or [])
    ]
    run.quick()
    os.kill(batch, signal.SIGKILL)
    run.wait(lambda: not run.queue(), 300)
    if 1 not in run.published():
        run.resume()
        run.wait_release()
    assert release_of(run.run) == release_of(run.reference)


def test_two_copies_of_a_task(cluster: MiniSlurm, slurm_run: MakeRun) -> None:
    """The daemon of a node dies and its tasks live on: Slurm starts them elsewhere too."""
    run = slurm_run(cluster, "engine.simulated_latency_s=8", "launch.window=1", "site.cpus_per_task=16")
    run.submit()
    at_work(run)
    shard = next(n for n, t in running(run).items() if t.node == "node2")  # two to a node: others are free
    first = run.beats(shard)[0]
    run.quick()
    cluster.kill_slurmd(2)
    run.wait(lambda: len(run.beats(shard)) == 2 or shard in run.published(), 120)
    assert shard in run.published() or Path(f"/proc/{first.pid}").exists(), "the first copy was not alive"
    run.wait(lambda: shard in run.published())
    said = "published already, by another attempt"
    run.wait(lambda: said in run.logs() and not Path(f"/proc/{first.pid}").exists(), 60)
    cluster.start_node(2)
    run.wait_release(300)
    assert len(run.attempts(shard)) == 2
    assert {a["restart"] for a in run.attempts(shard)} == {0, 1}
    assert release_of(run.run) == release_of(run.reference)


def test_a_killed_task_and_a_requeue_by_hand(cluster: MiniSlurm, slurm_run: MakeRun) -> None:
    """kill -9 of a worker ends it alone, and others take its shard; `scontrol requeue` gives no warning. Nothing
    is asked again."""
    run = slurm_run(cluster, *SLOW)
    run.submit()
    at_work(run)
    answered = run.answers(2)
    os.kill(run.beats(1)[0].pid, signal.SIGKILL)
    cluster.run("scontrol", "requeue", running(run)[2].id)
    run.quick()
    run.wait_release()
    assert run.attempts(2)[-1]["replayed"] >= answered
    assert run.attempts(1)[-1]["replayed"] >= 2
    run.check()


@pytest.mark.skipif(not Path("/sys/fs/cgroup/freezer").is_dir(), reason="the test cluster needs cgroup v1 for it")
def test_out_of_memory(slurm_run: MakeRun) -> None:
    """Tasks that outgrow their memory are killed; the status says what to raise, and `gra resume` may raise it."""
    with mini_slurm(cgroup=1) as small:
        run = slurm_run(small, "site.memory_gb=0.06", "site.merge_memory_gb=4")
        run.submit()
        run.wait(lambda: not run.queue())
        assert run.published() == []
        assert "out of memory: raise site.memory_gb" in run.gra("status", run.run.path)
        run.resume("site.memory_gb=4")
        run.wait_release()
        run.check()
