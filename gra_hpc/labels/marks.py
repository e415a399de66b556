"""What answers about records whose verdict is known say of who gave them."""

from __future__ import annotations

import math
from dataclasses import dataclass

FEW = 10
"""Fewer answers about records of one verdict say too little."""
_Z = 1.959964
"""Of a 95% interval."""


@dataclass
class Marks:
    """One Reviewer's answers to gold questions, counted."""

    kept: int = 0
    """Of the records to keep, those that it would keep."""
    to_keep: int = 0
    rejected: int = 0
    """Of the records to reject, those that it would reject."""
    to_reject: int = 0
    unanswered: int = 0

    def add(self, keep: bool, would: bool | None) -> None:
        """Count one answer.

        Args:
            keep: the known verdict.
            would: whether it would keep the record; none where it had no answer that can be used.
        """
        if would is None:
            self.unanswered += 1
        elif keep:
            self.to_keep += 1
            self.kept += would
        else:
            self.to_reject += 1
            self.rejected += not would

    @property
    def right(self) -> int:
        return self.kept + self.rejected

    @property
    def asked(self) -> int:
        """Questions with an answer."""
        return self.to_keep + self.to_reject

    @property
    def balanced(self) -> tuple[float, float, float] | None:
        """The mean of both shares that it is right about, and its interval: 0.5 is what chance gives, whatever it says
        more often. By two observations more on each side (Agresti and Caffo): 5 of 5 are not certain. None where
        nothing of one verdict was asked."""
        if not (self.to_keep and self.to_reject):
            return None
        shares = [(n + 1) / (of + 2) for n, of in ((self.kept, self.to_keep), (self.rejected, self.to_reject))]
        errors = [p * (1 - p) / (of + 2) for p, of in zip(shares, (self.to_keep, self.to_reject), strict=True)]
        value, error = sum(shares) / 2, math.sqrt(sum(errors)) / 2
        return value, max(0.0, value - _Z * error), min(1.0, value + _Z * error)

    @property
    def few(self) -> bool:
        """Whether too few answers are there to say anything."""
        return min(self.to_keep, self.to_reject) < FEW

    @property
    def at_chance(self) -> bool:
        """Whether it tells good from bad no better than chance, as far as its answers show."""
        found = self.balanced
        return found is not None and not self.few and found[1] <= 0.5


def share(right: int, asked: int) -> tuple[float, float, float]:
    """A share and its interval (Wilson 1927); of none the whole range."""
    if not asked:
        return 0.5, 0.0, 1.0
    p, z2 = right / asked, _Z * _Z
    middle = (p + z2 / (2 * asked)) / (1 + z2 / asked)
    spread = _Z * math.sqrt(p * (1 - p) / asked + z2 / (4 * asked * asked)) / (1 + z2 / asked)
    return p, max(0.0, middle - spread), min(1.0, middle + spread)
