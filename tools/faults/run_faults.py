"""Faults on whole runs, each on a copy of a small run of three rounds, just before one of its merges. Then that run
goes on (`jobs/run.py`), and must end as if nothing had been."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from gra_hpc.launch.round_end import finish_round
from gra_hpc.release.verify.verify import verify
from gra_hpc.run.rounds import remaining
from gra_hpc.run.run import Run
from gra_hpc.run.shard_manifest import ShardManifest
from gra_hpc.run.worker import run_shard
from gra_hpc.storage import read_json
from tools.faults.faults import MERGE, SYNTHESIZE, WHOLE_RUN, Started, make_run, release_of, start

ROUNDS, SEEDS, SHARDS = 3, 6, 2
NOT_RECORDED = ("run.yaml", "timings.json")
"""What a person may edit, and what only informs: no digest of these is recorded."""
STEPS_S = (-86_400.0, -960.0, -2.0, 2.0, 960.0, 86_400.0)
"""Seconds by which a clock steps."""


@dataclass
class Stages:
    """A small run, undisturbed, and what it was before each of its merges."""

    run: Run
    before: dict[int, Path]
    boundaries: int
    """Writes of what is left after the first stage, about."""

    @classmethod
    def make(cls, where: Path) -> Stages:
        """Run it, and keep a copy of every stage."""
        words = [f"method.rounds={ROUNDS}", f"launch.shards={SHARDS}", "merge.allow_partial=true"]
        run, before = make_run(where / "stages" / "run", SEEDS, words), {}
        for number in run.rounds:
            for shard in range(SHARDS):
                run_shard(run, number, shard)
            before[number] = Path(shutil.copytree(run.path, where / "stages" / f"before-{number}"))
            finish_round(run, number)
        listing, copy = where / "stages" / "boundaries", shutil.copytree(before[1], where / "stages" / "listed")
        log = where / "stages" / "log"
        start(WHOLE_RUN, copy, log=log, dying=("--below", copy, "--list", listing)).wait()
        return cls(run, before, len(listing.read_text(encoding="utf-8").splitlines()))


@dataclass
class Case:
    """One fault on one copy."""

    stages: Stages
    number: int
    """The round whose merge is next."""
    run: Run
    log: Path
    draw: random.Random
    problems: list[str] = field(default_factory=list)
    same: bool = True
    """Whether the end must be the undisturbed run's, byte for byte; else its books are checked."""
    recovery_s: float = 0.0
    rows: int = 0
    """Accepted samples at the end; `lost`: in no merge; `twice`: in more than one."""
    lost: int = 0
    twice: int = 0

    def start(self, script: Path, *args: object, dying: tuple[object, ...] = (), host: str = "") -> Started:
        """A job at this copy."""
        below = ("--below", self.run.path, *dying) if dying else ()
        return start(script, self.run.path, *args, log=self.log, dying=below, host=host)

    def die(self, script: Path, *args: object, dying: tuple[object, ...]) -> None:
        """A job that dies at one of its writes; or is through before."""
        if (code := self.start(script, *args, dying=dying).wait()) not in (0, -signal.SIGKILL):
            self.problems.append(f"exit code {code}")

    def merge(self, *words: object) -> None:
        """The merge of the round that is next, to its end."""
        process = self.start(MERGE, "--round", self.number, *words)
        if code := process.wait():
            self.problems.append(f"merge: exit code {code}: {process.tail(300)}")

    def hide(self, shard: int) -> Callable[[], object]:
        """A shard that is not published yet; returns what publishes it."""
        path, aside = self.run.round(self.number).shard(shard).path, self.run.path.with_name(f"{self.run.name}.aside")
        path.rename(aside)
        return lambda: aside.rename(path)

    def mend(self) -> None:
        """Let the run go on to its end, and compare."""
        began = time.monotonic()
        process = self.start(WHOLE_RUN)
        if code := process.wait():
            self.problems.append(f"exit code {code}: {process.tail(300)}")
            return
        self.recovery_s = time.monotonic() - began
        self.rows, self.lost, self.twice, problems = check_books(self.run)
        self.problems += problems
        if self.same and release_of(self.run) != release_of(self.stages.run):
            self.problems.append("the release differs from the undisturbed run's")


def check_books(run: Run) -> tuple[int, int, int, list[str]]:
    """Accepted samples of all shards; those that no merge kept or dropped, and those that more than one did; and what
    else is wrong: with what is left of the run, its ledger, its release."""
    steps = remaining(Run.open(run.path))
    accepted, merged = [], []
    for number in run.rounds:
        for table in (run.round(number).kept, run.round(number).dropped):
            merged += pq.read_table(table, columns=["id"])["id"].to_pylist()
        for s in range(run.shards_of(number)):
            shard = run.round(number).shard(s)
            rows = pq.read_table(shard.samples(ShardManifest.load(shard).attempt), columns=["id", "status"])
            accepted += [r["id"] for r in rows.to_pylist() if r["status"] == "accepted"]
    ledger = read_json(run.release / "manifest.json")["ledger"]
    wrong = [f"not through: {steps}"] if steps else []
    wrong += ["candidates pending"] if ledger["pending"] else []
    wrong += [] if ledger["accepted"] == len(accepted) else ["accepted rows are not those of the ledger"]
    lost, twice = len(set(accepted) - set(merged)), len(merged) - len(set(merged))
    return len(accepted), lost, twice, wrong + verify(run.release)


