"""Shards that are not needed: once those that are published meet the round's target, no other is begun.

A pure rule over files, as the choice of a shard is (`choice.py`). Two that look in one moment may differ: then one more
shard is made. The merge writes down what it did without, and nobody decides that again; one that keeps too few rows
takes it back (`Merged.taken_back`): then the rule rests on what that merge has kept.
"""

from __future__ import annotations

from functools import cached_property

from gra_hpc.errors import ReleaseError
from gra_hpc.flows.registry import flow_of
from gra_hpc.run.attempts import attempt_names
from gra_hpc.run.merged import Merged
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.publish import is_published
from gra_hpc.run.run import Run
from gra_hpc.run.shard_manifest import ShardManifest

UNMEASURED = 0.8
"""Share of accepted rows that a merge is taken to keep, until one of the run has shown it."""
SPARE = 0.05
"""So much more than the target must be expected: the fuller the pool, the more of a round resembles it."""


class Unneeded:
    """Looks at one round, as often as it is asked: what is published is read once."""

    def __init__(self, run: Run, number: int) -> None:
        self.run, self.number = run, number
        self._accepted: dict[int, int] = {}
        """Rows of published shards."""

    def shards(self) -> frozenset[int]:
        """Those of the round's shards that are not needed: nobody has begun them, and the target is met without.

        Raises:
            GraError: the round is not planned, or its merge cannot be read.
        """
        if not self._target:
            return frozenset()
        merged = Merged.load(self.run.round(self.number))
        if merged and merged.complete:
            return merged.unneeded
        if not self._stops:
            return frozenset()
        round_ = self.run.round(self.number)
        shards = range(self.run.shards_of(self.number))
        unpublished = [s for s in shards if s not in self._accepted and not is_published(round_.shard(s))]
        for s in set(shards).difference(unpublished, self._accepted):
            self._accepted[s] = self._rows(s)
        if not self._is_met(merged):
            return frozenset()
        return frozenset(s for s in unpublished if not attempt_names(round_.shard(s)))

    @cached_property
    def _target(self) -> int:
        """Rows that the round is to keep; 0: all that survive."""
        return RoundPlan.load(self.run.round(self.number)).target if self.number else 0

    @cached_property
    def _stops(self) -> bool:
        return stops(self.run)

    def _is_met(self, merged: Merged | None) -> bool:
        """Whether enough rows are to be expected of the published shards.

        Args:
            merged: what the round's merge has taken in so far, if there is one: it has kept too few.
        """
        wanted, kept, held = self._target, 0, frozenset[tuple[int, int]]()
        if merged:
            wanted = (merged.manifest.get("target") or {}).get("wanted", wanted)
            kept, held = _survived(merged), merged.shards
        more = sum(n for s, n in self._accepted.items() if (self.number, s) not in held)
        return more > 0 and kept + more * self._share(merged) >= (1 + SPARE) * wanted

    def _share(self, merged: Merged | None) -> float:
        """Of accepted rows, those that survive a merge: as this round's has shown it, or those before it have."""
        rounds = (Merged.load(self.run.round(n)) for n in range(1, self.number))
        merges = [merged] if merged else [m for m in rounds if m]
        accepted = sum(m.manifest["counts"]["accepted"] for m in merges)
        return sum(map(_survived, merges)) / accepted if accepted else UNMEASURED

    def _rows(self, shard: int) -> int:
        """Accepted rows of a published shard; none of one that cannot be read: the merge says so."""
        try:
            return ShardManifest.load(self.run.round(self.number).shard(shard)).ledger.accepted
        except ReleaseError:
            return 0


def stops(run: Run) -> bool:
    """Whether a run's rounds stop when their target is met: not where a release of some shards is asked for anyway, nor
    where the next round works on what one leaves of every seed, nor where the shards are another run's."""
    config = run.config
    if not config.launch.stop_at_target or config.merge.allow_partial or run.plan.decided:
        return False
    return flow_of(config).forwards(config) is None


def _survived(merged: Merged) -> int:
    """Rows that a merge kept, and those that were beyond the target."""
    counts = merged.manifest["counts"]
    return int(counts["kept"] + counts["dropped"].get("surplus", 0))
