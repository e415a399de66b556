"""What one round of faults has found, and the table of all of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

COLUMNS = (
    "fault", "rounds", "calls answered", "calls lost", "calls asked again", "destroyed by the fault itself", "rows",
    "rows lost", "rows duplicated", "rows changed", "seconds to recover (median, longest)",
)  # fmt: skip


@dataclass
class Round:
    """What one round found."""

    kind: str
    calls: int = 0
    """Answered calls in the shard's table; 0 for a merge."""
    lost: int = 0
    reasked: int = 0
    destroyed: int = 0
    """Answered calls that the fault itself took from the disk (a torn or corrupt line)."""
    rows: int = 0
    rows_lost: int = 0
    rows_duplicated: int = 0
    rows_changed: int = 0
    recovery_s: float = 0.0
    """Seconds from the start of the next process to its end: with Python's own start."""


def table(results: Sequence[Round]) -> Iterator[str]:
    """Markdown: a line per kind of fault, and the sum."""
    yield f"| {' | '.join(COLUMNS)} |"
    yield f"|---|{'---:|' * (len(COLUMNS) - 1)}"
    groups = {k: [r for r in results if r.kind == k] for k in dict.fromkeys(r.kind for r in results)}
    for kind, rounds in [*sorted(groups.items()), ("**all**", list(results))]:
        total = [
            sum(getattr(r, name) for r in rounds)
            for name in (
                "calls", "lost", "reasked", "destroyed", "rows", "rows_lost", "rows_duplicated", "rows_changed",
            )
        ]  # fmt: skip
        times = [r.recovery_s for r in rounds]
        spread = f"{statistics.median(times):.1f}, {max(times):.1f}"
        yield f"| {kind} | {len(rounds)} | {' | '.join(str(n) for n in total)} | {spread} |"


def failed(results: Sequence[Round]) -> bool:
    """Whether any figure that must be zero is not."""
    return any(r.lost or r.reasked or r.rows_lost or r.rows_duplicated or r.rows_changed for r in results)
