"""Who labels an item: members drawn by its id, the same in every attempt."""

from __future__ import annotations

import random
from collections.abc import Sequence

from gra_hpc.config.settings import MethodConfig, Policy
from gra_hpc.flows.annotate.label import Seat


def draw_seats(
    members: Sequence[str], annotators: int, method: MethodConfig, rng: random.Random
) -> tuple[list[Seat], str]:
    """The annotators of an item, and its Adjudicator.

    random: all different; where no member is left to adjudicate, one of the annotators does. fixed: `method.fixed`.

    Args:
        members: of the committee.
        annotators: how many are wanted; fewer where there are not so many.
        rng: seeded by the item.
    """
    names = list(members)
    rng.shuffle(names)
    chosen, rest = names[:annotators], names[annotators:]
    adjudicator = rest[0] if rest else rng.choice(chosen)
    if method.policy is Policy.fixed:
        chosen, adjudicator = list(method.fixed.reviewers), method.fixed.adjudicator
    turn = rng.randrange(2)
    return [Seat(name, swapped=i % 2 == turn) for i, name in enumerate(chosen)], adjudicator


def seat_shares(members: Sequence[str], annotators: int, method: MethodConfig) -> dict[str, dict[str, float]]:
    """Seats per item, by role and member."""
    if method.policy is Policy.fixed:
        return {"annotator": dict.fromkeys(method.fixed.reviewers, 1.0), "adjudicator": {method.fixed.adjudicator: 1.0}}
    share = min(annotators, len(members)) / len(members)
    return {"annotator": dict.fromkeys(members, share), "adjudicator": dict.fromkeys(members, 1 / len(members))}
