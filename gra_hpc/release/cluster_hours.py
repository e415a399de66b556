"""What a run held of the cluster, lost attempts included: hours from start to last heartbeat, times GPUs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gra_hpc.release.inputs import Table


@dataclass(frozen=True)
class Allocation:
    """Sums over the attempts that the published shards saw.

    A lower bound: an attempt that died before its journal is not among them, nor is what lay between a last heartbeat
    and a death; nor are attempts at shards that are not published, nor the merges.
    """

    attempts: int
    unrecorded: int
    """Attempts without a heartbeat: nothing of them is in the hours."""
    hours: float
    """Wall time of the attempts, each on one node."""
    gpu_hours: float
    """The same times the GPUs that each attempt was given, used or not."""


def allocation(tables: Iterable[Table], gpus: int) -> Allocation:
    """Add up the attempts in the shards' manifests.

    Args:
        gpus: of an attempt whose heartbeat does not say.
    """
    attempts = unrecorded = 0
    hours, gpu_hours = [], []
    for table in tables:
        for record in table.manifest["attempts"]:
            attempts += 1
            seconds = _seconds(record, table)
            if seconds is None:
                unrecorded += 1
                continue
            held = record.get("gpus")
            hours.append(seconds / 3600)
            gpu_hours.append(seconds / 3600 * (gpus if held is None else held))
    return Allocation(attempts, unrecorded, round(math.fsum(hours), 4), round(math.fsum(gpu_hours), 4))


def _seconds(record: dict[str, Any], table: Table) -> float | None:
    """Wall time of an attempt. That which published went on after its last heartbeat, which is in its timings."""
    timings = table.manifest.get("timings") if record["attempt"] == table.attempt else None
    lasted = [said["seconds"] for said in (record, timings or {}) if said.get("seconds")]
    if lasted:
        return float(max(lasted))
    spans = [(record["started"], record["at"])] if record.get("started") and record.get("at") else []
    if timings:
        spans.append((timings["started"], timings["ended"]))
    if not spans:
        return None
    return max(0.0, max(end for _, end in spans) - min(start for start, _ in spans))
