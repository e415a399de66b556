"""The ledger: planned = accepted + rejected + failed + pending, for a shard, a round, a run. Nothing vanishes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gra_hpc.errors import StorageError
from gra_hpc.records import ACCEPTED, FAILED, REJECTED


@dataclass
class Ledger:
    """Counts of samples by what became of them."""

    planned: int = 0
    accepted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    """By `stage: reason`."""
    failed: dict[str, int] = field(default_factory=dict)
    """By `stage: cause`."""
    pending: int = 0

    @classmethod
    def of(cls, planned: int, outcomes: Iterable[tuple[str, str, str]]) -> Ledger:
        """Count `(status, stage, reason)` of finished samples against the plan; the rest is pending."""
        ledger = cls(planned=planned, pending=planned)
        for status, stage, reason in outcomes:
            ledger.add(status, stage, reason)
        return ledger

    def add(self, status: str, stage: str, reason: str) -> None:
        """Move one sample from pending to where it ended."""
        self.pending -= 1
        if status == ACCEPTED:
            self.accepted += 1
            return
        side = {REJECTED: self.rejected, FAILED: self.failed}[status]
        key = f"{stage}: {reason}"
        side[key] = side.get(key, 0) + 1

    def __add__(self, other: Ledger) -> Ledger:
        total = Ledger(
            self.planned + other.planned,
            self.accepted + other.accepted,
            dict(self.rejected),
            dict(self.failed),
            self.pending + other.pending,
        )
        for mine, theirs in ((total.rejected, other.rejected), (total.failed, other.failed)):
            for key, n in theirs.items():
                mine[key] = mine.get(key, 0) + n
        return total

    @property
    def rejected_total(self) -> int:
        return sum(self.rejected.values())

    @property
    def failed_total(self) -> int:
        return sum(self.failed.values())

    def check(self, where: str) -> None:
        """Raise if the books do not balance.

        Raises:
            StorageError: naming where, with all figures.
        """
        total = self.accepted + self.rejected_total + self.failed_total + self.pending
        if self.planned != total or self.pending < 0:
            raise StorageError(f"{where}: the ledger does not balance: {self.line()}")

    def line(self) -> str:
        """One line for people."""
        return (
            f"planned {self.planned} = accepted {self.accepted} + rejected {self.rejected_total}"
            f" + failed {self.failed_total} + pending {self.pending}"
        )

    def causes(self) -> list[tuple[str, int]]:
        """Why samples were rejected or failed, the most frequent first."""
        return sorted((self.rejected | self.failed).items(), key=lambda pair: -pair[1])

    @property
    def to_inspect(self) -> str:
        """What to give `gra inspect` so that it finds a sample: nothing, where one was accepted."""
        if self.accepted or not self.rejected_total + self.failed_total:
            return ""
        return f" --status {REJECTED if self.rejected_total else FAILED}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "planned": self.planned,
            "accepted": self.accepted,
            "rejected": dict(sorted(self.rejected.items())),
            "failed": dict(sorted(self.failed.items())),
            "pending": self.pending,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Ledger:
        return cls(data["planned"], data["accepted"], dict(data["rejected"]), dict(data["failed"]), data["pending"])
