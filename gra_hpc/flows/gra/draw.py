"""What a candidate is given: its roles, and the examples that the Generator is shown."""

from __future__ import annotations

import random

from gra_hpc.config.settings import MethodConfig
from gra_hpc.flows.gra.committee import draw_by_standing, draw_roles
from gra_hpc.flows.gra.standing import Standing
from gra_hpc.flows.units import Draw, Drawn, Pool, Unit
from gra_hpc.records import Record, Roles, Sample


def draw(of: Draw) -> Drawn:
    """Roles first, then examples, from one generator of random numbers: the order is part of what a seed means."""
    models = {name: member.model for name, member in of.config.committee.items()}
    standing = Standing.from_dict(dict(of.standing)) if of.standing else None

    even = 1 / len(models) if of.config.method.policy.drawn else 1.0

    def roles(domain: str, rng: random.Random) -> tuple[Roles, float]:
        if standing:
            first = standing.strictest.get(domain, ())
            of_it = draw_by_standing(models, of.config.method, rng, standing.shares, domain, first)
            return of_it, standing.shares["generator"].get(domain, {}).get(of_it.generator, even)
        return draw_roles(list(models), of.config.method, rng, models), even

    def drawn(id_: str, anchor: Record, index: int, rng: random.Random) -> Unit:
        return _unit(of, id_, anchor, index, *roles(anchor.domain, rng), rng)

    return drawn


def draw_nobody(of: Draw) -> Drawn:
    """The same without roles."""

    def drawn(id_: str, anchor: Record, index: int, rng: random.Random) -> Unit:
        return _unit(of, id_, anchor, index, Roles("", (), "", ""), 1.0, rng)

    return drawn


def _unit(of: Draw, id_: str, anchor: Record, index: int, roles: Roles, propensity: float, rng: random.Random) -> Unit:
    with_examples = of.round and anchor.described
    examples = draw_examples(of.config.method, of.pool, anchor, rng) if with_examples else ()
    sample = Sample(id_, of.round, anchor.id, index, anchor.domain, roles, examples=tuple(e.id for e in examples))
    sample.propensity = propensity
    return Unit(sample, anchor, examples)


def draw_examples(method: MethodConfig, pool: Pool, anchor: Record, rng: random.Random) -> tuple[Record, ...]:
    """The anchor, and others of its domain from the whole pool; fewer where the domain has no more."""
    wanted = rng.randint(method.examples_min, method.examples_max) - 1
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
