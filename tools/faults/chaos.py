"""Rounds of faults, by a seed, on one run; then what was lost, asked twice or duplicated, and how long it took to mend.

    python tools/faults/chaos.py --rounds 200 --seed 1
    python tools/faults/chaos.py --rounds 200 --seed 1 --workers    faults on workers that have several shards open

Every round disturbs one shard of the run (or its merge) in one way, then lets one undisturbed attempt go over it. Jobs
are plain processes (`python jobs/synthesize.py RUN SHARD`) with the simulated engine, whose answers are always the
same: each shard, and the release at the end, must equal those of a run that was never disturbed. Every answered call
is followed from the journals to the published table. What disturbs a run between its rounds has small runs of its own
(`run_faults.py`). Ends with exit code 1 unless all columns that must be zero are.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from gra_hpc.errors import GraError
from gra_hpc.run.directory import ShardDir
from gra_hpc.run.publish import is_published
from gra_hpc.run.run import Run
from tools.faults.faults import (
    MERGE,
    ROOT,
    SYNTHESIZE,
    Audit,
    Started,
    check_shard,
    journals,
    make_run,
    release_of,
    sample_rows,
    small_disk,
    start,
    undisturbed,
    wait_for,
)
from tools.faults.outcome import Round, failed, table
from tools.faults.run_faults import NEEDS_ROOT, RUN_FAULTS, Stages, disturb
from tools.faults.worker_faults import worker_kinds, worker_rounds

SEEDS_PER_SHARD = 4
LATENCY_S = 0.01
WINDOW = 3
PUBLISHING = (
    ("write_table", 1), ("rename", 2), ("remove", 1), ("write_table", 2), ("rename", 3), ("remove", 2), ("open", 2),
    ("open", 3), ("open", 4), ("link", 1), ("remove", 3), ("rmtree", 1), ("rmdir", 1), ("rmdir", 2),
)  # fmt: skip
"""Write boundaries of a publication, in order (tools/faults/dying.py). The first rename begins the attempt."""


@dataclass
class Bench:
    """The run under test, and its undisturbed twin."""

    run: Run
    reference: Run
    logs: Path
    merge_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    def start(self, shard: ShardDir, dying: Sequence[object] = (), log: str = "") -> Started:
        """One attempt at a shard."""
        path = self.logs / f"{shard.number:05d}{log}.log"
        return start(SYNTHESIZE, self.run.path, shard.number, "--round", 1, log=path, dying=dying)

    def fault(self, kind: str, shard: ShardDir, audit: Audit, draw: random.Random) -> None:
        """Disturb a shard; when it returns, none of its attempts runs any more."""
        audit.starting()
        FAULTS[kind](self, shard, audit, draw)

    def mend(self, shard: ShardDir, result: Round) -> None:
        """Let one attempt go over what the fault has left, and compare."""
        began = time.monotonic()
        process = self.start(shard)
        if code := process.wait():
            self.problems.append(f"{result.kind}: shard {shard.number}: exit code {code}: {process.tail(300)}")
        result.recovery_s = time.monotonic() - began

    def compare(self, shard: ShardDir, audit: Audit, result: Round) -> None:
        """Books of a shard that should be published."""
        twin = self.reference.round(1).shard(shard.number)
        expected = {r["id"]: r for r in sample_rows(twin)}
        result.rows = len(expected)
        if not is_published(shard):
            result.rows_lost, result.lost = len(expected), len(audit.answered)
            self.problems.append(f"{result.kind}: shard {shard.number} is not published")
            return
        result.calls, result.lost = audit.published()
        result.reasked, result.destroyed = audit.reasked, audit.damaged
        rows = sample_rows(shard)
        found = {r["id"]: r for r in rows}
        result.rows_lost = len(expected.keys() - found.keys())
        result.rows_duplicated = len(rows) - len(found)
        result.rows_changed = sum(found[i] != expected[i] for i in expected.keys() & found.keys())
        try:
            check_shard(shard, twin)
        except AssertionError as e:
            self.problems.append(f"{result.kind}: {e}")


# ---- faults ----------------------------------------------------------------------------------------------------------


def _answers(shard: ShardDir, many: int) -> Callable[[], bool]:
    return lambda: is_published(shard) or any(len(n) >= many for n in journals(shard).values())


def kill(bench: Bench, shard: ShardDir, audit: Audit, draw: random.Random) -> None:
    """SIGKILL, once some number of calls is answered; in a fifth of the rounds while Python still starts."""
    process = bench.start(shard)
    if draw.random() < 0.2:
        time.sleep(draw.random())
    else:
        wait_for(_answers(shard, draw.randrange(9 * SEEDS_PER_SHARD - 8)))
        time.sleep(draw.random() * 2 * LATENCY_S)
    process.signal(signal.SIGKILL)
    process.wait()
    audit.stopped()


def kill_in_publish(bench: Bench, shard: ShardDir, audit: Audit, draw: random.Random) -> None:
    """SIGKILL at one of the publication's own write boundaries."""
    only, at = draw.choice(PUBLISHING)
    process = bench.start(shard, ("--below", shard.path, "--only", only, "--at", at))
    if process.wait() != -signal.SIGKILL:
        bench.problems.append(f"kill in publish: shard {shard.number} outlived {only} {at}")
    audit.stopped()


