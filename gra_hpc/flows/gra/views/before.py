"""What people are shown of GRA before a run: how it decides and what its owner may not mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gra_hpc.config.settings import Policy, RunConfig, SelfReview, Settle
from gra_hpc.flows.gra.committee import judges_itself, judges_of
from gra_hpc.flows.registry import SeedCounts


def plan(config: RunConfig) -> Iterator[str]:
    """Who judges whom, and the thresholds."""
    m = config.method
    yield from _self_review(config)
    if m.domains:
        yield f"domains      {', '.join(m.domains)}"
    for of, own in (("", m.criteria), ("instructions: ", m.instruction_criteria)):
        if own:
            yield f"criteria     {of}{', '.join(own)}"
    if m.review_response:
        yield (
            f"thresholds   mean >= {m.accept_mean:g}, sd <= {m.accept_sd:g},"
            f" adjudicated mean >= {m.adjudicate_mean:g}"
            + ("" if (m.accept_mean, m.accept_sd, m.adjudicate_mean) == (8, 1.5, 8) else "  (paper: 8, 1.5, 8)")
        )


def _self_review(config: RunConfig) -> Iterator[str]:
    """Whether models judge their own writing, and what keeping them from it costs."""
    models = {name: member.model for name, member in config.committee.items()}
    m = config.method
    if not (m.review_response or m.review_instruction):
        return
    own, drawn = ", ".join(judges_itself(models, m)), m.policy.drawn
    if m.self_review is SelfReview.avoid:
        if own:
            why = "no other model has a seat" if drawn else f"policy {m.policy.value}"
            yield f"self-review  cannot be avoided: {own} judges its own writing ({why})"
            return
        few = {models[g]: len(judges_of(g, [n for n in models if n != g], models)) for g in models}
        most = min(m.reviewers, len(models) - 1)
        short = ", ".join(f"{n} instead of {most} for {k}" for k, n in few.items() if n < most)
        yield f"self-review  avoided{f'; fewer Reviewers: {short}' if short and drawn else ''}"
    elif own and drawn and len(set(models.values())) > 1:
        yield f"self-review  seats of one model judge each other: {own} (method.self_review=avoid keeps them from it)"


def notes_synthesize(config: RunConfig, seeds: SeedCounts) -> Iterator[str]:
    """Of candidates made from examples."""
    yield from _committee(config)
    yield from notes_seeds(config, seeds)
    made = seeds.candidates * config.method.rounds
    if made < seeds.seeds:
        yield (
            f"{seeds.seeds - made} of {seeds.seeds} seeds are in no round: {made} candidates need one each"
            + (", though round 0 describes them all" if seeds.undescribed else "")
            + f" (seeds.limit={made} leaves them out)"
        )


def notes_refine(config: RunConfig, _: SeedCounts) -> Iterator[str]:
    """Of seeds that are answered anew: what they were answered before may be missing."""
    yield from _committee(config)


def notes_seeds(_: RunConfig, seeds: SeedCounts) -> Iterator[str]:
    """Of seeds whose answers count."""
    if seeds.unanswered:
        yield f"{seeds.unanswered} of {seeds.seeds} seeds have no response: nothing is learnt from their answers"


def _committee(config: RunConfig) -> Iterator[str]:
    m, members = config.method, list(config.committee)
    if not members:
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


def card_synthesize(method: Mapping[str, Any]) -> str:
    """How a row begins."""
    m = method
    return (
        f"Each sample starts at one seed. The Generator sees {m['examples_min']} to {m['examples_max']} records of the"
        f" seed's domain and\nanswers three times: {m['keywords']} new keywords, an instruction, a response."
    )


def card_refine(_: Mapping[str, Any]) -> str:
    """How a row begins."""
    return "The Generator rewrites the response of a seed's instruction."


def card_seeds(_: Mapping[str, Any]) -> str:
    """What a row is."""
    return "Nothing was generated: each seed that has a response is a row."
