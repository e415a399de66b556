"""What a plan has that its owner may not mean: said beforehand, with counts, since nothing would fail for it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from gra_hpc.config.settings import Flow, Policy, RunConfig, Settle
from gra_hpc.config.site import Executor
from gra_hpc.run.plan import Plan

_ACTIVATES = re.compile(r"\b(?:conda|mamba|micromamba)\b.*\bactivate\b|\b(?:source|\.)\s+\S*activate\b")
"""A line of `site.setup` that puts another Python first."""


def notes(config: RunConfig, plan: Plan, candidates: int) -> Iterator[str]:
    """One line each.

    Args:
        candidates: of round 1.
    """
    yield from _committee(config)
    m = config.method
    if plan.seed_unanswered and m.flow is not Flow.refine:
        yield f"{plan.seed_unanswered} of {plan.seeds} seeds have no response: nothing is learnt from their answers"
    made = candidates * m.rounds
    if m.flow is Flow.synthesize and made < plan.seeds:
        yield (
            f"{plan.seeds - made} of {plan.seeds} seeds are in no round: {made} candidates need one each"
            + (", though round 0 describes them all" if plan.undescribed else "")
            + f" (seeds.limit={made} leaves them out)"
        )
    yield from _python(config)


def _committee(config: RunConfig) -> Iterator[str]:
    m, members = config.method, list(config.committee)
    if m.flow is Flow.seeds or not members:
        return
    models = {member.model for member in config.committee.values()}
    if m.policy is Policy.single or len(members) == 1:
        yield "one member has every seat: it reviews its own writing"
    elif len(models) == 1:
        yield f"one model ({next(iter(models))}) has every seat: its agreement with itself is no independent evidence"
    reviewers = _reviewers(config)
    if not m.review_response or not reviewers:
        return
    if reviewers == 1:
        yield "one Reviewer a sample: the deviation is always 0, and nothing is adjudicated"
    elif reviewers < m.reviewers and m.policy.drawn:
        yield f"{len(members)} members: {reviewers} Reviewers a sample in place of {m.reviewers}"
    nobody_left = m.policy.drawn and len(members) <= reviewers + 1
    if nobody_left and reviewers > 1 and m.settle is Settle.adjudicator:
        yield "no member is left to adjudicate: the Reviewer nearest to the mean does it"


def _reviewers(config: RunConfig) -> int:
    """Reviewers of a sample, as `committee.draw_roles` seats them."""
    m = config.method
    if m.policy.drawn and len(config.committee) > 1:
        return min(m.reviewers, len(config.committee) - 1)
    if m.policy is Policy.fixed:
        return len(m.fixed.reviewers)
    return m.reviewers if m.policy is Policy.single else 1


def _python(config: RunConfig) -> Iterator[str]:
    site = config.site
    if site.executor is not Executor.slurm or site.python or site.container:
        return
    if line := next((s for s in site.setup if _ACTIVATES.search(s)), ""):
        yield f"site.setup: {line!r} chooses no Python: jobs run {sys.executable}, unless site.python=... names another"
