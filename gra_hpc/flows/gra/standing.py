"""Standings of the members (`method.policy=performance`): how often each did a role well, and is to get it.

The paper leaves roles that follow performance to the future. Here the merge of a round counts: a Generator's sample
that was accepted and survived; a Reviewer whose own verdict is the Adjudicator's, or that of the other Reviewers.
Where Reviewers differ in their answers to gold questions, whose verdicts are known, these alone count of them.
From the counts follow shares, frozen with the next round's plan: a member's share of a role in a domain is the chance
that it is the best there (Thompson's rule, by draws from the posteriors), mixed with an even part that explores. A
share is a propensity: exact, and the same for every sample of a round, domain and role. Where counts differ no more
than chance makes them, shares are even.

The strictest of a sample's Reviewers has the first seat where they are asked one after another: a bounded review then
ends soonest.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gra_hpc.records import DOMAINS, digest

ROLES = ("generator", "reviewer")
"""Of which counts are kept; an Adjudicator is chosen as a Reviewer is."""
GOLD, REFUSAL = "gold", "refusal"
"""Of which counts are kept beside: right answers to gold questions (under no domain: those of questions of none), and
how often a member says no in the first seat, whose question never depends on what others have said."""
PRIOR = 4.0
"""Observations that the pool's own rate stands for, of a member without any."""
DRAWS = 2000
_Z = 1.645
"""Of the 95th percentile of a normal distribution."""
CONCENTRATED = 0.6
"""A member that generates more than this share is warned of: the paper's fixed roles were its worst ablation."""

Counts = dict[str, tuple[float, float]]
"""Successes and trials by member."""
Shares = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By role, domain and member; a domain's add up to 1."""


@dataclass(frozen=True)
class Standing:
    """Counts up to a round, and shares in it."""

    counts: dict[str, dict[str, Counts]]
    """By role and domain."""
    shares: Shares
    strictest: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Members by domain, those first that say no most often; of a domain where they differ by no more than chance,
    none."""

    @classmethod
    def of(
        cls,
        counts: Mapping[str, Mapping[str, Counts]],
        members: Sequence[str],
        explore: float,
        seed: object,
        domains: Sequence[str] = DOMAINS,
    ) -> Standing:
        """Shares from counts.

        Args:
            counts: by role and domain.
            members: all members.
            explore: share of the draws that is even.
            seed: of the draws from the posteriors.
            domains: the method's.
        """
        beside = [r for r in (GOLD, REFUSAL) if counts.get(r)]
        held = {r: {d: dict(c) for d, c in counts.get(r, {}).items()} for r in (*ROLES, *beside)}
        shares = {}
        for role in ROLES:
            by = held[role] if role != "reviewer" else _reviewing(held)
            every = added(by.values())
            shares[role] = {d: _shares(by.get(d, {}), every, members, explore, digest(seed, role, d)) for d in domains}
        refusals = held.get(REFUSAL, {})
        every = added(refusals.values())
        order = {d: _strictest(refusals.get(d, {}), every, members) for d in domains}
        return cls(held, shares, {d: found for d, found in order.items() if found})

    def to_dict(self) -> dict[str, Any]:
        counts = {
            role: {d: {m: list(n) for m, n in c.items()} for d, c in by.items()} for role, by in self.counts.items()
        }
        shares = {r: {d: dict(s) for d, s in by.items()} for r, by in self.shares.items()}
        order = {d: list(members) for d, members in self.strictest.items()}
        return {"counts": counts, "shares": shares} | ({"strictest": order} if order else {})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Standing:
        counts = {
            r: {d: {m: (float(n[0]), float(n[1])) for m, n in c.items()} for d, c in by.items()}
            for r, by in data["counts"].items()
        }
        return cls(counts, data["shares"], data.get("strictest", {}))

    def generated(self) -> dict[str, float]:
        """The share of samples that each member is to generate, over domains as they occurred so far."""
        weight = {d: sum(n for _, n in c.values()) for d, c in self.counts["generator"].items()}
        total = sum(weight.values()) or 1.0
        out: dict[str, float] = {}
        for d, w in weight.items():
            for member, share in self.shares["generator"].get(d, {}).items():
                out[member] = out.get(member, 0.0) + share * w / total
        return out

    def concentrated(self) -> list[tuple[str, float]]:
        """Members that are to generate more than `CONCENTRATED`, and how much."""
        return [(member, share) for member, share in self.generated().items() if share > CONCENTRATED]


def added(parts: Iterable[Counts]) -> Counts:
    """Counts of several domains or rounds, together."""
    out: Counts = {}
    for part in parts:
        for member, (good, trials) in part.items():
            a, b = out.get(member, (0.0, 0.0))
            out[member] = (a + good, b + trials)
    return out


def differ(counts: Counts) -> bool:
    """Whether members' rates differ more than chance makes them: chi-square of homogeneity, at 5%."""
    known = [(g, n) for g, n in counts.values() if n > 0]
    good, trials = sum(g for g, _ in known), sum(n for _, n in known)
    if len(known) < 2 or not 0 < good < trials:
        return False
    rate, free = good / trials, len(known) - 1
    statistic = sum((g - n * rate) ** 2 / (n * rate * (1 - rate)) for g, n in known)
    return statistic > free * (1 - 2 / (9 * free) + _Z * math.sqrt(2 / (9 * free))) ** 3  # Wilson and Hilferty


