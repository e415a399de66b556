"""The committee: who does what for a sample, and what its scores decide (paper, sections 3.2 to 3.4)."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from gra_hpc.config.settings import MethodConfig, Policy, ReviewOrder, SelfReview
from gra_hpc.flows.gra.standing import Shares, pick
from gra_hpc.records import Review, Roles

HIGHEST = 10
"""The best score of a criterion, and so the best mean of a Reviewer."""


class Decision(Enum):
    """What the Reviewers' scores say."""

    accept = "accept"
    reject = "reject"
    adjudicate = "adjudicate"


@dataclass(frozen=True, slots=True)
class Consensus:
    """The Reviewers taken together."""

    mean: float
    """mu: mean over Reviewers of each one's mean score."""
    sd: float
    """Population standard deviation (ddof 0) over Reviewers."""
    decision: Decision


def draw_roles(
    members: Sequence[str], method: MethodConfig, rng: random.Random, models: Mapping[str, str] | None = None
) -> Roles:
    """Give the roles of one sample to committee members.

    `random` draws them disjoint. A committee too small for that has fewer Reviewers, never the Generator among
    them; where nobody is left to adjudicate, the Adjudicator is chosen after the reviews (`late_adjudicator`).

    Args:
        members: names of the committee's members, at least one.
        method: policy, number of Reviewers.
        rng: seeded by the sample's id, so that a sample has the same roles in every attempt.
        models: model of each member; left out: each is a model of its own.
    """
    names = list(members)
    if method.policy is Policy.single:
        one = method.fixed.generator or names[0]
        return Roles(one, (one,) * method.reviewers, one, one)
    if method.policy is Policy.fixed:
        f = method.fixed
        return Roles(f.generator, tuple(f.reviewers), f.adjudicator, rng.choice(names))
    rng.shuffle(names)
    generator, rest = names[0], names[1:]
    if not rest:
        return Roles(generator, (generator,), generator, generator)
    if method.self_review is SelfReview.avoid and models:
        rest = judges_of(generator, rest, models)
    reviewers = rest[: method.reviewers]
    left = rest[method.reviewers :]
    return Roles(generator, tuple(reviewers), left[0] if left else "", rng.choice(list(members)))


def draw_by_standing(
    models: Mapping[str, str],
    method: MethodConfig,
    rng: random.Random,
    shares: Shares,
    domain: str,
    strictest: Sequence[str] = (),
) -> Roles:
    """The roles of one sample where rounds before have shown what members can do (`standing.py`): drawn by their
    shares, disjoint; Generator, then Reviewers one by one, then the Adjudicator, as a Reviewer is.

    Args:
        models: model of each member.
        rng: seeded by the sample's id.
        shares: of the round.
        domain: the sample's.
        strictest: members, those first that say no most often: the seats of a bounded review follow it, so that it ends
            soonest; empty: as they were drawn.
    """
    names = list(models)
    generator = pick(names, shares["generator"].get(domain, {}), rng)
    left = [n for n in names if n != generator]
    if not left:
        return Roles(generator, (generator,), generator, generator)
    if method.self_review is SelfReview.avoid:
        left = judges_of(generator, left, models)
    seats: list[str] = []
    while left and len(seats) <= method.reviewers:
        seats.append(pick(left, shares["reviewer"].get(domain, {}), rng))
        left.remove(seats[-1])
    reviewers, rest = seats[: method.reviewers], seats[method.reviewers :]
    if strictest and method.review_order is ReviewOrder.bounded:
        reviewers.sort(key=list(strictest).index)
    return Roles(generator, tuple(reviewers), rest[0] if rest else "", rng.choice(names))


def judges_of(generator: str, others: Sequence[str], models: Mapping[str, str]) -> list[str]:
    """The members that may judge what one has written, in the given order: those of another model; all where there is
    none."""
    return [m for m in others if models[m] != models[generator]] or list(others)


def judges_itself(models: Mapping[str, str], method: MethodConfig) -> list[str]:
    """The models that judge, or may come to judge, what they have written.

    Args:
        models: model of each member.
    """
    if method.policy is Policy.single:
        return [models[method.fixed.generator or next(iter(models))]]
    if method.policy is Policy.fixed:
        writes = models[method.fixed.generator]
        return [writes] if writes in {models[m] for m in (*method.fixed.reviewers, method.fixed.adjudicator)} else []
    if method.self_review is SelfReview.avoid or len(models) == 1:
        return sorted(set(models.values())) if len(set(models.values())) == 1 else []
    return sorted(m for m, seats in Counter(models.values()).items() if seats > 1)


def consensus(reviews: Sequence[Review], method: MethodConfig) -> Consensus:
    """The decision rule: reject below the mean, adjudicate above the deviation, else accept.

    Both bounds are inclusive for acceptance: mean >= accept_mean passes, sd <= accept_sd agrees, and neither is missed
    by the last bits of floating point.
    """
    means = [r.mean for r in reviews]
    mean = math.fsum(means) / len(means)
    sd = math.sqrt(math.fsum((m - mean) ** 2 for m in means) / len(means))
    if not at_least(mean, method.accept_mean):
        decision = Decision.reject
    elif at_least(method.accept_sd, sd):
        decision = Decision.accept
    else:
        decision = Decision.adjudicate
    return Consensus(mean, sd, decision)


def highest_mean(means: Sequence[float], seats: int) -> float:
    """The largest mean over Reviewers that is possible once some of them have scored.

    Args:
        means: of those who have.
        seats: all Reviewers of the sample.
    """
    return math.fsum([*means, *[float(HIGHEST)] * (seats - len(means))]) / seats


def majority(reviews: Sequence[Review], method: MethodConfig) -> bool:
    """Whether more than half of the Reviewers score at least `accept_mean` (the paper's ablation)."""
    votes = sum(at_least(r.mean, method.accept_mean) for r in reviews)
    return 2 * votes > len(reviews)


def late_adjudicator(members: Sequence[str], roles: Roles, reviews: Sequence[Review]) -> str:
    """The Adjudicator of a committee without a member to spare.

    It is the member that neither generated nor disagreed most: the Reviewer nearest to the mean (first in seat order
    among equals); the lone Reviewer, or the Generator, where there is nobody else.
    """
    candidates = [r for r in reviews if r.member != roles.generator]
    if not candidates:
        return next((m for m in members if m != roles.generator), roles.generator)
    mean = math.fsum(r.mean for r in reviews) / len(reviews)
    return min(candidates, key=lambda r: abs(r.mean - mean)).member


def at_least(value: float, bound: float) -> bool:
    """`value >= bound`, forgiving the last bits of floating point."""
    return value >= bound or math.isclose(value, bound, rel_tol=0, abs_tol=1e-9)
