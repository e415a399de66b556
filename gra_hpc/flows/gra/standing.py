"""Standings of the members (`method.policy=performance`): how often each did a role well, and is to get it.

The paper leaves roles that follow performance to the future. Here the merge of a round counts: a Generator's sample
that was accepted and survived; a Reviewer whose own verdict is the Adjudicator's, or that of the other Reviewers.
From the counts follow shares, frozen with the next round's plan: a member's share of a role in a domain is the chance
that it is the best there (Thompson's rule, by draws from the posteriors), mixed with an even part that explores. A
share is a propensity: exact, and the same for every sample of a round, domain and role. Where counts differ no more
than chance makes them, shares are even.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gra_hpc.records import DOMAINS, digest

ROLES = ("generator", "reviewer")
"""Of which counts are kept; an Adjudicator is chosen as a Reviewer is."""
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

    @classmethod
    def of(
        cls, counts: Mapping[str, Mapping[str, Counts]], members: Sequence[str], explore: float, seed: object
    ) -> Standing:
        """Shares from counts.

        Args:
            counts: by role and domain.
            members: all members.
            explore: share of the draws that is even.
            seed: of the draws from the posteriors.
        """
        held = {r: {d: dict(c) for d, c in counts.get(r, {}).items()} for r in ROLES}
        shares = {}
        for role in ROLES:
            every = added(held[role].values())
            shares[role] = {
                d: _shares(held[role].get(d, {}), every, members, explore, digest(seed, role, d)) for d in DOMAINS
            }
        return cls(held, shares)

    def to_dict(self) -> dict[str, Any]:
        counts = {
            role: {d: {m: list(n) for m, n in c.items()} for d, c in by.items()} for role, by in self.counts.items()
        }
        return {"counts": counts, "shares": {r: {d: dict(s) for d, s in by.items()} for r, by in self.shares.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Standing:
        counts = {
            r: {d: {m: (float(n[0]), float(n[1])) for m, n in c.items()} for d, c in by.items()}
            for r, by in data["counts"].items()
        }
        return cls(counts, data["shares"])

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
