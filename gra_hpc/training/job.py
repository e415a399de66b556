"""Fine-tuning as a job: submitted, run on each node, stopped ahead of its limit, requeued, resumed."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from gra_hpc.config import output_settings
from gra_hpc.config.site import Executor
from gra_hpc.errors import GraError, LaunchError
from gra_hpc.launch import submissions
from gra_hpc.launch.arrays import Demand, executor_for, refuse_refused, script_of, submit_one
from gra_hpc.launch.submissions import Job, Submission
from gra_hpc.launch.tasks import Restartable, await_kill, requeue, start_job
from gra_hpc.log_tail import OURS, last_words
from gra_hpc.models.trained import refuse_own, trained_model
from gra_hpc.signals import Signals
from gra_hpc.terminal import shown, word
from gra_hpc.training import config as configs
from gra_hpc.training.config import FinetuneConfig
from gra_hpc.training.directory import FinetuneDir, attempts, newest, next_number
from gra_hpc.training.ranks import Rendezvous, place, rendezvous, run_ranks

log = logging.getLogger(__name__)

LEAD_S = 300
"""Time to save a checkpoint of a model of several billion parameters, in seconds."""


class End(Enum):
    """How an attempt ended without an error."""

    done = "the model is in its place"
    already = "done already"
    stopped = "stopped; its state is saved for the next attempt"


def refuse_absent_data(out: Path, config: FinetuneConfig) -> None:
    """Refuse to begin a job, or to freeze its settings, whose data are not there; what is prepared needs them no more.

    Raises:
        GraError: they are not, with what to type.
    """
    from gra_hpc.training.examples import refuse_absent

    made = FinetuneDir(out.absolute())
    if not made.tokens.is_dir() and not made.done.is_file():
        refuse_absent(config.data.path, config.site.scratch)


def refuse_absent_model(out: Path, config: FinetuneConfig) -> None:
    """Refuse to begin a job whose model is not there. What was submitted waits for it, or has had it.

    Raises:
        GraError: it is not, with what to type.
    """
    made = FinetuneDir(out.absolute())
    if not made.done.is_file() and not made.submissions.is_dir():
        trained_model(config.model.path, config.model.revision, config.site.scratch, config.model.trust_remote_code)


def submit_finetune(
    out: Path, config: FinetuneConfig, after: Sequence[str] = (), say: Callable[[str], object] = lambda _: None
) -> str | None:
    """Submit a fine-tuning job, or run it here; whatever was begun is resumed, what is done stays.

    Args:
        out: its directory; made if it is not there.
        config: its settings; those that the model depends on must be the ones it was begun with.
        after: Slurm ids of jobs that must succeed first (what they make need not be there yet).
        say: told how the last job ended, if there was one.

    Returns:
        Slurm's id of the job to depend on; empty when it is done already; none when it ran here.

    Raises:
        GraError: other settings, Slurm refused, or (here) the training failed.
    """
    made = FinetuneDir(output_settings.freeze(out, config))
    if config.site.executor is Executor.local:
        end = finetune(made)
        if end is End.stopped:
            raise LaunchError(f"{out}: {end.value}", f"gra finetune {word(out)}")
        return None
    if made.done.is_file():
        return ""
    waiting = submissions.in_queue(made, "finetune")
    if waiting:
        return waiting
    for line in last_end(made):
        say(line)
    refuse_refused(executor_for(made, config.site, demand(config), "gra:"))
    submission = Submission.new(made, [Job("finetune", 0)])
    submissions.record(made, submission)
    executor = executor_for(
        made, config.site, demand(config), submission.comment(made, 0), submissions.dependency("afterok", after)
    )
    submission.jobs[0].id = submit_one(executor, FinetuneTask(str(made.path)))
    submissions.record(made, submission, done=True)
    return submission.jobs[0].id


def last_end(made: FinetuneDir) -> Iterator[str]:
    """How the last job ended, which waits and runs no more: one line; none where nothing was submitted."""
    ids = [job.id for s in submissions.load_all(made).values() for job in s.jobs if job.kind == "finetune" and job.id]
    if ids:
        log_file = made.logs / ids[-1] / f"{ids[-1]}_0_log.out"
        why = last_words(log_file, OURS, r"^[\w.]*(?:Error|Exception|Exit|Interrupt)\b.*")
        yield f"job {ids[-1]} ended: {why[:300] or 'without a word'} (log: {shown(log_file)})"


def explain(out: Path, config: FinetuneConfig, plan: bool) -> Iterator[str]:
    """What a job will do, for people; with `plan`, its sbatch text too. Freezes its settings."""
    o = config.optimizer
    refuse_own(config.model.path, out)
    made = FinetuneDir(output_settings.freeze(out, config))
    yield f"model {config.model.path}, data {config.data.path}"
    yield (
        f"{config.world} rank{'s' * (config.world > 1)} on {config.launch.nodes} node{'s' * (config.launch.nodes > 1)}:"
        f" {o.micro_batch} rows x {config.accumulation} accumulation x {config.world} = {o.global_batch} rows a step,"
        f" ZeRO-{config.deepspeed.zero}, {config.model.dtype.value}"
    )
    last = newest(made)
    if last and not made.done.is_file():
        yield f"resumes after step {last.step}"
    if plan and config.site.executor is Executor.slurm:
        executor = executor_for(made, config.site, demand(config), "gra:RUN:SUBMISSION:0")
        yield script_of(executor)


def demand(config: FinetuneConfig) -> Demand:
    """What the job asks of Slurm: nodes as those of shards, unless its settings say otherwise."""
    n, usual = config.launch, Demand.of_shards(config.site)
    return replace(
        usual,
        name="finetune",
        nodes=n.nodes,
        cpus=n.cpus or usual.cpus,
        memory_gb=n.memory_gb or usual.memory_gb,
        minutes=n.time_minutes or usual.minutes,
        lead_s=n.lead_s or max(LEAD_S, usual.lead_s),
        partition=n.partition or usual.partition,
        parallel=0,
    )


@dataclass(frozen=True)
class FinetuneTask(Restartable):
    """What runs on each node of the job."""

    out: str

    def __call__(self) -> str:
        """One attempt; returns one sentence. Requeues itself when it had to stop."""
        start_job()
        made = FinetuneDir.existing(self.out)
        with Signals().caught() as signals:
            end = finetune(made, signals)
        sentence = f"finetune: {end.value}"
        log.info("%s", sentence)
        if end is End.stopped and signals.first == signal.SIGTERM:
            await_kill()
        if end is End.stopped and int(os.environ.get("SLURM_NODEID", 0)) == 0:
            requeue()
        return sentence


def finetune(out: FinetuneDir, signals: Signals | None = None) -> End:
    """One attempt on this node: start its ranks and wait for them.

    Raises:
        GraError: a rank failed; the checkpoints stay.
    """
    if out.done.is_file():
        return End.already
    if signals is None:
        return _here(out)
    config = configs.load(out.config)
    where = rendezvous(config.launch.nodes, next_number(out), config.launch.meeting)
    before = newest(out)
    command = [sys.executable, "-P", "-m", "gra_hpc.training.rank.worker", str(out.path)]
    logs = out.path / "logs" / where.attempt
    try:
        with place(where, out.meetings) as meet_in:
            codes = run_ranks(command, config.ranks_per_node, where, logs, signals, config.launch.interface, meet_in)
    except GraError as e:
        if out.done.is_file():  # another copy of this job was faster, and has removed what this one was writing
            return End.already
        raise LaunchError(e.what, f"mend it, then gra finetune {word(out.path)}") from None
    if all(code == 0 for code in codes):
        if where.node == 0:
            shutil.rmtree(out.meetings, ignore_errors=True)
        return End.done
    _refuse_standstill(out, where, before.step if before else 0)
    return End.stopped


def _here(out: FinetuneDir) -> End:
    """The same for a person at a terminal: Ctrl-C saves and stops."""
    with Signals().caught() as signals:

        def interrupted(*_: object) -> None:
            signals.first = signals.first or signal.SIGTERM

        before = signal.signal(signal.SIGINT, interrupted)
        try:
            return finetune(out, signals)
        finally:
            signal.signal(signal.SIGINT, before)


def _refuse_standstill(out: FinetuneDir, where: Rendezvous, before: int) -> None:
    """A job that is stopped twice before it has made a step would be requeued for ever.

    Raises:
        LaunchError: this attempt and the one before have made no step.
    """
    kind = where.attempt.partition("-")[0]
    before_it = [p for p in attempts(out) if p.name != where.attempt and p.name.partition("-")[0] == kind]
    last = [*before_it[-1:], out.checkpoints / where.attempt]
    if len(last) == 2 and not any((p / "loss.jsonl").is_file() for p in last):
        raise LaunchError(
            f"{out.path}: stopped twice at step {before} before a step was made: the job is signalled too early, or"
            " its time limit is too short",
            f"gra finetune {word(out.path)} launch.time_minutes=MORE launch.lead_s=LESS",
        )
