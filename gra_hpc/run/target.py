"""The rows that a run wants (`method.target_accepted`), and how many it lacks in the end."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from gra_hpc.terminal import counted


def not_needed(shards: int, of: int) -> str:
    """`4 of 12 shards were not needed`."""
    return f"{shards} of {counted(of, 'shard')} {'was' if shards == 1 else 'were'} not needed"


@dataclass(frozen=True)
class Target:
    """What merged rounds wanted, and what they kept."""

    wanted: int
    """Rows of these rounds together; 0: no number of rows is wanted."""
    kept: int
    """Rows."""

    @classmethod
    def of(cls, rounds: Iterable[tuple[int, int]]) -> Target:
        """Of rounds by rows wanted and rows kept.

        Late shards are merged with a later round, which then keeps more than its own: rounds count together.
        """
        both = list(rounds)
        return cls(sum(wanted for wanted, _ in both), sum(kept for _, kept in both))

    @property
    def short(self) -> int:
        """Rows that are missing."""
        return max(0, self.wanted - self.kept)

    def __str__(self) -> str:
        """`60: 37 short`, or `60: reached`."""
        return f"{self.wanted:,}: {f'{self.short:,} short' if self.short else 'reached'}"

    def advice(self, candidates: int) -> str:
        """What gets the rows that are missing; empty: none is, or nothing was kept to size a run by.

        Args:
            candidates: those that the rows were kept of.
        """
        if not self.short or not self.kept:
            return ""
        share = self.kept / max(candidates, self.kept)
        digits = 1 - math.floor(math.log10(share))  # two that count
        down = math.floor(share * 10**digits) / 10**digits
        return (
            f"{self.kept:,} of {candidates:,} candidates were kept: for more, plan a new run of the same settings with"
            f" method.expected_acceptance={down:.12g}, which makes enough of them"
        )