# ---- faults ----------------------------------------------------------------------------------------------------------


def kill_between_rounds(case: Case) -> None:
    """SIGKILL right after a merge was published, before anything that follows from it."""
    case.die(WHOLE_RUN, dying=("--after", rf"rename rounds/{case.number:02d}/\.merged"))


def kill_anywhere(case: Case) -> None:
    """SIGKILL at any write of what is left of the run."""
    case.die(WHOLE_RUN, dying=("--at", case.draw.randrange(1, case.stages.boundaries)))


def partial_merge(case: Case) -> None:
    """A merge without one of the shards, which is published then; half of the merges that replace it die doing so."""
    publish = case.hide(case.draw.randrange(SHARDS))
    case.merge()
    publish()
    if case.draw.random() < 0.5:
        case.die(MERGE, "--round", case.number, dying=("--only", "exchange", "--at", 1))


def late_shard(case: Case) -> None:
    """A shard that is published once the next round has drawn from its round's merge; of the last, once all is done."""
    case.same = case.number == ROUNDS
    publish = case.hide(case.draw.randrange(SHARDS))
    case.merge()
    if case.number < ROUNDS:
        process = case.start(SYNTHESIZE, case.draw.randrange(SHARDS), "--round", case.number + 1)
        if code := process.wait():
            case.problems.append(f"shard: exit code {code}: {process.tail(300)}")
    publish()
    if case.draw.random() < 0.5:
        case.die(WHOLE_RUN, dying=("--at", case.draw.randrange(1, case.stages.boundaries)))


def flipped_bit(case: Case) -> None:
    """One bit of any file that has a digest: the run ends with an error that names the file; then it is put back."""
    files = [p for p in sorted(case.run.path.rglob("*")) if p.is_file() and p.name not in NOT_RECORDED]
    inside = [(p, p.relative_to(case.run.path).parts) for p in files]
    path = case.draw.choice([p for p, parts in inside if parts[0] not in ("logs", "submissions")])
    good = path.read_bytes()
    places = [i for i, c in enumerate(good) if c in b"2468"] if path.suffix == ".json" else range(len(good))
    if not places:  # an empty table of seeds that were none
        return
    at = case.draw.choice(places)
    path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    process = case.start(WHOLE_RUN)
    code, said = process.wait(), process.tail(3000)
    if code == 0 or path.name not in said or "Traceback" in said:
        case.problems.append(f"{path}: byte {at} changed, exit code {code}: {said[-300:]}")
    path.write_bytes(good)


def clock_steps(case: Case) -> None:
    """The clock of a job that dies steps back and forth at its writes, that of the next one is off by as much."""
    step = case.draw.choice(STEPS_S)
    case.die(WHOLE_RUN, dying=("--at", case.draw.randrange(1, case.stages.boundaries), "--clock", step))
    process = case.start(WHOLE_RUN, dying=("--clock", -step))
    if code := process.wait():
        case.problems.append(f"clock {-step:+g} s: exit code {code}: {process.tail(300)}")


def node_names(case: Case) -> None:
    """Merges at once on hosts `n` and `n-2`; the first is stopped for a while, and in half of the cases dies."""
    first = case.start(MERGE, "--round", case.number, host="n")
    time.sleep(case.draw.random() * 2)
    first.signal(signal.SIGSTOP)
    second = case.start(MERGE, "--round", case.number, host="n-2")
    if code := second.wait():
        case.problems.append(f"n-2: exit code {code}: {second.tail(300)}")
    first.signal(signal.SIGKILL if case.draw.random() < 0.5 else signal.SIGCONT)
    if (code := first.wait()) not in (0, -signal.SIGKILL):
        case.problems.append(f"n: exit code {code}: {first.tail(300)}")


RUN_FAULTS: dict[str, Callable[[Case], None]] = {
    "SIGKILL between rounds": kill_between_rounds,
    "SIGKILL anywhere in a run": kill_anywhere,
    "partial merge": partial_merge,
    "late shard": late_shard,
    "flipped bit": flipped_bit,
    "clock steps": clock_steps,
    "merges on n and n-2": node_names,
}
NEEDS_ROOT = ("merges on n and n-2",)


def disturb(stages: Stages, where: Path, kind: str, seed: str) -> Case:
    """One fault, and what came of it; the copy is removed unless there was a problem."""
    draw = random.Random(seed)
    number = draw.randint(1, ROUNDS)
    name = f"{kind.replace(' ', '-')}-{seed.replace('/', '-')}"
    copy = Path(shutil.copytree(stages.before[number], where / name))
    case = Case(stages, number, Run.open(copy), where / f"{name}.log", draw)
    case.log.touch()
    RUN_FAULTS[kind](case)
    case.mend()
    if not case.problems:
        shutil.rmtree(copy, ignore_errors=True)
    return case
