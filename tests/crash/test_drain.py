"""Signals ahead of a time limit, a preemption or a cancellation: what is in flight is waited for, and kept."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gra_hpc.flows.ask import Unanswered, together
from gra_hpc.flows.calls import Draining
from gra_hpc.run.attempts import Heartbeat
from gra_hpc.run.directory import ShardDir
from gra_hpc.run.run import Run
from tools.faults.faults import SYNTHESIZE, Audit, Started, check_shard, journals, start, wait_for

MakeRun = Callable[..., Run]
SLOW = ("engine.simulated_latency_s=0.4", "launch.window=4")


def at_work(run: Run, log: Path, answers: int, **env: str) -> Started:
    """An attempt that has answered some calls and has some in flight."""
    shard = run.round(1).shard(0)
    before = set(journals(shard))
    process = start(SYNTHESIZE, run.path, 0, "--round", 1, log=log, **env)
    wait_for(lambda: any(len(n) >= answers for a, n in journals(shard).items() if a not in before))
    return process


def last_beat(shard: ShardDir) -> Heartbeat:
    beat = Heartbeat.read(shard.attempt(max(journals(shard))))
    assert beat is not None
    return beat


@pytest.mark.parametrize(
    ("number", "code", "phase"),
    [(signal.SIGUSR2, os.EX_TEMPFAIL, "drained"), (signal.SIGTERM, 128 + signal.SIGTERM, "stopped")],
)
def test_a_signal_by_hand(
    number: int, code: int, phase: str, new_run: MakeRun, reference: Run, nursery, tmp_path: Path
) -> None:
    """The calls in flight are answered and journalled, no more are asked, and the exit code says how it ended."""
    run = new_run(*SLOW)
    shard = run.round(1).shard(0)
    audit = Audit(shard)
    audit.starting()
    process = at_work(run, tmp_path / "log", 4)
    before = len(journals(shard).popitem()[1])
    process.signal(number)
    assert process.wait() == code, process.tail()
    audit.stopped()
    beat = last_beat(shard)
    assert (beat.phase, beat.calls) == (phase, len(audit.answered))
    assert beat.calls > before, "the calls in flight were not waited for"
    assert "kept for the next attempt" in process.tail()
    quick = new_run()  # the same run, without the latency
    run.config_file.write_bytes(quick.config_file.read_bytes())
    audit.starting()
    again = nursery.start(SYNTHESIZE, run.path, 0, "--round", 1, log=tmp_path / "log")
    assert again.wait() == 0, again.tail()
    assert audit.published()[1] == audit.reasked == 0
    check_shard(shard, reference.round(1).shard(0))


def test_a_signal_before_the_first_call(new_run: MakeRun, tmp_path: Path) -> None:
    """Noted while the journals are still being read: such a job must not die of it, or Slurm would not requeue it."""
    run = new_run(*SLOW)
    shard = run.round(1).shard(0)
    process = start(
        SYNTHESIZE, run.path, 0, "--round", 1, log=tmp_path / "log",
        dying=("--below", run.path, "--only", "mkdir", "--at", 1, "--signal", int(signal.SIGUSR2)),
    )  # fmt: skip
    assert process.wait() == os.EX_TEMPFAIL, process.tail()
    assert [len(n) for n in journals(shard).values()] == [0]
    assert last_beat(shard).phase == "drained"


@pytest.mark.timeout(300)
def test_two_attempts_without_progress_stop_with_the_cause(new_run: MakeRun, tmp_path: Path) -> None:
    """A limit too short for a single call must not requeue for ever."""
    run = new_run("engine.simulated_latency_s=60", "site.signal_lead_s=0")
    shard = run.round(1).shard(0)
    codes = []
    for i in range(2):
        log = tmp_path / f"log{i}"
        process = start(SYNTHESIZE, run.path, 0, "--round", 1, log=log)
        wait_for(lambda: len(journals(shard)) == i + 1 and last_beat(shard).phase == "running")  # noqa: B023
        time.sleep(0.3)
        process.signal(signal.SIGUSR2)
        codes.append(process.wait())
    assert codes == [os.EX_TEMPFAIL, 1]
    last = process.tail().splitlines()[-1]
    assert "two attempts in a row ended without an answered call; not requeued" in last
    assert f"gra resume {run.path}" in last
    assert last_beat(shard).phase == "failed"
    # the same where Slurm requeues, killing without a signal that could be handled
    process = start(SYNTHESIZE, run.path, 0, "--round", 1, log=tmp_path / "log", SLURM_RESTART_COUNT="2")
    assert process.wait() == 1
    assert "two attempts in a row ended without an answered call; not tried again" in process.tail()
    # a person who has raised the limit gets another try
    process = at_work(run, tmp_path / "by-hand", 0)
    process.signal(signal.SIGKILL)
    process.wait()


@pytest.mark.timeout(300)
def test_a_drain_keeps_to_the_lead_of_its_job(new_run: MakeRun, tmp_path: Path) -> None:
    """The setting was raised after the job was submitted: Slurm will not wait any longer for that."""
    run = new_run("engine.simulated_latency_s=86400", "site.signal_lead_s=600")
    log = tmp_path / "log"
    process = start(SYNTHESIZE, run.path, 0, "--round", 1, log=log, GRA_LEAD_S="7")
    wait_for(lambda: len(journals(run.round(1).shard(0))) == 1 and last_beat(run.round(1).shard(0)).phase == "running")
    time.sleep(0.3)
    process.signal(signal.SIGUSR2)
    assert process.wait() == os.EX_TEMPFAIL
    assert "in flight, 5 s for their calls" in process.tail(10_000)


def test_an_interrupted_sample_has_not_failed() -> None:
    """One Reviewer's answer is unusable, the other's was never asked: the sample is the next attempt's."""

    async def unusable() -> None:
        raise Unanswered("response_review", "empty answer", "")

    async def cut_off() -> None:
        raise Draining

    async def both() -> None:
        await together([unusable(), cut_off()])

    with pytest.raises(Draining):
        asyncio.run(both())
