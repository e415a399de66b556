"""What a candidate of GRA is expected to ask of whom: for placement and estimates, before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gra_hpc.config.settings import Policy, RunConfig, SelfReview, Settle
from gra_hpc.flows.criteria import rubric_of
from gra_hpc.flows.expected import Asked, Rates, StepSize
from gra_hpc.flows.gra.committee import judges_of
from gra_hpc.records import FAILED, PAPER, scores_of

SIZES = {
    # Prompts: our templates at 4.4 characters a token and 8 tokens a turn, with an instruction of 60 tokens, a response
    # of 400 (a seed's: 200), three examples with summaries of 28, comments of 40. Answers: compact JSON, free text;
    # of reviews with the paper's criteria.
    "describe": StepSize(340, 80),
    "keywords": StepSize(310, 15, 1.05),
    "instruction": StepSize(310, 60, 1.02),
    "response": StepSize(95, 400, 1.02),
    "refine": StepSize(340, 400, 1.02),
    "review_instruction": StepSize(150, 60),
    "review_response": StepSize(590, 75),
    "adjudicate": StepSize(740, 80),
    "summary": StepSize(105, 35),
}
"""Stated defaults by step."""
SCORE_TOKENS = 5.0
"""One criterion with its score, in the JSON of a review."""


def synthesize(config: RunConfig, rates: Rates) -> list[Asked]:
    """Of a candidate made from examples."""
    m = config.method
    out = [Asked("keywords", "generator", 1.0), Asked("instruction", "generator", 1.0)]
    reached, accepted = 1.0, _accepted(config, rates)
    if m.review_instruction:
        more = SCORE_TOKENS * (len(rubric_of(m).instruction) - len(PAPER.instruction))
        out.append(Asked("review_instruction", "reviewer", 1.0, answer_tokens=more))
        # Nothing is accepted that has not passed here.
        reached = max(rates.instruction_pass, min(1.0, accepted))
    return out + _answered(config, rates, "response", reached)


def refine(config: RunConfig, rates: Rates) -> list[Asked]:
    """Of a seed that is answered anew."""
    return _answered(config, rates, "refine", 1.0, True)


def _accepted(config: RunConfig, rates: Rates) -> float:
    return (rates.acceptance or config.method.expected_acceptance) if config.method.review_response else 1.0


def _answered(config: RunConfig, rates: Rates, step: str, reached: float, context: bool = False) -> list[Asked]:
    """From the response on, for the share of candidates that get there.

    Args:
        context: candidates have the context of their seeds.
    """
    out = [Asked(step, "generator", reached, context)]
    more = SCORE_TOKENS * (len(rubric_of(config.method).response) - len(PAPER.response))
    if config.method.review_response:
        out.append(Asked("review_response", "reviewer", reached, context, more))
        if config.method.gold:
            out.append(Asked("review_response", "reviewer", config.method.gold_rate, answer_tokens=more))
        if config.method.settle is Settle.adjudicator:
            out.append(Asked("adjudicate", "adjudicator", reached * rates.adjudicated, context, more))
    out.append(Asked("summary", "summarizer", min(_accepted(config, rates), reached), context))
    return out


def seats(config: RunConfig) -> dict[str, dict[str, float]]:
    """Expected seats per sample by role and committee member (a Reviewer's seats add up to the number of Reviewers)."""
    m = config.method
    members = list(config.committee) or list(config.models)
    even = dict.fromkeys(members, 1 / len(members))
    if m.policy is Policy.single or (m.policy.drawn and len(members) == 1):
        one = (m.fixed.generator if m.policy is Policy.single else "") or members[0]
        reviewers = m.reviewers if m.policy is Policy.single else 1
        return {
            "generator": {one: 1.0},
            "reviewer": {one: float(reviewers)},
            "adjudicator": {one: 1.0 if reviewers > 1 else 0.0},
            "summarizer": {one: 1.0},
        }
    if m.policy is Policy.fixed:
        reviewer: dict[str, float] = {}
        for name in m.fixed.reviewers:
            reviewer[name] = reviewer.get(name, 0.0) + 1.0
        return {
            "generator": {m.fixed.generator: 1.0},
            "reviewer": reviewer,
            "adjudicator": {m.fixed.adjudicator: 1.0} if len(m.fixed.reviewers) > 1 else {},
            "summarizer": even,
        }
    if m.self_review is SelfReview.avoid:
        return _seats_of_strangers(config, even)
    count = min(m.reviewers, len(members) - 1)
    return {
        "generator": even,
        "reviewer": {k: count / len(members) for k in members},
        "adjudicator": even if count > 1 else {},  # one Reviewer cannot disagree
        "summarizer": even,
    }


def _seats_of_strangers(config: RunConfig, even: dict[str, float]) -> dict[str, dict[str, float]]:
    """The same where members of the Generator's model do not judge (`committee.judges_of`).

    Args:
        even: each member's share of a role that anybody may have.
    """
    models = {name: config.committee[name].model if config.committee else name for name in even}
    reviewer, adjudicator = dict.fromkeys(even, 0.0), dict.fromkeys(even, 0.0)
    for generator, share in even.items():
        judges = judges_of(generator, [m for m in models if m != generator], models)
        count = min(config.method.reviewers, len(judges))
        for name in judges:
            reviewer[name] += share * count / len(judges)
            adjudicator[name] += share / len(judges) if count > 1 else 0.0
    return {"generator": even, "reviewer": reviewer, "adjudicator": adjudicator, "summarizer": even}


MEASURED_BY = ("instruction_reviews", "mean", "verdict")
"""Columns of `measured`."""


def measured(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Share of instructions that no Reviewer gave a zero, and of reviewed responses that were adjudicated; what did not
    occur is left out."""
    judged = [r for r in rows if (r["status"], r["stage"]) != (FAILED, "instruction_review")]
    seen = [r["instruction_reviews"] for r in judged if r["instruction_reviews"]]
    passed = sum(all(score == 1 for review in reviews for score in scores_of(review).values()) for reviews in seen)
    reviewed = [r for r in rows if r["mean"] is not None]
    settled = sum(r["verdict"] is not None for r in reviewed)
    counts = {"instruction_pass": (passed, len(seen)), "adjudicated": (settled, len(reviewed))}
    return {name: part / whole for name, (part, whole) in counts.items() if whole}
