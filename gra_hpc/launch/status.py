"""Where a run stands: files first, one look at Slurm's queue second."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from gra_hpc import presets
from gra_hpc.attempt import Heartbeat
from gra_hpc.errors import LaunchError
from gra_hpc.launch.logs import Finder, last_words
from gra_hpc.launch.rounds import rounds_of, shards_of
from gra_hpc.ledger import Ledger
from gra_hpc.plan import Plan, RoundPlan
from gra_hpc.rundir import RunDir, ShardDir
from gra_hpc.slices import planned
from gra_hpc.storage import read_json

STALE_S = 90.0
"""A heartbeat older than this, of an attempt that Slurm does not know, is from a dead one."""

SLURM_TIMEOUT_S = 5.0
"""Longest wait for squeue: after it, the files alone must do."""

LOGS_READ = 200
"""Logs of dead shards that are read for a cause, per look; the causes of the others are not named."""


@dataclass
class ShardStatus:
    """One shard."""

    shard: int
    state: str
    """published, running, queued, failed (its last attempt ended with an error), stopped (killed, or drained and not
    queued), waiting (never started)."""
    planned: int
    accepted: int = 0
    rejected: int = 0
    failed: int = 0
    calls: int = 0
    replayed: int = 0
    attempts: int = 0
    host: str = ""
    job: str = ""
    phase: str = ""
    message: str = ""
    log: str = ""
    """Log of its newest job, for shards that are neither published nor alive."""
    started: float = 0.0
    at: float = 0.0
    seconds: float = 0.0
    """Time that its attempts took, as far as they answered calls for it; for a live one, the present attempt's."""
    tokens: dict[str, list[int]] = field(default_factory=dict)

    @property
    def done(self) -> int:
        return self.accepted + self.rejected + self.failed


@dataclass
class Failure:
    """Shards that ended for the same cause, or a merge."""

    cause: str
    what: str
    """merge, failed or stopped."""
    shards: list[int]
    log: str
    """Log of one of them."""


@dataclass
class RoundStatus:
    """One round."""

    round: int
    merged: bool
    shards: list[ShardStatus]
    ledger: Ledger
    failures: list[Failure] = field(default_factory=list)
    eta_s: float | None = None
    """Seconds until its shards are through at the present rate; none: nothing runs, or nothing has been measured."""

    @property
    def states(self) -> dict[str, int]:
        return dict(Counter(s.state for s in self.shards))


@dataclass
class RunStatus:
    """One run."""

    run: str
    fingerprint: str
    rounds: list[RoundStatus]
    release: str
    """Path of the release, once it is there."""
    slurm: str = ""
    """Why Slurm could not be asked; empty when it was, or need not be."""

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        out = asdict(self)
        for r, mine in zip(out["rounds"], self.rounds, strict=True):
            r["ledger"], r["states"] = mine.ledger.to_dict(), mine.states
        return out


def collect(run: RunDir, ask_slurm: bool = True) -> RunStatus:
    """The state of every shard of every round that is planned."""
    plan, config = Plan.load(run), presets.load(run.config)
    queued: dict[tuple[int, int], Any] = {}
    merging: set[int] = set()
    trouble = ""
    submitted = any(run.submissions.glob("*.json"))
    if ask_slurm and submitted and not (run.release / "manifest.json").exists():
        from gra_hpc.launch.submissions import live

        try:
            for job, task in live(run, SLURM_TIMEOUT_S):
                if job.kind == "merge":
                    merging.add(job.round)
                elif not task.hopeless:
                    queued[job.round, job.shards[task.index or 0]] = task
        except LaunchError as e:
            trouble = e.what
    look = _Look(run, queued, merging, bool(trouble), submitted and ask_slurm and not trouble)
    rounds = []
    for number in rounds_of(plan, config.method.rounds):
        directory = run.round(number)
        if not directory.plan.is_file():
            continue
        round_plan = RoundPlan.load(directory)
        shards = [
            look.shard(number, directory.shard(s), planned(round_plan, plan.seeds, s))
            for s in range(shards_of(run, plan, number))
        ]
        merged = directory.manifest.is_file()
        rounds.append(
            RoundStatus(
                number, merged, shards, _ledger(shards), look.failures(number, shards, merged), eta(shards)
            )
        )
    release = str(run.release) if (run.release / "manifest.json").is_file() else ""
    return RunStatus(str(run.path), plan.fingerprint, rounds, release, trouble)


def eta(shards: list[ShardStatus]) -> float | None:
    """Seconds until all shards are through, if as many run as run now, at the rate measured so far."""
    running = [s for s in shards if s.state == "running"]
    done = sum(s.done for s in shards if s.seconds > 0)
    spent = sum(s.seconds for s in shards)
    if not running or not done or spent <= 0:
        return None
    rate = done / spent  # of one shard; both published and running ones have measured it
    slowest = max((s.planned - s.done) / rate for s in running)
    left = sum(s.planned - s.done for s in shards if s.state in ("running", "queued", "waiting"))
    return max(slowest, left / rate / len(running))


def newest_attempt(shard: ShardDir) -> Heartbeat | None:
    """The last heartbeat of the newest attempt at a shard, if there is any."""
    names = _attempts(shard)
    return Heartbeat.read(shard.attempt(names[-1])) if names else None


