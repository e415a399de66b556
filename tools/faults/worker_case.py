"""Workers that have several shards open, on a copy of one small run, and what is left once that has gone on to its end.

A worker is stopped (SIGSTOP) in the moment of the fault, so that its open shards can be counted: those with an attempt
of its that has answers and has not ended. With fewer than two the fault does not count, and is tried on another copy.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from gra_hpc.run.attempts import Heartbeat, attempt_names
from gra_hpc.run.directory import ShardDir
from gra_hpc.run.publish import is_published
from gra_hpc.run.run import Run
from tools.faults.faults import (
    MERGE,
    SYNTHESIZE,
    Audit,
    Nursery,
    Started,
    check_shard,
    make_run,
    release_of,
    sample_rows,
    undisturbed,
    wait_for,
)
from tools.faults.outcome import Round

SHARDS, SEEDS = 6, 24
LATENCY_S, WINDOW = 0.05, 6
LEAST_OPEN = 2


class Missed(Exception):
    """The fault met a worker with too few shards open, or none at all."""


@dataclass
class Bench:
    """The run that is copied for every fault, its undisturbed twin, and where all of it lies."""

    where: Path
    run: Run
    reference: Run
    problems: list[str] = field(default_factory=list)
    open: Counter[int] = field(default_factory=Counter)
    """How many shards the struck worker had open: in how many rounds."""

    @classmethod
    def make(cls, where: Path) -> Bench:
        """Plan the run, and let its twin run."""
        cut = f"launch.shards={SHARDS}"
        slow = (f"engine.simulated_latency_s={LATENCY_S}", f"launch.window={WINDOW}")
        run = make_run(where / "worker-run", SEEDS, [cut, *slow])
        return cls(where, run, undisturbed(make_run(where / "worker-reference", SEEDS, [cut])))


@dataclass
class Case:
    """One fault on one copy."""

    bench: Bench
    run: Run
    nursery: Nursery
    log: Path
    draw: random.Random
    disk: ExitStack
    problems: list[str] = field(default_factory=list)
    open: int = 0

    def __post_init__(self) -> None:
        self.shards = [self.run.round(1).shard(n) for n in range(SHARDS)]
        self.audits = [Audit(s) for s in self.shards]
        self.running: list[Started] = []

    def start(self, *words: object, **dying: object) -> Started:
        """A worker, or with a number an attempt at that shard."""
        process = self.nursery.start(SYNTHESIZE, self.run.path, *words, "--round", 1, log=self.log, **dying)
        self.running.append(process)
        return process

    def workers(self, **dying: object) -> list[Started]:
        """One worker or two."""
        n = self.draw.randint(1, 2)
        return [self.start("--worker", f"{i}/{n}", **dying) for i in range(n)]

    def opened(self, worker: Started) -> list[ShardDir]:
        """The shards that a worker has open: its attempts there have answers, and have not ended."""
        found = []
        for shard in self.shards:
            if is_published(shard):
                continue
            for attempt in map(shard.attempt, attempt_names(shard)):
                beat = Heartbeat.read(attempt)
                if beat and beat.pid == worker.pid and not beat.ended and size_of(attempt.journal):
                    found.append(shard)
                    break
        return found

    def hold(self, worker: Started) -> list[ShardDir]:
        """Stop a worker that has several shards open; which.

        Raises:
            Missed: it never had in all its time.
            ValueError: it failed before anything struck it.
        """
        published, least = self.draw.randint(0, SHARDS - 4), self.draw.choice((2, 2, 3))
        while True:
            wait_for(
                lambda: (
                    worker.poll() is not None
                    or (len(self.opened(worker)) >= least and sum(map(is_published, self.shards)) >= published)
                )
            )
            time.sleep(self.draw.random() * 3 * LATENCY_S)
            pause(worker)
            if (code := worker.poll()) is not None:
                if code:
                    raise ValueError(f"exit code {code} before anything struck it: {worker.tail(300)}")
                raise Missed("it came to its end first")
            if len(found := self.opened(worker)) >= LEAST_OPEN:
                self.open = len(found)
                return found
            worker.signal(signal.SIGCONT)

    def note(self) -> None:
        """Note every answer on the disk; only while nobody writes there."""
        for audit in self.audits:
            if not is_published(audit.shard):
                audit.stopped()
                audit.starting()

    def end(self, worker: Started, number: int, codes: Sequence[int]) -> None:
        """Send a signal to a worker that is held, and let it end so; others are held meanwhile."""
        others = [w for w in self.running if w is not worker and w.poll() is None]
        for other in others:
            pause(other)
        worker.signal(number)
        worker.signal(signal.SIGCONT)
        if (code := worker.wait()) not in codes:
            self.problems.append(f"exit code {code}: {worker.tail(300)}")
        self.note()
        for other in others:
            other.signal(signal.SIGCONT)

    def finish(self) -> None:
        """Let all that still run come to their ends."""
        for worker in self.running:
            if (code := worker.wait()) not in (0, -signal.SIGKILL, 128 + signal.SIGTERM, os.EX_TEMPFAIL, 1):
                self.problems.append(f"exit code {code}: {worker.tail(300)}")
        self.note()
        self.running.clear()

    def mend(self) -> float:
        """Let one or two undisturbed workers do what is left, and the merge; seconds until all shards are published."""
        began = time.monotonic()
        for worker in self.workers():
            if code := worker.wait():
                self.problems.append(f"mending: exit code {code}: {worker.tail(300)}")
        took = time.monotonic() - began
        if code := self.nursery.start(MERGE, self.run.path, "--round", 1, log=self.log).wait():
            self.problems.append(f"merge: exit code {code}")
        return took

    def compare(self, result: Round) -> None:
        """The books of every shard, and the release, against the undisturbed twin's."""
        twins = self.bench.reference.round(1)
        for shard, audit in zip(self.shards, self.audits, strict=True):
            expected = {r["id"]: r for r in sample_rows(twins.shard(shard.number))}
            result.rows += len(expected)
            if not is_published(shard):
                result.rows_lost, result.lost = result.rows_lost + len(expected), result.lost + len(audit.answered)
                self.problems.append(f"shard {shard.number} is not published")
                continue
            calls, lost = audit.published()
            rows = sample_rows(shard)
            found = {r["id"]: r for r in rows}
            result.calls, result.lost = result.calls + calls, result.lost + lost
            result.reasked, result.destroyed = result.reasked + audit.reasked, result.destroyed + audit.damaged
            result.rows_lost += len(expected.keys() - found.keys())
            result.rows_duplicated += len(rows) - len(found)
            result.rows_changed += sum(found[i] != expected[i] for i in expected.keys() & found.keys())
            check_shard(shard, twins.shard(shard.number))
        if release_of(self.run) != release_of(self.bench.reference):
            self.problems.append("the release differs from the undisturbed run's")


def size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def pause(worker: Started) -> None:
    """Stop a process, if it still runs, and wait until it stands still."""
    worker.signal(signal.SIGSTOP)

    def still() -> bool:
        try:
            state = Path(f"/proc/{worker.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except OSError:
            return True
        return state in "TZX"

    wait_for(still)
