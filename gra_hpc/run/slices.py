"""A shard's slice: which candidates it makes, with their roles and examples. A pure function of plan and pool."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from gra_hpc.config.settings import RunConfig
from gra_hpc.flows.gra.committee import draw_by_standing, draw_roles
from gra_hpc.flows.gra.standing import Shares, Standing
from gra_hpc.records import Record, Sample, digest, sample_id
from gra_hpc.run.plan import RoundPlan
from gra_hpc.sources.seeds import read_records


@dataclass
class Pool:
    """Seeds and accepted samples so far, by domain."""

    anchors: list[Record]
    """The seeds, in the plan's order."""
    by_domain: dict[str, list[Record]]

    @classmethod
    def read(cls, path: Path) -> Pool:
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
        return cls(anchors, by_domain)


@dataclass(frozen=True)
class Unit:
    """One candidate to make."""

    sample: Sample
    anchor: Record
    examples: tuple[Record, ...]


def slice_of(config: RunConfig, round_plan: RoundPlan, pool: Pool, shard: int) -> Iterator[Unit]:
    """The candidates of one shard: those anchored on every S-th seed."""
    if round_plan.round == 0:
        waiting = [s for s in pool.anchors if not s.described]
        for seed in waiting[shard :: round_plan.shards]:
            yield _unit(config, pool, 0, seed, 0)
        return
    shares = Standing.from_dict(round_plan.standing).shares if round_plan.standing else None
    for i in range(shard, len(pool.anchors), round_plan.shards):
        for index in range(round_plan.of_seed(i, len(pool.anchors))):
            yield _unit(config, pool, round_plan.round, pool.anchors[i], index, shares)


def _unit(config: RunConfig, pool: Pool, number: int, anchor: Record, index: int, shares: Shares | None = None) -> Unit:
    """Roles and examples are drawn from generators seeded by the sample's id: the same in every attempt."""
    id_ = sample_id(number, anchor.id, index)
    rng = random.Random(digest(config.method.seed, id_))
    models = {name: member.model for name, member in config.committee.items()}
    roles = (
        draw_by_standing(models, config.method, rng, shares, anchor.domain)
        if shares
        else draw_roles(list(models), config.method, rng, models)
    )
    examples = draw_examples(config, pool, anchor, rng) if number and anchor.described else ()
    sample = Sample(id_, number, anchor.id, index, anchor.domain, roles, examples=tuple(e.id for e in examples))
    return Unit(sample, anchor, examples)


def draw_examples(config: RunConfig, pool: Pool, anchor: Record, rng: random.Random) -> tuple[Record, ...]:
    """The anchor, and others of its domain from the whole pool; fewer where the domain has no more."""
    wanted = rng.randint(config.method.examples_min, config.method.examples_max) - 1
    domain = pool.by_domain.get(anchor.domain, [])
    others: list[Record] = []
    taken = {anchor.id}
    if len(domain) <= 64:
        picks = iter(rng.sample(domain, len(domain)))
    else:  # rejection sampling: no copy of a domain of millions
        picks = (domain[rng.randrange(len(domain))] for _ in range(64 * wanted))
    for pick in picks:
        if len(others) == wanted:
            break
        if pick.id not in taken:
            taken.add(pick.id)
            others.append(pick)
    return (anchor, *others)
