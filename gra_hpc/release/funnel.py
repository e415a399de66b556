"""The funnel: how many candidates entered each stage, what each stage took, what is left in the release."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gra_hpc.flows.registry import Stage
from gra_hpc.run.ledger import Ledger

STEPS = {
    "forwarded": "Not left to the next round",
    "contaminated": "Not in a benchmark",
    "exact": "Not an exact duplicate",
    "fuzzy": "Not a near-duplicate",
    "semantic": "Not a semantic duplicate",
    "surplus": "Among the best, up to the target",
}
"""Steps of the merge in their order."""


@dataclass(frozen=True)
class Row:
    """One stage."""

    stage: str
    label: str
    entered: int
    rejected: int
    failed: int
    dropped: int
    passed: int


def funnel(
    ledger: Ledger, dropped: Mapping[str, int], stages: Sequence[Stage], method: Mapping[str, Any], steps: Iterable[str]
) -> list[dict[str, Any]]:
    """Rows of the funnel, from finished candidates to released rows.

    Args:
        ledger: of the method; what is pending never entered.
        dropped: rows by step of the merge.
        stages: stages of the run's flow, in their order.
        method: settings of the run, by which a stage is on; one that took something is shown in any case.
        steps: steps of the run's merge; likewise.
    """
    rejected, failed = by_stage(ledger.rejected), by_stage(ledger.failed)
    left = ledger.planned - ledger.pending
    rows = []
    labels = {s.name: s.passed for s in stages}
    shown = {*(s.name for s in stages if s.on(method)), *rejected, *failed}
    for stage in [*(s for s in labels if s in shown), *sorted(shown - set(labels))]:
        r, f = rejected.get(stage, 0), failed.get(stage, 0)
        rows.append(Row(stage, labels.get(stage, stage), left, r, f, 0, left - r - f))
        left -= r + f
    taken = {s for s, n in dropped.items() if n} | {*steps}
    for step in [*(s for s in STEPS if s in taken), *sorted(taken - set(STEPS))]:
        n = dropped.get(step, 0)
        rows.append(Row(step, STEPS.get(step, step), left, 0, 0, n, left - n))
        left -= n
    return [asdict(r) for r in rows]


def by_stage(counts: Mapping[str, int]) -> dict[str, int]:
    """A ledger's `stage: reason` counts, by stage."""
    out: dict[str, int] = {}
    for key, n in counts.items():
        stage = key.split(":", 1)[0]
        out[stage] = out.get(stage, 0) + n
    return out
