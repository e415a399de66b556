"""From files and Slurm's queue to the state of a shard, and the cause of what ended."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gra_hpc.launch.log_files import Finder
from gra_hpc.owner import Owner, Sightings
from gra_hpc.run.attempts import Heartbeat, attempt_names
from gra_hpc.run.directory import RunDir, ShardDir
from gra_hpc.run.merged import made_again
from gra_hpc.views.last_words import last_words
from gra_hpc.views.shard_status import Seen, ShardStatus, hold, own_seconds

SILENT_S = 90.0
"""An attempt on another node that Slurm does not know, and whose heartbeat was seen to stand still for so long, is
dead."""

LOGS_READ = 200
"""Logs of dead shards that are read for a cause, per look; the causes of the others are not named."""


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
class Queue:
    """Slurm's queue, as far as it concerns a run."""

    asked: bool = False
    """Slurm has answered: what it does not know is not alive there."""
    workers: dict[int, Counter[str]] = field(default_factory=dict)
    """By round: workers that are waiting, and that are running."""
    merging: dict[int, str] = field(default_factory=dict)
    """Rounds whose merge waits or runs."""
    tasks: dict[str, Any] = field(default_factory=dict)
    """All of the user's tasks by id, also those that plain sbatch submitted."""
    copy_of: str = ""
    """The run that this one is a copy of, and whose jobs wait or run; empty: none."""

    @classmethod
    def of(cls, run: RunDir, tasks: list[Any]) -> Queue:
        """What of the user's tasks concerns a run."""
        from gra_hpc.launch.submissions import match, original

        own = match(run, tasks)
        if not own and (of := original(run, tasks)):  # what the files say of jobs is said of that one's
            return cls(True, copy_of=of)
        out = cls(True, tasks={t.id: t for t in tasks if t.active})
        for job, task in own:
            for number in job.rounds if not task.hopeless else ():
                if job.kind == "merge":
                    out.merging[number] = "running" if task.running else "waiting"
                else:
                    out.workers.setdefault(number, Counter())["running" if task.running else "waiting"] += 1
        return out


@dataclass
class Judge:
    """From files and queue to states and causes."""

    run: RunDir
    queue: Queue
    sightings: Sightings
    finder: Finder | None = None
    read: int = 0

    def shard(self, round_: int, seen: Seen, units: int) -> ShardStatus:
        beat = seen.beat
        out = ShardStatus(seen.dir.number, "waiting", units, attempts=seen.attempts)
        if beat is not None:
            for key in (
                "accepted", "rejected", "failed", "calls", "replayed", "corrupt", "host", "job", "phase", "message",
                "started", "at", "tokens",
            ):  # fmt: skip
                setattr(out, key, getattr(beat, key))
            out.lasted = beat.seconds
            out.seconds = own_seconds(beat.seconds or beat.at - beat.started, beat.calls, beat.replayed)
            if beat.phase == "running" and not beat.calls:
                out.phase = "starting"  # until an engine has answered
            hold(out, [*seen.before, beat])
        if seen.before and (beat is None or beat.phase != "overtaken"):
            told = [b.done for b in seen.before if b.phase != "overtaken"]  # what it made rests on something else
            out.earlier = max(0, max(told, default=0) - out.done)
        if seen.damaged:
            out.state, out.message = "failed", f"{seen.damaged}: {made_again(seen.dir)}"
            return out
        out.state = self._state(beat, seen.heart, round_)
        if out.state in ("failed", "stopped", "waiting"):
            self._explain(out, round_, seen.dir, beat)
        return out

    def merges(self, merging: ShardDir) -> bool:
        """Whether a worker merges a round beside its engines."""
        names = attempt_names(merging)
        newest = merging.attempt(names[-1] if names else "")
        beat = Heartbeat.read(newest) if names else None
        return beat is not None and self._of_attempt(beat, newest.heartbeat) == "running"

    def _state(self, beat: Heartbeat | None, heart: Path, round_: int) -> str:
        state = "waiting" if beat is None else self._of_attempt(beat, heart)
        return "queued" if state in ("waiting", "stopped") and self.queue.workers.get(round_) else state

    def _of_attempt(self, beat: Heartbeat, heart: Path) -> str:
        task = self.queue.tasks.get(beat.job)
        if task is not None and not (beat.ended and task.running):  # else its worker is at another shard by now
            return "running" if task.running else "queued"
        if beat.ended:
            return "failed" if beat.phase == "failed" else "stopped"
        if beat.job and self.queue.asked:
            return "stopped"
        return "stopped" if self.sightings.dead(Owner.of(beat.owner), heart, SILENT_S) else "running"

    def _explain(self, out: ShardStatus, round_: int, shard: ShardDir, beat: Heartbeat | None) -> None:
        """Say from its log why a shard ended; also of a job that ended before its attempt began."""
        if out.state == "waiting" and not self.queue.asked:
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
            and round_ not in self.queue.merging
            and self.queue.asked
            and all(s.state in ("published", "unneeded") for s in shards)
        ):
            self.finder = self.finder or Finder(self.run)
            log = self.finder.merge(round_).main
            if log is not None:
                found.append(Failure(last_words(log, merge=True) or "ended without a word", "merge", [], str(log)))
        return found