def _attempts(shard: ShardDir) -> list[str]:
    try:
        return sorted(p.name for p in shard.attempts.iterdir())
    except OSError:  # none yet, or swept a moment ago
        return []


def _ledger(shards: list[ShardStatus]) -> Ledger:
    """Of the round so far; reasons are in the manifests."""
    return Ledger(
        planned=sum(s.planned for s in shards),
        accepted=sum(s.accepted for s in shards),
        rejected={"all": sum(s.rejected for s in shards)},
        failed={"all": sum(s.failed for s in shards)},
        pending=sum(s.planned - s.done for s in shards),
    )


@dataclass
class _Look:
    """One look at a run."""

    run: RunDir
    queued: dict[tuple[int, int], Any]
    merging: set[int]
    blind: bool
    """Slurm should have told, and could not."""
    certain: bool
    """Slurm was asked: what it does not know is not alive there."""
    finder: Finder | None = None
    read: int = 0

    def shard(self, round_: int, shard: ShardDir, units: int) -> ShardStatus:
        if shard.manifest.is_file():
            return _published(shard)
        names = _attempts(shard)
        beat = Heartbeat.read(shard.attempt(names[-1])) if names else None
        out = ShardStatus(shard.number, "waiting", units, attempts=len(names))
        if beat is not None:
            for key in (
                "accepted", "rejected", "failed", "calls", "replayed", "host", "job", "phase", "message", "started",
                "at", "tokens",
            ):  # fmt: skip
                setattr(out, key, getattr(beat, key))
            out.seconds = _own_seconds(beat.started, beat.at, beat.calls, beat.replayed)
        task = self.queued.get((round_, shard.number))
        out.state = _state(out, beat, task, self.blind)
        if out.state in ("failed", "stopped", "waiting"):
            self._explain(out, round_, shard, beat)
        return out

    def _explain(self, out: ShardStatus, round_: int, shard: ShardDir, beat: Heartbeat | None) -> None:
        """Say from its log why a shard ended; also of a job that ended before its attempt began."""
        if out.state == "waiting" and not self.certain:
            return
        self.finder = self.finder or Finder(self.run)
        log = self.finder.shard(round_, shard, beat).main
        if log is None:
            return
        out.log = str(log)
        if out.state == "waiting":
            out.state = "failed"
        if out.state == "failed" and out.message:
            return
        self.read += 1
        if self.read <= LOGS_READ and (words := last_words(log)):
            out.message = words

    def failures(self, round_: int, shards: list[ShardStatus], merged: bool) -> list[Failure]:
        """Dead shards by cause, the most frequent first; and a merge that failed."""
        groups: dict[tuple[str, str], Failure] = {}
        for s in shards:
            if s.state not in ("failed", "stopped"):
                continue
            cause = (s.message or "ended without a word").split(" -> ")[0]
            key = s.state, re.sub(r"[\da-f]{4,}|\d+|/\S+", "#", cause)
            groups.setdefault(key, Failure(cause, s.state, [], s.log)).shards.append(s.shard)
        found = sorted(groups.values(), key=lambda f: -len(f.shards))
        if (
            not merged
            and round_ not in self.merging
            and self.certain
            and all(s.state == "published" for s in shards)
        ):
            self.finder = self.finder or Finder(self.run)
            log = self.finder.merge(round_).main
            if log is not None:
                found.append(Failure(last_words(log) or "ended without a word", "merge", [], str(log)))
        return found


def _own_seconds(started: float, at: float, calls: int, replayed: int) -> float:
    """Seconds that an attempt would have taken for everything it has, had it replayed nothing."""
    if at <= started or calls <= 0:
        return 0.0
    return (at - started) * (calls + replayed) / calls


def _published(shard: ShardDir) -> ShardStatus:
    m = read_json(shard.manifest)
    ledger = Ledger.from_dict(m["ledger"])
    tokens: dict[str, list[int]] = {}
    calls = 0
    for key, (n, prompt, completion) in m["tokens"].items():
        mine = tokens.setdefault(key.split()[0], [0, 0])
        mine[0] += prompt
        mine[1] += completion
        calls += n
    timings = m["timings"]
    last = m["attempts"][-1]
    return ShardStatus(
        shard.number,
        "published",
        ledger.planned,
        ledger.accepted,
        ledger.rejected_total,
        ledger.failed_total,
        calls=calls,
        attempts=len(m["attempts"]),
        host=m["host"],
        started=timings["started"],
        at=timings["ended"],
        seconds=_own_seconds(
            timings["started"], timings["ended"], last.get("calls", calls), last.get("replayed", 0)
        ),
        tokens=tokens,
    )


def _state(status: ShardStatus, beat: Heartbeat | None, task: Any, blind: bool) -> str:
    if task is not None:
        return "running" if task.running else "queued"
    if beat is None:
        return "waiting"
    if beat.ended:
        return "failed" if beat.phase == "failed" else "stopped"
    fresh = time.time() - status.at < STALE_S
    if beat.job and not blind:  # Slurm was asked and does not know it
        return "running" if fresh and not status.job else "stopped"
    return "running" if fresh and _alive(beat) else "stopped"


def _alive(beat: Heartbeat) -> bool:
    """Whether an attempt outside Slurm still runs; on another host only its heartbeat can tell."""
    import socket

    import psutil

    return beat.host != socket.gethostname() or bool(psutil.pid_exists(beat.pid))
