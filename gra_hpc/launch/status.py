"""Where a run stands: files first, one look at Slurm's queue second."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from gra_hpc import presets
from gra_hpc.attempt import Heartbeat
from gra_hpc.errors import LaunchError
from gra_hpc.launch.rounds import rounds_of, shards_of
from gra_hpc.ledger import Ledger
from gra_hpc.plan import Plan, RoundPlan
from gra_hpc.rundir import RunDir, ShardDir
from gra_hpc.slices import planned
from gra_hpc.storage import read_json

STALE_S = 90.0
"""A heartbeat older than this, of an attempt that Slurm does not know, is from a dead one."""


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
    started: float = 0.0
    at: float = 0.0
    tokens: dict[str, list[int]] = field(default_factory=dict)

    @property
    def done(self) -> int:
        return self.accepted + self.rejected + self.failed


@dataclass
class RoundStatus:
    """One round."""

    round: int
    merged: bool
    shards: list[ShardStatus]
    ledger: Ledger

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
    trouble = ""
    if ask_slurm and any(run.submissions.glob("*.json")) and not (run.release / "manifest.json").exists():
        from gra_hpc.launch.submissions import live_tasks

        try:
            queued = live_tasks(run)
        except LaunchError as e:
            trouble = e.what
    rounds = []
    for number in rounds_of(plan, config.method.rounds):
        directory = run.round(number)
        if not directory.plan.is_file():
            continue
        round_plan = RoundPlan.load(directory)
        shards = [
            _shard(
                directory.shard(s), planned(round_plan, plan.seeds, s), queued.get((number, s)), bool(trouble)
            )
            for s in range(shards_of(plan, number))
        ]
        rounds.append(RoundStatus(number, directory.manifest.is_file(), shards, _ledger(shards)))
    release = str(run.release) if (run.release / "manifest.json").is_file() else ""
    return RunStatus(str(run.path), plan.fingerprint, rounds, release, trouble)


def _ledger(shards: list[ShardStatus]) -> Ledger:
    """Of the round so far; reasons are in the manifests."""
    return Ledger(
        planned=sum(s.planned for s in shards),
        accepted=sum(s.accepted for s in shards),
        rejected={"all": sum(s.rejected for s in shards)},
        failed={"all": sum(s.failed for s in shards)},
        pending=sum(s.planned - s.done for s in shards),
    )


def _shard(shard: ShardDir, units: int, task: Any, blind: bool) -> ShardStatus:
    if shard.manifest.is_file():
        m = read_json(shard.manifest)
        ledger = Ledger.from_dict(m["ledger"])
        tokens: dict[str, list[int]] = {}
        calls = 0
        for key, (n, prompt, completion) in m["tokens"].items():
            mine = tokens.setdefault(key.split()[0], [0, 0])
            mine[0] += prompt
            mine[1] += completion
            calls += n
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
            started=m["timings"]["started"],
            at=m["timings"]["ended"],
            tokens=tokens,
        )
    names = sorted(p.name for p in shard.attempts.iterdir()) if shard.attempts.is_dir() else []
    beat = Heartbeat.read(shard.attempt(names[-1])) if names else None
    out = ShardStatus(shard.number, "waiting", units, attempts=len(names))
    if beat is not None:
        for key in (
            "accepted", "rejected", "failed", "calls", "replayed", "host", "job", "phase", "message", "started",
            "at", "tokens",
        ):  # fmt: skip
            setattr(out, key, getattr(beat, key))
    out.state = _state(out, beat, task, blind)
    return out


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
