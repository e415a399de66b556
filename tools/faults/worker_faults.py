"""Faults on workers that have several shards open, each on a case of its own (`worker_case.py`)."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from gra_hpc.errors import GraError
from gra_hpc.run.run import Run
from tools.faults.faults import Nursery, Started, small_disk
from tools.faults.outcome import Round
from tools.faults.worker_case import LATENCY_S, LEAST_OPEN, Bench, Case, Missed, size_of

TRIES = 12
"""Copies on which a fault is tried until it meets a worker with so many shards open."""
ROOM_KB = 64_000
WRITES = 260
"""Writes of the whole run, about."""
PUBLISHING = (
    ("write_table", 1), ("rename", 2), ("remove", 1), ("write_table", 2), ("rename", 3), ("remove", 2), ("open", 2),
    ("open", 3), ("open", 4), ("link", 1),
)  # fmt: skip
"""Write boundaries of a publication, in order, until its shard is published (tools/faults/dying.py)."""


def kill(case: Case) -> None:
    """SIGKILL of one worker; of two that run, in half of the cases of both."""
    first, *others = case.workers()
    case.hold(first)
    case.end(first, signal.SIGKILL, (-signal.SIGKILL,))
    if others and case.draw.random() < 0.5:
        time.sleep(case.draw.random() * 5 * LATENCY_S)
        others[0].signal(signal.SIGKILL)


def _signalled(case: Case, number: int, code: int) -> None:
    first = case.workers()[0]
    case.hold(first)
    case.end(first, number, (code, 0))  # 0: all it had open was answered, and is published


def sigterm(case: Case) -> None:
    """SIGTERM: cancelled, or preempted without a warning."""
    _signalled(case, signal.SIGTERM, 128 + signal.SIGTERM)


def sigusr2(case: Case) -> None:
    """SIGUSR2: a time limit or a preemption ahead."""
    _signalled(case, signal.SIGUSR2, os.EX_TEMPFAIL)


def _died(case: Case, worker: Started) -> None:
    """A worker that dies by itself at some boundary."""
    if worker.wait() != -signal.SIGKILL:
        raise Missed("it came to its end first")
    case.open = len(case.opened(worker))
    if case.open < LEAST_OPEN:
        raise Missed(f"it had {case.open} open")
    case.note()


def kill_in_publish(case: Case) -> None:
    """SIGKILL at a write boundary of one shard's publication; others are open beside it."""
    only, at = case.draw.choice(PUBLISHING)
    shard = case.draw.choice(case.shards[:-1])
    _died(case, case.start(below=shard.path, only=only, at=at))


def kill_at_write(case: Case) -> None:
    """SIGKILL at any write below the round, in half of the cases when half of it is written."""
    at, torn = case.draw.randrange(20, WRITES), case.draw.random() < 0.5
    _died(case, case.start(below=case.run.round(1).path, at=at, torn=torn))


def _damage(case: Case, damage: Callable[[Path], None]) -> None:
    """SIGKILL, and a journal of one of the open shards is damaged."""
    worker = case.start()
    shard = case.draw.choice(case.hold(worker))
    case.end(worker, signal.SIGKILL, (-signal.SIGKILL,))
    journal = next(f for f in shard.attempts.glob("*/journal.log") if size_of(f))
    damage(journal)
    audit = case.audits[shard.number]
    audit.hurt()
    audit.starting()


def torn_tail(case: Case) -> None:
    """SIGKILL, and the last line of a journal loses its end."""

    def tear(journal: Path) -> None:
        data = journal.read_bytes()
        os.truncate(journal, case.draw.randrange(data[:-1].rfind(b"\n") + 2, len(data)))

    _damage(case, tear)


def corrupt_line(case: Case) -> None:
    """SIGKILL, and one bit of a journal changes."""

    def flip(journal: Path) -> None:
        data = bytearray(journal.read_bytes())
        data[case.draw.randrange(len(data))] ^= 1 << case.draw.randrange(8)
        journal.write_bytes(data)

    _damage(case, flip)


def engine_deaths(case: Case) -> None:
    """The engines die under all open shards; in some cases those that are opened in their place too."""
    orders = case.log.with_suffix(".engines")
    worker = case.start(engines=orders)
    case.hold(worker)
    case.note()
    further = [case.draw.randrange(40) for _ in range(case.draw.randrange(4))]
    orders.write_text(json.dumps([0, *further]), encoding="utf-8")
    worker.signal(signal.SIGCONT)
    code = worker.wait()
    if code not in (0, 1) or (code and "simulated death" not in worker.tail()):
        case.problems.append(f"exit code {code}: {worker.tail(300)}")