def copies(bench: Bench, shard: ShardDir, audit: Audit, draw: random.Random) -> None:
    """Two attempts at once; one of them sleeps for a while, and in half of the rounds it dies."""
    first = bench.start(shard)
    wait_for(_answers(shard, 1))
    first.signal(signal.SIGSTOP)
    second = bench.start(shard, log="-copy")
    wait_for(lambda: is_published(shard) or sum(bool(n) for n in journals(shard).values()) == 2)
    time.sleep(draw.random() * 0.3)
    first.signal(signal.SIGKILL if draw.random() < 0.5 else signal.SIGCONT)
    for process in (first, second):
        if process.wait() not in (0, -signal.SIGKILL):
            bench.problems.append(f"copies: shard {shard.number}: {process.tail(300)}")
    audit.stopped()


def torn_tail(bench: Bench, shard: ShardDir, audit: Audit, draw: random.Random) -> None:
    """SIGKILL, and the last line of the journal loses its end."""
    journal = _killed(bench, shard, audit, draw)
    data = journal.read_bytes()
    start_of_last = data[:-1].rfind(b"\n") + 1
    os.truncate(journal, draw.randrange(start_of_last + 1, len(data)))
    audit.hurt()


def corrupt_line(bench: Bench, shard: ShardDir, audit: Audit, draw: random.Random) -> None:
    """SIGKILL, and one bit of the journal changes."""
    journal = _killed(bench, shard, audit, draw)
    data = bytearray(journal.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    journal.write_bytes(data)
    audit.hurt()


def _killed(bench: Bench, shard: ShardDir, audit: Audit, draw: random.Random) -> Path:
    at = draw.randrange(3, 8 * SEEDS_PER_SHARD)
    process = bench.start(shard, ("--below", shard.path, "--only", "write", "--at", at))
    if process.wait() != -signal.SIGKILL:
        bench.problems.append(f"shard {shard.number} outlived its answer {at}")
    audit.stopped()
    (journal,) = shard.attempts.glob("*/journal.log")
    return journal


def _signalled(bench: Bench, shard: ShardDir, audit: Audit, draw: random.Random, number: int, code: int) -> None:
    process = bench.start(shard)
    wait_for(_answers(shard, draw.randrange(5 * SEEDS_PER_SHARD)))
    process.signal(number)
    if process.wait() not in (code, 0):  # 0: it was through before the signal came
        bench.problems.append(f"signal {number}: shard {shard.number}: {process.tail(300)}")
    audit.stopped()


def sigterm(bench: Bench, shard: ShardDir, audit: Audit, draw: random.Random) -> None:
    """SIGTERM: cancelled, or preempted without a warning."""
    _signalled(bench, shard, audit, draw, signal.SIGTERM, 128 + signal.SIGTERM)


def sigusr2(bench: Bench, shard: ShardDir, audit: Audit, draw: random.Random) -> None:
    """SIGUSR2: a time limit or a preemption ahead."""
    _signalled(bench, shard, audit, draw, signal.SIGUSR2, os.EX_TEMPFAIL)


def disk_full(bench: Bench, shard: ShardDir, audit: Audit, draw: random.Random) -> None:
    """A file system of its own for the shard, full while it journals or publishes; then there is room."""
    with small_disk(shard.path, draw.randrange(12, 40, 4)) as resize:
        process = bench.start(shard)
        if process.wait() != 1 or "no space left on this file system" not in process.tail():
            bench.problems.append(f"disk full: shard {shard.number}: {process.tail(300)}")
        audit.stopped()
        resize(20_000)
        kept = shard.path.with_name(f".{shard.path.name}")
        shutil.copytree(shard.path, kept)
    shard.path.rmdir()
    kept.rename(shard.path)


FAULTS: dict[str, Callable[[Bench, ShardDir, Audit, random.Random], None]] = {
    "SIGKILL while it runs": kill,
    "SIGKILL in publish": kill_in_publish,
    "two copies at once": copies,
    "torn last line": torn_tail,
    "corrupt line": corrupt_line,
    "SIGTERM": sigterm,
    "SIGUSR2": sigusr2,
    "disk full": disk_full,
}
MERGE_KILL = "SIGKILL of the merge"
WEIGHTS = {
    "SIGKILL while it runs": 6, "SIGKILL in publish": 4, "two copies at once": 2, MERGE_KILL: 2,
    "SIGKILL between rounds": 2, "SIGKILL anywhere in a run": 2, "partial merge": 2, "late shard": 2, "flipped bit": 4,
}  # fmt: skip
"""Rounds of a kind in every cycle; 1 where not named."""


def kinds(rounds: int, draw: random.Random, mount: bool) -> Iterator[str]:
    """What happens in each round: whole cycles of all kinds, shuffled, so that none is missing."""
    cycle = [k for k in (*FAULTS, MERGE_KILL, *RUN_FAULTS) if mount or k not in ("disk full", *NEEDS_ROOT)]
    rest = [k for k in cycle for _ in range(WEIGHTS.get(k, 1) - 1)]
    draw.shuffle(rest)
    for i in range(rounds):
        yield (cycle + rest)[i % len(cycle + rest)]


def shard_round(bench: Bench, number: int, kind: str, seed: str) -> Round:
    """Disturb a shard, mend it, compare it."""
    shard = bench.run.round(1).shard(number)
    audit, result = Audit(shard), Round(kind)
    try:
        bench.fault(kind, shard, audit, random.Random(seed))
        audit.starting()
        bench.mend(shard, result)
        bench.compare(shard, audit, result)
    except (TimeoutError, AssertionError, OSError, ValueError) as e:
        bench.problems.append(f"{kind}: shard {number}: {type(e).__name__}: {e}")
    return result


def merge_round(bench: Bench, seed: str) -> Round:
    """Kill the merge somewhere, merge again, compare, and clear the table for the next round."""
    run, draw, result = bench.run, random.Random(seed), Round(MERGE_KILL)
    log = bench.logs / "merge.log"
    process = start(MERGE, run.path, "--round", 1, log=log)
    time.sleep(draw.random() * bench.merge_s)
    process.signal(signal.SIGKILL)
    process.wait()
    for directory in (run.round(1).merged, run.release):
        if directory.exists() and not (directory / "manifest.json").is_file():
            bench.problems.append(f"{MERGE_KILL}: {directory} is half there")
    began = time.monotonic()
    again = start(MERGE, run.path, "--round", 1, log=log)
    if again.wait():
        bench.problems.append(f"{MERGE_KILL}: {again.tail(300)}")
    result.recovery_s = time.monotonic() - began
    compare_release(bench, result)
    shutil.rmtree(run.release, ignore_errors=True)
    shutil.rmtree(run.round(1).merged, ignore_errors=True)
    return result


def run_round(stages: Stages, where: Path, kind: str, seed: str, problems: list[str]) -> Round:
    """One fault on a small run of its own; every accepted row of it is followed into a merge and the release."""
    result = Round(kind)
    try:
        case = disturb(stages, where, kind, seed)
        problems += [f"{kind}: {case.run.path}: {p}" for p in case.problems]
        result.recovery_s, result.rows = case.recovery_s, case.rows
        result.rows_lost, result.rows_duplicated = case.lost, case.twice
    except (TimeoutError, AssertionError, OSError, ValueError, GraError) as e:
        problems.append(f"{kind} {seed}: {type(e).__name__}: {e}")
    return result


def compare_release(bench: Bench, result: Round) -> None:
    """Rows of the merged table against the undisturbed run's; then every byte of the release."""
    found, expected = (
        pq.read_table(r.round(1).kept, columns=["id"])["id"].to_pylist() for r in (bench.run, bench.reference)
    )
    result.rows = len(expected)
    result.rows_lost = len(set(expected) - set(found))
    result.rows_duplicated = len(found) - len(set(found))
    if release_of(bench.run) != release_of(bench.reference):
        bench.problems.append(f"{result.kind}: the release differs from the undisturbed run's")


# ---- all of it -------------------------------------------------------------------------------------------------------


def prepare(where: Path, rounds: Sequence[str]) -> Bench:
    """Plan the run and its twin, and let the twin run."""
    shards = max(1, sum(k in FAULTS for k in rounds))
    seeds, cut = shards * SEEDS_PER_SHARD, f"launch.shards={shards}"
    slow = (f"engine.simulated_latency_s={LATENCY_S}", f"launch.window={WINDOW}")
    run = make_run(where / "run", seeds, [cut, *slow])
    reference = undisturbed(make_run(where / "reference", seeds, [cut]))
    (where / "logs").mkdir()
    return Bench(run, reference, where / "logs")


def can_mount() -> bool:
    """Whether a small file system can be mounted here."""
    try:
        with tempfile.TemporaryDirectory() as path, small_disk(Path(path) / "disk", 64):
            return True
    except PermissionError:
        return False


def disturb_workers(where: Path, rounds: int, seed: int, at_once: int, mount: bool) -> int:
    """Rounds on workers with several shards open, their table; the exit code."""
    began = time.monotonic()
    bench, results = worker_rounds(where, list(worker_kinds(rounds, random.Random(seed), mount)), seed, at_once)
    for line in table(results):
        print(line)
    print(
        f"\n{len(results)} rounds, seed {seed}, {time.monotonic() - began:.0f} s. Shards open when it struck:", end=" "
    )
    print(", ".join(f"{n} in {times} rounds" for n, times in sorted(bench.open.items())), end=".\n")
    if not mount:
        print("No rounds with a full disk: no right to mount a tmpfs.")
    for problem in bench.problems:
        print(f"PROBLEM {problem}", file=sys.stderr)
    return 1 if bench.problems or failed(results) else 0


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=2, help="shards disturbed at the same time")
    parser.add_argument("--workers", action="store_true", help="disturb workers with several shards open, one or two")
    parser.add_argument("--dir", type=Path, default=None, help="where the runs are made (and removed)")
    args = parser.parse_args()
    subprocess.run([sys.executable, str(ROOT / "tools/models/get_models.py"), "tiny-llama"], check=True, cwd=ROOT)
    with tempfile.TemporaryDirectory(prefix="gra-chaos-", dir=args.dir) as path:
        mount = can_mount()
        if args.workers:
            sys.exit(disturb_workers(Path(path), args.rounds, args.seed, args.at_once, mount))
        rounds = list(kinds(args.rounds, random.Random(args.seed), mount))
        bench = prepare(Path(path), rounds)
        began = time.monotonic()
        with ThreadPoolExecutor(args.at_once) as pool:
            shards = [k for k in rounds if k in FAULTS]
            seeds = [f"{args.seed}/{i}" for i in range(len(shards))]
            results = list(pool.map(lambda i: shard_round(bench, i, shards[i], seeds[i]), range(len(shards))))
        t = time.monotonic()
        if start(MERGE, bench.run.path, "--round", 1, log=bench.logs / "merge.log").wait():
            bench.problems.append((bench.logs / "merge.log").read_text(encoding="utf-8")[-300:])
        bench.merge_s = time.monotonic() - t
        last = Round("merge of all disturbed shards")
        compare_release(bench, last)
        for directory in (bench.run.release, bench.run.round(1).merged):
            shutil.rmtree(directory, ignore_errors=True)
        results += [merge_round(bench, f"{args.seed}/merge/{i}") for i in range(sum(k == MERGE_KILL for k in rounds))]
        if runs := [k for k in rounds if k in RUN_FAULTS]:
            stages = Stages.make(Path(path))
            with ThreadPoolExecutor(args.at_once) as pool:
                tries = [(k, f"{args.seed}/{i}") for i, k in enumerate(runs)]
                results += pool.map(lambda t: run_round(stages, Path(path), *t, bench.problems), tries)
    for line in table(results):
        print(line)
    print(f"\n{len(results)} rounds, seed {args.seed}, {time.monotonic() - began:.0f} s.", end=" ")
    print(
        f"Merged at the end: {last.rows} rows, {last.rows_lost} lost, {last.rows_duplicated} duplicated; "
        f"the release {'differs from' if any('release differs' in p for p in bench.problems) else 'equals'} the "
        "undisturbed run's."
    )
    if not mount:
        print("No rounds with a full disk or node names: no right to mount a tmpfs.")
    for problem in bench.problems:
        print(f"PROBLEM {problem}", file=sys.stderr)
    sys.exit(1 if bench.problems or failed([*results, last]) else 0)


if __name__ == "__main__":
    main()
