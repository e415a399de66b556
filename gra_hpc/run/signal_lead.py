"""The signal lead: how long before a time limit a shard must stop asking, from how long its calls take."""

from __future__ import annotations

import math
from itertools import islice

from gra_hpc.config.settings import RunConfig
from gra_hpc.errors import StorageError
from gra_hpc.foreign import fits
from gra_hpc.run.attempts import Heartbeat
from gra_hpc.run.directory import RunDir, ShardDir
from gra_hpc.storage import read_json

MARGIN_S = 20
"""Of the lead, this is kept for flushing the journal, stopping the engines and requeueing."""
SLACK = 1.25
"""Calls may take this much longer than the slowest seen."""
SHARDS_READ = 200
"""So many shards are enough to know how long calls take."""


def grace_s(lead_s: float) -> float:
    """Seconds that calls in flight get when the signal comes."""
    return max(5.0, lead_s - MARGIN_S)


def slowest_call(run: RunDir) -> float:
    """Longest call that the attempts so far have reported, in seconds; 0: none has."""
    shards = sorted(run.path.glob("rounds/*/shards/*"), reverse=True)  # the latest round, and what is begun last in it
    return max((_of_shard(ShardDir(p, 0)) for p in islice(shards, SHARDS_READ)), default=0.0)


def _of_shard(shard: ShardDir) -> float:
    found = [0.0]
    if shard.attempts.is_dir():
        beats = (Heartbeat.read(shard.attempt(p.name)) for p in shard.attempts.iterdir())
        found += [b.slowest_call_s for b in beats if b]
    try:
        said = [a.get("slowest_call_s", 0.0) for a in read_json(shard.manifest)["attempts"]]
    except (OSError, StorageError, LookupError, TypeError, AttributeError):
        return max(found)
    return max(found + [s for s in said if fits(s, float)])


def lead_for(config: RunConfig, slowest_s: float) -> tuple[int, str]:
    """The lead to use, and what to tell the user about it (empty: nothing).

    It is never lowered, and never above a fifth of the time limit: beyond that submitit takes a time limit for a
    preemption.
    """
    site = config.site
    most = 12 * site.time_minutes
    needed = math.ceil((SLACK * slowest_s + MARGIN_S) / 10) * 10
    if not slowest_s or needed <= site.signal_lead_s:
        return site.signal_lead_s, ""
    if needed <= most:
        return needed, (
            f"site.signal_lead_s raised from {site.signal_lead_s} to {needed}: a call took {slowest_s:.0f} s"
        )
    return max(most, site.signal_lead_s), (
        f"calls took up to {slowest_s:.0f} s, and only a fifth of the time limit ({most} s) may be left for them at its"
        f" end: those in flight then are asked again; site.time_minutes={math.ceil(needed / 12)} would leave enough"
    )
