"""What a plan says of models that judge their own writing."""

from __future__ import annotations

import pytest

from gra_hpc.config.settings import FixedRolesConfig, MemberConfig, MethodConfig, Policy, RunConfig, SelfReview
from gra_hpc.flows.gra.views.before import _self_review

AVOID = {"self_review": SelfReview.avoid}


@pytest.mark.parametrize(
    ("models", "method", "said"),
    [
        ("abcde", {}, ""),
        ("abcde", AVOID, "avoided"),
        ("aabcd", {}, "seats of one model judge each other: a (method.self_review=avoid keeps them from it)"),
        ("aabcd", AVOID, "avoided"),
        ("aaabc", AVOID, "avoided; fewer Reviewers: 2 instead of 3 for a"),
        ("aaa", AVOID, "cannot be avoided: a judges its own writing (no other model has a seat)"),
        ("aaa", {}, ""),
        ("ab", AVOID | {"policy": Policy.single}, "cannot be avoided: a judges its own writing (policy single)"),
        ("aba", AVOID | {"policy": Policy.fixed, "fixed": FixedRolesConfig("m0", ["m1"], "m2")},
         "cannot be avoided: a judges its own writing (policy fixed)"),
        ("aaabc", AVOID | {"review_instruction": False, "review_response": False}, ""),
    ],
)  # fmt: skip
def test_the_plan_says_where_it_cannot_be_avoided(models: str, method: dict[str, object], said: str) -> None:
    seats = {f"m{i}": MemberConfig(model=m) for i, m in enumerate(models)}
    lines = list(_self_review(RunConfig(committee=seats, method=MethodConfig(**method))))  # type: ignore[arg-type]
    assert lines == ([f"self-review  {said}"] if said else [])
