"""What people are shown of a run that labels: before it, how it decides, and a few of its prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gra_hpc.config.settings import Policy, RunConfig, Settle
from gra_hpc.flows.annotate import questions as q
from gra_hpc.flows.annotate.label import Example
from gra_hpc.flows.annotate.settings import Aggregate, AnnotateConfig, Keep, Kind, Route
from gra_hpc.flows.registry import SeedCounts
from gra_hpc.terminal import counted


def _settings(config: RunConfig) -> AnnotateConfig:
    out: AnnotateConfig = config.annotate  # type: ignore[attr-defined]
    return out


def annotators(config: RunConfig) -> int:
    """Members that label each item."""
    m = config.method
    if m.policy is Policy.fixed:
        return len(m.fixed.reviewers)
    return min(_settings(config).annotators, len(config.committee))


def plan(config: RunConfig) -> Iterator[str]:
    """Who labels, and what becomes of it."""
    a = _settings(config)
    labels = q.Labels.of(a).categories
    yield f"labels       {a.kind.value}: {', '.join(map(str, labels))}"
    if a.route is Route.chain:
        if a.keep is Keep.quantile:
            yield f"chain        {', then '.join(a.chain)}, a round each; each keeps an even part, the last the rest"
            return
        links = [f"{name} (margin {margin:g})" for name, margin in zip(a.chain, a.margins, strict=False)]
        yield f"chain        {', then '.join([*links, a.chain[-1]])}"
        return
    otherwise = "the Adjudicator" if config.method.settle is Settle.adjudicator else "people, where it is a tie"
    yield f"agreement    {a.aggregate.value} of {annotators(config)}; below {a.agree:g} it goes to {otherwise}"


def notes(config: RunConfig, seeds: SeedCounts) -> Iterator[str]:
    """What its owner may not mean."""
    a, count = _settings(config), annotators(config)
    if a.route is Route.chain:
        return
    models = {member.model for member in config.committee.values()}
    if count == 1:
        yield "one annotator an item: nothing is known of agreement, and every confidence is 1"
    elif len(models) == 1:
        yield f"one model ({next(iter(models))}) has every seat: its agreement with itself is no independent evidence"
    if count < a.annotators:
        yield f"annotate.annotators={a.annotators}: the committee has {counted(count, 'member')}"
    if count == len(config.committee) > 1 and config.method.settle is Settle.adjudicator:
        yield "no member is left to adjudicate: an annotator of the item does it"
    if a.aggregate is Aggregate.dawid_skene and count < 3:
        yield "dawid_skene with fewer than 3 annotators an item: whose error it is cannot be told"
    if a.kind is Kind.pair and seeds.unanswered:
        yield f"{seeds.unanswered} of {seeds.seeds} records have no response: their pair has one text"


def trial(step: str) -> dict[str, Any]:
    """Made-up variables that a template can be rendered with."""
    config = AnnotateConfig(labels={"praise": "the writer is pleased", "blame": "the writer is not"})
    variables = q.wording(config) | {"text": "The tea was cold.", "second": "The tea was hot.", "swapped": False}
    if step == q.SETTLE.step:
        return variables | {"others": [{"label": "praise", "reason": "tea"}, {"label": "blame", "reason": "cold"}]}
    return variables | {"examples": (Example("The tea was good.", '{"label": "praise"}', "A"),)}
