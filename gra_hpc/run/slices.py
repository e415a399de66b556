"""A shard's slice: which candidates it makes, with what they are given. A pure function of plan and pool."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from gra_hpc.config.settings import RunConfig
from gra_hpc.flows.registry import flow_of
from gra_hpc.flows.units import Draw, Embed, Pool, Unit
from gra_hpc.records import Record, digest, sample_id
from gra_hpc.run.plan import RoundPlan
from gra_hpc.sources.seeds import read_records


def read_pool(path: Path) -> Pool:
    """The table that a round draws from (`merged.pool_of`)."""
    anchors: list[Record] = []
    by_domain: dict[str, list[Record]] = {}
    for r in read_records(path):
        if r.round == 0:
            anchors.append(r)
        else:  # an example only: its keywords and summary are shown, its texts would fill a node's memory
            r = replace(r, instruction="", response="", context="")
        if r.described:
            by_domain.setdefault(r.domain, []).append(r)
    return Pool(anchors, by_domain)


def slice_of(
    config: RunConfig, round_plan: RoundPlan, pool: Pool, shard: int, embed: Embed | None = None
) -> Iterator[Unit]:
    """The candidates of one shard: those anchored on every S-th seed.

    Args:
        embed: for flows that compare texts; none: nothing is to be computed.
    """
    number = round_plan.round
    seeds = len(pool.anchors)
    anchors = pool.anchors[shard :: round_plan.shards]
    if round_plan.only:
        anchors = [pool.anchors[i] for i in range(shard, seeds, round_plan.shards) if round_plan.of_seed(i, seeds)]
    drawn = flow_of(config).draw(Draw(config, pool, number, round_plan.standing, anchors, embed))

    def unit(anchor: Record, index: int) -> Unit:
        id_ = sample_id(number, anchor.id, index)
        return drawn(id_, anchor, index, random.Random(digest(config.method.seed, id_)))

    if number == 0:
        waiting = [s for s in pool.anchors if not s.described]
        for seed in waiting[shard :: round_plan.shards]:
            yield unit(seed, 0)
        return
    for i in range(shard, seeds, round_plan.shards):
        for index in range(round_plan.of_seed(i, seeds)):
            yield unit(pool.anchors[i], index)
