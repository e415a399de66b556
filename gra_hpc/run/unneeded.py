"""Shards that are not needed: once those that are published meet the round's target, no other is begun.

A pure rule over files, as the choice of a shard is (`choice.py`). Two that look in one moment may differ: then one more
shard is made. The merge writes down what it did without, and nobody decides that again; one that keeps too few rows
takes it back (`Merged.taken_back`): then the rule rests on what that merge has kept.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType

from gra_hpc.errors import GraError, ReleaseError
from gra_hpc.flows.registry import flow_of
from gra_hpc.run.attempts import attempt_names
from gra_hpc.run.directory import RoundDir
from gra_hpc.run.merged import Merged
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.publish import is_published
from gra_hpc.run.run import Run
from gra_hpc.run.shard_manifest import ShardManifest

UNMEASURED = 0.8
"""Share of accepted rows that a merge is taken to keep, until one of the run has shown it."""
Clock = Callable[[], float]
SPARE = 0.05
"""So much more than the target must be expected: the fuller the pool, the more of a round resembles it."""


class Unneeded:
    """Looks at one round, as often as it is asked: what is published is read once.

    Args:
        accepted: rows of published shards, as far as they are known.
        clock: seconds that never step.
    """

    def __init__(
        self, run: Run, number: int, accepted: Mapping[int, int] = MappingProxyType({}), clock: Clock = time.monotonic
    ) -> None:
        self.run, self.number, self._clock = run, number, clock
        self._accepted = dict(accepted)
        """Rows of published shards."""
        self._planned: dict[int, int] = {}
        """Candidates of shards that were begun."""
        self._known: frozenset[int] = frozenset()
        self._looked: float | None = None

    def known(self, anew: bool = False) -> frozenset[int]:
        """`shards`, for one who asks at every step: as files said at most a heartbeat ago, or `anew`. Where they cannot
        be read it stays as it was: rather one shard too many is made than a worker ends, and others speak of them."""
        now = self._clock()
        if anew or self._looked is None or now - self._looked >= self.run.config.launch.heartbeat_s:
            self._looked = now
            with contextlib.suppress(OSError, GraError):
                self._known = self.shards()
        return self._known

    def shards(self) -> frozenset[int]:
        """Those of the round's shards that are not needed: nobody has begun them, and the target is met without.

        None where the setting is off, also of those that a merge did without: turned off later, it has them made after
        all. No file is read then. Where the shards are another run's, which decides them again, it is as it was there.

        Raises:
            GraError: the round is not planned, or its merge cannot be read.
            OSError: so does the file system say.
        """
        if of := self.run.plan.decided:
            return frozenset(of.get("unneeded", {}).get(str(self.number), ()))
        if not self.run.config.launch.stop_at_target or not self.number or not self._plan.target:
            return frozenset()
        round_ = self.run.round(self.number)
        merged = Merged.load(round_)
        if merged and merged.complete:
            return merged.unneeded
        if not stops(self.run):
            return frozenset()
        shards = range(self.run.shards_of(self.number))
        begun = _begun(round_, len(shards))
        self._planned |= {s: self._plan.of_shard(s, self.run.plan.seeds) for s in begun if s not in self._planned}
        if not self._is_met(merged, self._planned):  # nor by fewer
            return frozenset()
        under_way = {s for s in begun if s not in self._accepted and not is_published(round_.shard(s))}
        for s in begun.difference(under_way, self._accepted):
            with contextlib.suppress(ReleaseError):  # none of one that cannot be read: the merge says so
                self._accepted[s] = ShardManifest.load(round_.shard(s)).ledger.accepted
        if not self._is_met(merged, self._accepted):
            return frozenset()
        left = under_way.difference(s for s in under_way if attempt_names(round_.shard(s)))
        return frozenset(shards).difference(begun - left, self._accepted)

    @cached_property
    def _plan(self) -> RoundPlan:
        return RoundPlan.load(self.run.round(self.number))

    def _is_met(self, merged: Merged | None, rows: Mapping[int, int]) -> bool:
        """Whether enough rows are to be expected of some shards.

        Args:
            merged: what the round's merge has taken in so far, if there is one: it has kept too few.
            rows: accepted ones, by shard.
        """
        wanted, kept, held = self._plan.target, 0, frozenset[tuple[int, int]]()
        if merged:
            wanted = (merged.manifest.get("target") or {}).get("wanted", wanted)
            kept, held = _survived(merged), merged.shards
        more = sum(n for s, n in rows.items() if (self.number, s) not in held)
        return more > 0 and kept + more * (_share([merged]) if merged else self._before) >= (1 + SPARE) * wanted

    @cached_property
    def _before(self) -> float:
        """The share that the merges of the rounds before have kept."""
        return _share([m for n in range(1, self.number) if (m := Merged.load(self.run.round(n)))])


def stops(run: Run) -> bool:
    """Whether a run's rounds stop when their target is met: not where a release of some shards is asked for anyway, nor
    where the next round works on what one leaves of every seed, nor where the shards are another run's."""
    config = run.config
    if not config.launch.stop_at_target or config.merge.allow_partial or run.plan.decided:
        return False
    return flow_of(config).forwards(config) is None


def _begun(round_: RoundDir, shards: int) -> frozenset[int]:
    """Shards that have a directory: one listing, instead of a look at each."""
    try:
        with os.scandir(round_.shards) as entries:
            names = {entry.name for entry in entries}
    except FileNotFoundError:
        return frozenset()
    return frozenset(s for s in range(shards) if round_.shard_name(s) in names)


def _share(merges: Sequence[Merged]) -> float:
    """Of accepted rows, those that survive a merge, as some have shown it."""
    accepted = sum(m.manifest["counts"]["accepted"] for m in merges)
    return sum(map(_survived, merges)) / accepted if accepted else UNMEASURED


def _survived(merged: Merged) -> int:
    """Rows that a merge kept, and those that were beyond the target."""
    counts = merged.manifest["counts"]
    return int(counts["kept"] + counts["dropped"].get("surplus", 0))