def _reviewing(held: Mapping[str, Mapping[str, Counts]]) -> dict[str, Counts]:
    """What is known of the Reviewers, by domain: their answers to gold questions, where they differ in these by more
    than chance, for whoever agrees with others may be wrong with them; else all that was counted."""
    agreed, gold = held["reviewer"], held.get(GOLD, {})
    if differ(added(gold.values())):
        return dict(gold)
    return {d: added([agreed.get(d, {}), gold.get(d, {})]) for d in dict.fromkeys([*agreed, *gold])}


def _strictest(domain: Counts, every: Counts, members: Sequence[str]) -> list[str]:
    """Members by how often they say no, the most often first; none where they do not differ."""
    counts = domain if differ(domain) else every
    if not differ(counts):
        return []
    good, trials = sum(g for g, _ in counts.values()), sum(n for _, n in counts.values())

    def rate(member: str) -> float:
        g, n = counts.get(member, (0.0, 0.0))
        return (g + PRIOR * good / trials) / (n + PRIOR)

    return sorted(members, key=lambda m: -rate(m))


def _shares(domain: Counts, every: Counts, members: Sequence[str], explore: float, seed: str) -> dict[str, float]:
    """Of one role in one domain: by the domain's counts where they differ, else by all, else even."""
    even = dict.fromkeys(members, 1 / len(members))
    counts = domain if differ(domain) else every
    if not differ(counts):
        return even
    best = chance_of_best(counts, members, seed)
    return {m: (1 - explore) * best[m] + explore * even[m] for m in members}


def chance_of_best(counts: Counts, members: Sequence[str], seed: str) -> dict[str, float]:
    """How often each member's rate is the highest, drawn from Beta posteriors around the pool's rate."""
    good, trials = sum(g for g, _ in counts.values()), sum(n for _, n in counts.values())
    rate = (good + 1) / (trials + 2)
    rng, wins = random.Random(seed), dict.fromkeys(members, 0)
    posteriors = []
    for member in members:
        g, n = counts.get(member, (0.0, 0.0))
        posteriors.append((member, PRIOR * rate + g, PRIOR * (1 - rate) + n - g))
    for _ in range(DRAWS):
        wins[max((rng.betavariate(a, b), m) for m, a, b in posteriors)[1]] += 1
    return {m: n / DRAWS for m, n in wins.items()}


def pick(names: Sequence[str], weights: Mapping[str, float], rng: random.Random) -> str:
    """One of some members, in proportion to their weights; evenly where none is known."""
    mine = [weights.get(n, 0.0) for n in names]
    return rng.choices(names, mine if sum(mine) > 0 else None)[0]
