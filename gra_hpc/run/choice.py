"""Which shard a worker takes next: a pure rule over files, so that no lock crosses nodes.

An unpublished one at which no other attempt is at work, beginning at the worker's own place, so that workers rarely
meet. Two that choose the same lose time, never rows: both ask, one publishes.

An attempt is at work while its heartbeat is fresh, by the clock of the file system that it lies on; nodes' clocks
differ. One that lies in the future is fresh until it was seen to stand still.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from gra_hpc.owner import Owner, Sightings
from gra_hpc.run.attempts import Heartbeat, attempt_names, job_id, restart_count
from gra_hpc.run.directory import AttemptDir, RoundDir, ShardDir
from gra_hpc.run.publish import is_published

SILENT_BEATS, SILENT_S = 9, 30.0
"""An attempt that has missed so many heartbeats, and for so long, is not at work any more."""
SUSPECT, GIVEN_UP = 2, 3
"""Attempts at a shard that failed since the run was last submitted: from the first number on it goes last, and alone;
from the second on it is not tried any more. One that failed once goes behind those that did not."""


@dataclass(frozen=True)
class Choice:
    """A shard to take."""

    shard: int
    suspect: bool = False
    """It failed again and again, or what was open beside it did: it goes alone."""


class Chooser:
    """Chooses for one worker in one round.

    Args:
        round_: the round's directory.
        shards: how many it has.
        place: the shard to begin at.
        heartbeat_s: seconds between two heartbeats of an attempt.
        submissions: the directory whose newest file tells when the run was last submitted, if it ever was.
        unneeded: what says which shards are not needed, lately or, if so asked, now (`unneeded.Unneeded.known`).
    """

    def __init__(
        self,
        round_: RoundDir,
        shards: int,
        place: int,
        heartbeat_s: float,
        submissions: Path,
        unneeded: Callable[[bool], Collection[int]] = lambda _: (),
    ) -> None:
        self.round, self.shards, self.place, self.unneeded = round_, shards, place % max(1, shards), unneeded
        self.silent_s = max(SILENT_S, SILENT_BEATS * heartbeat_s)
        self.since = _submitted(submissions, self._now())
        self._published: set[int] = set()
        self._seen = Sightings()

    def next(self, held: Collection[int] = ()) -> Choice | None:
        """The next shard; none if nothing is left that nobody is at.

        Args:
            held: shards that are not to be chosen: those that the worker itself has open, or has given up.
        """
        now = self._now()
        unneeded = self.unneeded(False)
        choice = self._choice(held, unneeded, now)
        if choice is None and unneeded and (anew := self.unneeded(True)) != unneeded:
            choice = self._choice(held, anew, now)
        return choice

    def _choice(self, held: Collection[int], unneeded: Collection[int], now: float) -> Choice | None:
        found: dict[int, int] = {}
        for number in (*range(self.place, self.shards), *range(self.place)):
            if number in held or number in self._published or number in unneeded:
                continue
            shard = self.round.shard(number)
            if is_published(shard):
                self._published.add(number)
                continue
            failed, busy = self.look(shard, now)
            if busy or failed >= GIVEN_UP:
                continue
            if not failed:
                return Choice(number)
            found.setdefault(failed, number)
        return Choice(found[min(found)], min(found) >= SUSPECT) if found else None

    def first(self, mine: AttemptDir, shard: ShardDir) -> bool:
        """Whether an attempt that has just begun is the first of those that are at work: of two that chose the same
        shard in one moment the later one goes elsewhere."""
        now = self._now()
        names = attempt_names(shard)
        if mine.id not in names:  # cleared away by who has published the shard meanwhile
            return False
        return not any(self._at_work(shard.attempt(n), now) for n in names[: names.index(mine.id)])

    def look(self, shard: ShardDir, now: float = 0.0) -> tuple[int, bool]:
        """Attempts at a shard, or at a merge, that failed since the run was submitted, and whether one is at work."""
        now = now or self._now()
        failed, busy = 0, False
        for name in reversed(attempt_names(shard)):
            attempt = shard.attempt(name)
            beat = Heartbeat.read(attempt)
            if beat is not None and beat.phase == "failed" and _mtime(attempt.heartbeat) >= self.since:
                failed += 1
            busy = busy or self._at_work(attempt, now, beat)
        return failed, busy

    def _at_work(self, attempt: AttemptDir, now: float, beat: Heartbeat | None = None) -> bool:
        beat = beat or Heartbeat.read(attempt)
        if beat is None:  # made a moment ago, or its owner died at once
            return now - _mtime(attempt.path) < self.silent_s
        if (
            beat.ended
            or beat.phase in ("stopped", "already")
            or (beat.job and beat.job == job_id() and beat.restart < restart_count())
        ):
            return False
        owner = Owner.of(beat.owner)
        if owner is not None and (owner == Owner.me() or owner.alive() is False):
            return False
        still = self._seen.unchanged_s(attempt.heartbeat)
        return now - _mtime(attempt.heartbeat) < self.silent_s and still < self.silent_s

    def _now(self) -> float:
        """The file system's time: that of a directory which it was told to touch."""
        with contextlib.suppress(OSError):
            self.round.shards.mkdir(parents=True, exist_ok=True)
            os.utime(self.round.shards)
        return _mtime(self.round.shards)


def _submitted(directory: Path, now: float) -> float:
    """When a run was last submitted; now, if it never was, or later than that."""
    return min([now, *([max(times)] if (times := [_mtime(p) for p in directory.glob("*.json")]) else [])])


def _mtime(path: Path) -> float:
    """Unix time of the file system's clock at which something was written; 0 of what is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