def disk_full(case: Case) -> None:
    """No space is left on the file system of the whole run; then there is room."""
    resize = case.disk.enter_context(small_disk(case.run.path.with_name(f"{case.run.name}-disk"), ROOM_KB))
    within = case.run.path.with_name(f"{case.run.name}-disk") / "run"
    shutil.copytree(case.run.path, within)
    case.run = Run.open(within)
    case.__post_init__()
    worker = case.start()
    case.hold(worker)
    state = os.statvfs(within)
    used = (state.f_blocks - state.f_bfree) * state.f_frsize // 1024
    resize(used + case.draw.randrange(4, 20, 4))
    worker.signal(signal.SIGCONT)
    code, said = worker.wait(), worker.tail()
    if code == 0:
        raise Missed("what was left to write fitted in")
    if code != 1 or "no space left on this file system" not in said:
        case.problems.append(f"exit code {code}: {said[-300:]}")
    case.note()
    resize(ROOM_KB)


def another_attempt(case: Case) -> None:
    """A worker stands still while another attempt publishes one of its open shards; then it goes on, or dies."""
    worker = case.start()
    shard = case.draw.choice(case.hold(worker))
    case.note()
    if code := case.start(shard.number).wait():
        case.problems.append(f"the other attempt: exit code {code}")
    _wake(case, worker)


def standstill(case: Case) -> None:
    """A worker stands still while another one does all that is left; then it goes on, or dies."""
    first = case.start("--worker", "0/2")
    case.hold(first)
    case.note()
    if code := case.start("--worker", "1/2").wait():
        case.problems.append(f"the other worker: exit code {code}")
    _wake(case, first)


def _wake(case: Case, worker: Started) -> None:
    if case.draw.random() < 0.5:
        worker.signal(signal.SIGKILL)
    worker.signal(signal.SIGCONT)


WORKER_FAULTS: dict[str, Callable[[Case], None]] = {
    "SIGKILL": kill,
    "SIGTERM": sigterm,
    "SIGUSR2": sigusr2,
    "SIGKILL in publish": kill_in_publish,
    "SIGKILL at any write": kill_at_write,
    "torn last line": torn_tail,
    "corrupt line": corrupt_line,
    "deaths of engines": engine_deaths,
    "disk full": disk_full,
    "another attempt beside it": another_attempt,
    "a standstill": standstill,
}
WEIGHTS = {"SIGKILL": 4, "SIGKILL in publish": 2, "SIGKILL at any write": 2, "deaths of engines": 2}
"""Rounds of a kind in every cycle; 1 where not named."""


def worker_kinds(rounds: int, draw: random.Random, mount: bool) -> Iterator[str]:
    """What happens in each round: whole cycles of all kinds, shuffled, so that none is missing."""
    cycle = [k for k in WORKER_FAULTS if mount or k != "disk full"]
    rest = [k for k in cycle for _ in range(WEIGHTS.get(k, 1) - 1)]
    draw.shuffle(rest)
    for i in range(rounds):
        yield (cycle + rest)[i % len(cycle + rest)]


def worker_round(bench: Bench, nursery: Nursery, kind: str, seed: str) -> Round:
    """One fault on a copy of the run, and what came of it; the copy is removed unless there was a problem."""
    result, name = Round(kind), f"{kind}-{seed}".replace(" ", "-").replace("/", "-")
    missed: Counter[str] = Counter()
    for again in range(TRIES):
        draw, where = random.Random(f"{seed}/{again}"), bench.where / f"{name}-{again}"
        copy = Run.open(Path(shutil.copytree(bench.run.path, where)))
        with ExitStack() as disk:
            case = Case(bench, copy, nursery, bench.where / f"{name}-{again}.log", draw, disk)
            case.log.touch()
            try:
                WORKER_FAULTS[kind](case)
                case.finish()
                result.recovery_s = case.mend()
                case.compare(result)
            except Missed as e:
                missed[str(e)] += 1
                case.finish()
                shutil.rmtree(where, ignore_errors=True)
                case.log.unlink()
                continue
            except (TimeoutError, AssertionError, OSError, ValueError, LookupError, GraError) as e:
                case.problems.append(f"{type(e).__name__}: {e}")
        bench.open[case.open] += 1
        bench.problems += [f"{kind}: {where}: {p}" for p in case.problems]
        if not case.problems:
            shutil.rmtree(where, ignore_errors=True)
            case.log.unlink()
        return result
    times = ", ".join(f"{why} ({n} times)" for why, n in missed.items())
    bench.problems.append(f"{kind} {seed}: never met a worker with {LEAST_OPEN} shards open: {times}")
    return result


def worker_rounds(where: Path, kinds: Sequence[str], seed: int, at_once: int) -> tuple[Bench, list[Round]]:
    """All rounds, several at a time, each lane with a nursery of its own."""
    bench, lane, nurseries = Bench.make(where), threading.local(), list[Nursery]()

    def prepare() -> None:
        lane.nursery = Nursery()
        nurseries.append(lane.nursery)

    try:
        with ThreadPoolExecutor(at_once, initializer=prepare) as pool:
            rounds = pool.map(lambda i: worker_round(bench, lane.nursery, kinds[i], f"{seed}/{i}"), range(len(kinds)))
            return bench, list(rounds)
    finally:
        for nursery in nurseries:
            nursery.close()
