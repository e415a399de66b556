"""What a job runs: a worker, one shard, or one merge. Called by submitit, by `jobs/*.py`, and so by plain sbatch."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from gra_hpc.errors import IncompleteError
from gra_hpc.log_lines import Formatter
from gra_hpc.models import hub
from gra_hpc.run.attempts import job_id
from gra_hpc.run.directory import round_name
from gra_hpc.run.run import Run
from gra_hpc.terminal import word

if TYPE_CHECKING:
    from gra_hpc.run.shard import End

log = logging.getLogger(__name__)

KILL_WAIT_S = 600.0
"""Longest time between Slurm's SIGTERM and its SIGKILL (GraceTime, KillWait) on any site we know."""
CONTROLLER_WAIT_S = 600.0
"""How long a drained job asks for its requeue while Slurm's controller is down: as long, no time limit is enforced."""
RETRY_S = 10.0


class Restartable:
    """What a job runs: called once an attempt, and again as it is after each; what lies on disk knows the rest."""

    def checkpoint(self, *_: Any, **__: Any) -> Any:
        """For submitit, when it puts the job back in the queue."""
        from gra_hpc.launch.task_file import Submitted

        return Submitted(self)


@dataclass(frozen=True)
class WorkerTask(Restartable):
    """Shards of a round, and of those behind it, until none is left that nobody is at."""

    run: str
    round: int
    place: int = 0
    """The shard to begin at. An argument, never the array index: an array may be one of several."""
    lead_s: int = 0
    """Seconds between Slurm's signal and the end, as submitted: a later change of the setting changes nothing here."""
    last: int = 0
    """The round that it ends with; those before it are merged on the way (`legs.Leg`). 0: its first."""

    def __call__(self) -> str:
        """One worker; returns one sentence. Requeues itself when it had to drain."""
        from gra_hpc.launch import round_end
        from gra_hpc.run.worker import work

        start_job()
        outcome = work(Run.open(self.run), self.round, self.place, self.lead_s, self.last, round_end.merge_beside)
        sentence = f"{outcome.rounds}: {outcome}"
        log.info("%s", sentence)
        leave_unless_published(outcome.end)
        return sentence


@dataclass(frozen=True)
class ShardTask(Restartable):
    """One shard of one round, whoever else is at it."""

    run: str
    round: int
    shard: int
    lead_s: int = 0
    """Seconds between Slurm's signal and the end, as submitted: a later change of the setting changes nothing here."""

    def __call__(self) -> str:
        """One attempt; returns one sentence. Requeues itself when it had to drain."""
        from gra_hpc.run.worker import run_shard

        start_job()
        end = run_shard(Run.open(self.run), self.round, self.shard, self.lead_s)
        leave_unless_published(end)
        return f"{round_name(self.round)} shard {self.shard}: {end.value}"


@dataclass(frozen=True)
class MergeTask(Restartable):
    """The merge of a round, and of those before it that no worker has merged; after the last, the release.

    Where one takes back that some shards are not needed, it fails, so that no job begins which waits for it.
    """

    run: str
    round: int

    def __call__(self) -> str:
        start_job()
        run = Run.open(self.run)
        for number in run.rounds:
            if number < self.round and not run.round(number).manifest.is_file():
                self._finish(run, number)
        return self._finish(run, self.round)

    def _finish(self, run: Run, number: int) -> str:
        from gra_hpc.launch.round_end import finish_round
        from gra_hpc.run.rounds import is_taken_back

        sentence = finish_round(run, number)
        log.info("%s", sentence)
        if is_taken_back(run, number):
            raise IncompleteError(sentence, f"gra resume {word(run.path)}")
        return sentence


def leave_unless_published(end: End) -> None:
    """End this job as its worker, or its shard, has ended: put back in the queue where it drained, or has to draw anew;
    where it was told to stop, wait for the kill."""
    from gra_hpc.run.shard import End

    if end in (End.drained, End.overtaken):
        requeue()
    if end is End.stopped:
        await_kill()


def requeue() -> NoReturn:
    """Put this job back in the queue and exit.

    Under Slurm by scontrol, also where submitit started us: its own handler would rewrite the job's pickle, and a kill
    in between would leave none. Its local executor starts a task again that exits with its own code. By hand there is
    no queue: the exit code is that of a temporary failure (75).
    """
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if job_id():
        _requeue_by_slurm()
        sys.exit(0)
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

        sys.exit(LOCAL_REQUEUE_RETURN_CODE)
    sys.exit(os.EX_TEMPFAIL)


def _requeue_by_slurm() -> None:
    from gra_hpc.errors import SlurmDownError
    from gra_hpc.launch import slurm

    deadline = time.monotonic() + CONTROLLER_WAIT_S
    while True:
        try:
            return slurm.requeue([job_id()])
        except SlurmDownError as e:
            if time.monotonic() > deadline:
                raise
            log.warning("not requeued yet: %s", e.what)
        time.sleep(RETRY_S)


def await_kill() -> NoReturn:
    """After SIGTERM: under Slurm a preempted job that exits by itself is not requeued, so wait for SIGKILL."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    deadline = time.monotonic() + (KILL_WAIT_S if job_id() else 0.0)
    while time.monotonic() < deadline:
        time.sleep(1)
    sys.exit(128 + signal.SIGTERM)


def start_job() -> None:
    """What every job does first: plain log lines, and no look at the Hub from a compute node."""
    start_logging()
    hub.offline()


def start_logging() -> None:
    """Plain log lines on stderr, for our namespace only."""
    logger = logging.getLogger("gra_hpc")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
