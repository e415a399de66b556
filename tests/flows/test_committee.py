"""The decision rule: the paper's worked cases, and its properties."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra_hpc.config.settings import FixedRolesConfig, MethodConfig, Policy, SelfReview
from gra_hpc.flows.gra.committee import (
    Decision,
    consensus,
    draw_roles,
    judges_itself,
    late_adjudicator,
    majority,
)
from gra_hpc.records import CRITERIA, Review

METHOD = MethodConfig()


def review(scores: list[int], member: str = "r") -> Review:
    return Review(member, dict(zip(CRITERIA, scores, strict=True)))


def test_worked_case_of_the_committee() -> None:
    reviews = [review(s) for s in ([9, 10, 10, 10, 10, 10], [9, 9, 10, 10, 10, 10], [6, 4, 5, 4, 5, 3])]
    assert [round(r.mean, 2) for r in reviews] == [9.83, 9.67, 4.5]
    result = consensus(reviews, METHOD)
    assert result.mean == pytest.approx(8.0)
    assert result.sd == pytest.approx(2.4758, abs=1e-4)
    assert result.decision is Decision.adjudicate


def test_worked_case_of_the_adjudicator() -> None:
    """mu 8.2, sd 1.6: adjudicated; a verdict of 8.1 keeps it."""
    from gra_hpc.flows.gra.committee import at_least

    # two Reviewers at 8.2 +- 1.6
    a, b = review([10, 10, 10, 10, 10, 10]), review([6, 6, 7, 7, 6, 7])
    result = consensus([a, b], METHOD)
    assert result.mean == pytest.approx(8.25) and result.sd == pytest.approx(1.75)
    assert result.decision is Decision.adjudicate
    assert at_least(8.1, METHOD.adjudicate_mean) and not at_least(7.9, METHOD.adjudicate_mean)


scores = st.lists(st.integers(1, 10), min_size=6, max_size=6)


@given(st.lists(scores, min_size=1, max_size=7))
def test_every_case_falls_on_one_side(all_scores: list[list[int]]) -> None:
    reviews = [review(s) for s in all_scores]
    result = consensus(reviews, METHOD)
    assert 1 <= result.mean <= 10 and 0 <= result.sd <= 4.5
    exact = sum(sum(s) for s in all_scores)  # integers: mean >= 8 iff the sum >= 8 * 6 * n
    passes = exact >= 8 * 6 * len(all_scores)
    assert passes == (result.decision is not Decision.reject)
    if passes:
        assert (result.sd > 1.5 + 1e-9) == (result.decision is Decision.adjudicate)


@given(st.lists(scores, min_size=2, max_size=5), st.randoms())
def test_the_order_of_reviewers_does_not_matter(all_scores: list[list[int]], rng: random.Random) -> None:
    reviews = [review(s) for s in all_scores]
    shuffled = list(reviews)
    rng.shuffle(shuffled)
    assert consensus(reviews, METHOD).decision is consensus(shuffled, METHOD).decision
    assert majority(reviews, METHOD) == majority(shuffled, METHOD)


@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 1000))
def test_random_roles_are_disjoint_and_repeatable(size: int, reviewers: int, seed: int) -> None:
    members = [f"m{i}" for i in range(size)]
    method = MethodConfig(reviewers=reviewers)
    roles = draw_roles(members, method, random.Random(seed))
    assert roles == draw_roles(members, method, random.Random(seed))
    if size > 1:
        drawn = [roles.generator, *roles.reviewers, *([roles.adjudicator] if roles.adjudicator else [])]
        assert len(set(drawn)) == len(drawn)
        assert len(roles.reviewers) == min(reviewers, size - 1)
        assert bool(roles.adjudicator) == (size > reviewers + 1)


def test_every_member_gets_every_role() -> None:
    members = list("abcde")
    drawn = [draw_roles(members, METHOD, random.Random(i)) for i in range(300)]
    assert {r.generator for r in drawn} == {r.adjudicator for r in drawn} == set(members)
    assert all(len(r.reviewers) == 3 for r in drawn)


def test_a_small_committee_names_the_least_disagreeing_adjudicator() -> None:
    roles = draw_roles(["a", "b", "c"], METHOD, random.Random(0))
    assert roles.adjudicator == ""
    one, two = roles.reviewers
    third = review([9] * 6, roles.generator)
    reviews = [review([9] * 6, one), review([2] * 6, two), third]
    assert late_adjudicator(["a", "b", "c"], roles, reviews) == one


def test_fixed_and_single() -> None:
    fixed = MethodConfig(policy=Policy.fixed, fixed=FixedRolesConfig("a", ["b", "c"], "d"))
    roles = draw_roles(list("abcd"), fixed, random.Random(1))
    assert (roles.generator, roles.reviewers, roles.adjudicator) == ("a", ("b", "c"), "d")
    single = draw_roles(list("abcd"), MethodConfig(policy=Policy.single), random.Random(1))
    assert set(single.reviewers) | {single.generator, single.adjudicator, single.summarizer} == {"a"}


AVOID = MethodConfig(self_review=SelfReview.avoid)


@given(st.lists(st.sampled_from("XYZ"), min_size=1, max_size=7), st.integers(1, 4), st.integers(0, 100))
def test_no_model_judges_its_own_writing_where_there_is_another(seats: list[str], reviewers: int, seed: int) -> None:
    models = {f"m{i}": model for i, model in enumerate(seats)}
    method = MethodConfig(self_review=SelfReview.avoid, reviewers=reviewers)
    roles = draw_roles(list(models), method, random.Random(seed), models)
    judges = [*roles.reviewers, *([roles.adjudicator] if roles.adjudicator else [])]
    others = [m for m in models if models[m] != models[roles.generator]]
    if others:
        assert models[roles.generator] not in {models[j] for j in judges}
        assert len(roles.reviewers) == min(reviewers, len(others)) and len(set(judges)) == len(judges)
    else:
        assert roles == draw_roles(list(models), MethodConfig(reviewers=reviewers), random.Random(seed), models)
    assert (judges_itself(models, method) != []) == (len(set(seats)) == 1)


def test_members_of_different_models_are_drawn_as_always() -> None:
    """Ids of samples and calls stay: avoiding changes nothing where there is nothing to avoid."""
    models = {m: m.upper() for m in "abcde"}
    for i in range(200):
        drawn = draw_roles(list(models), AVOID, random.Random(i), models)
        assert drawn == draw_roles(list(models), METHOD, random.Random(i)) and drawn.adjudicator


def test_who_may_judge_itself() -> None:
    models = {"a": "X", "b": "X", "c": "Y"}
    fixed = MethodConfig(policy=Policy.fixed, fixed=FixedRolesConfig("c", ["a"], "b"))
    own = MethodConfig(policy=Policy.fixed, fixed=FixedRolesConfig("a", ["c"], "b"))
    single = MethodConfig(policy=Policy.single, self_review=SelfReview.avoid)
    found = [judges_itself(models, m) for m in (METHOD, AVOID, fixed, own, single)]
    assert found == [["X"], [], [], ["X"], ["X"]]
