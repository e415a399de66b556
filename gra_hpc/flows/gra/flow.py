"""GRA's three flows, described: this page is the method's shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from gra_hpc.config.fields import Need
from gra_hpc.config.settings import MethodConfig, Policy, RunConfig
from gra_hpc.flows.expected import Asked
from gra_hpc.flows.gra import load
from gra_hpc.flows.gra import questions as q
from gra_hpc.flows.gra.draw import draw, draw_nobody
from gra_hpc.flows.gra.gold import GOLD
from gra_hpc.flows.gra.keep import keep
from gra_hpc.flows.gra.prepare import prepare
from gra_hpc.flows.gra.refine import refine
from gra_hpc.flows.gra.synthesize import fail, synthesize
from gra_hpc.flows.gra.views import VIEWS, before
from gra_hpc.flows.keys import RECORDS
from gra_hpc.flows.registry import GRA_SETTINGS, After, Flow, Stage, Views
from gra_hpc.flows.units import Context, Unit
from gra_hpc.records import Sample, sample_schema


async def _prepare(context: Context, unit: Unit) -> None:
    await prepare(_sample(unit), unit.anchor, context.ask, context.method)


async def _synthesize(context: Context, unit: Unit) -> None:
    if unit.examples:
        await synthesize(_sample(unit), unit.examples, context.ask, context.method)
    else:
        fail(_sample(unit), "prepare", "the seed could not be described")


async def _refine(context: Context, unit: Unit) -> None:
    await refine(_sample(unit), unit.anchor, context.ask, context.method)


async def _keep(_: Context, unit: Unit) -> None:
    keep(_sample(unit), unit.anchor)


def _sample(unit: Unit) -> Sample:
    assert isinstance(unit.sample, Sample)
    return unit.sample


def _between(after: After) -> dict[str, Any]:
    if after.config.method.policy is not Policy.performance:
        return {}
    from gra_hpc.flows.gra.counted import standing_after  # tables: only a merge has them

    return standing_after(after)


def _on(key: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda method: bool(method[key])


def _check(c: RunConfig, need: Need) -> None:
    need(bool(c.models), "models", "{}", "at least one model")
    if c.method.policy is Policy.performance:
        rounds = c.method.rounds
        need(rounds > 1, "method.rounds", rounds, "2 or more with method.policy=performance: the first knows nothing")


def _check_once(c: RunConfig, need: Need) -> None:
    """Each seed's own instruction, once."""
    _check(c, need)
    need(c.method.rounds == 1, "method.rounds", c.method.rounds, f"1 with method.flow={c.method.flow}")


def _check_kept(c: RunConfig, need: Need) -> None:
    m = c.method
    need(m.rounds == 1, "method.rounds", m.rounds, f"1 with method.flow={m.flow}")
    need(m.samples_per_seed == 1, "method.samples_per_seed", m.samples_per_seed, f"1 with method.flow={m.flow}")
    need(m.target_accepted == 0, "method.target_accepted", m.target_accepted, f"0 with method.flow={m.flow}")


def _thresholds(method: MethodConfig) -> tuple[str, ...]:
    return ("accept_mean", "accept_sd", "adjudicate_mean", "settle") if method.review_response else ()


EXAMPLES = Stage("prepare", "Examples at hand", lambda _: False)
KEYWORDS = Stage("keywords", "Keywords generated")
INSTRUCTION = Stage("instruction", "Instruction generated")
INSTRUCTION_REVIEW = Stage("instruction_review", "Instruction passed review", _on("review_instruction"))
RESPONSE = Stage("response", "Response generated")
RESPONSE_REVIEW = Stage("response_review", "Reviewers' mean high enough", _on("review_response"))
ADJUDICATION = Stage("adjudication", "Agreed, or adjudicated", _on("review_response"))

SYNTHESIZE = Flow(
    name="synthesize",
    about="new instructions and responses, made from examples and reviewed (GRA)",
    prepare=_prepare,
    draw=draw,
    run=_synthesize,
    prompts=q.PROMPTS,
    reads=GRA_SETTINGS,
    trial=q.trial,
    columns=sample_schema,
    pools=True,
    questions=(
        q.DESCRIBE, q.KEYWORDS, q.INSTRUCTION, q.REVIEW_INSTRUCTION, q.RESPONSE, q.REVIEW_RESPONSE, q.ADJUDICATE,
        q.SUMMARY,
    ),
    stages=(EXAMPLES, KEYWORDS, INSTRUCTION, INSTRUCTION_REVIEW, RESPONSE, RESPONSE_REVIEW, ADJUDICATION),
    keys=RECORDS,
    check=_check,
    between=_between,
    expect=load.synthesize,
    expect_prepare=(Asked("describe", "generator", 1.0, context=True),),
    seats=load.seats,
    sizes=load.SIZES,
    measured=load.measured,
    measured_by=load.MEASURED_BY,
    gold=GOLD,
    views=replace(VIEWS, notes=before.notes_synthesize, card=before.card_synthesize),
    thresholds=_thresholds,
)  # fmt: skip

REFINE = replace(
    SYNTHESIZE,
    name="refine",
    about="the seeds' own instructions, answered anew and reviewed (GRA-Refine)",
    run=_refine,
    reads=tuple(k for k in GRA_SETTINGS if k not in ("examples_min", "examples_max", "review_instruction")),
    questions=(q.DESCRIBE, q.REFINE, q.REVIEW_RESPONSE, q.ADJUDICATE, q.SUMMARY),
    stages=(RESPONSE, RESPONSE_REVIEW, ADJUDICATION),
    keys=replace(RECORDS, seeds_rival=False),
    check=_check_once,
    expect=load.refine,
    views=replace(VIEWS, notes=before.notes_refine, card=before.card_refine),
    of_seeds=("keywords", "instruction"),
)

SEEDS = Flow(
    name="seeds",
    about="the seeds as they are; nobody is asked (the baseline)",
    draw=draw_nobody,
    run=_keep,
    prompts=q.PROMPTS,
    trial=q.trial,
    columns=sample_schema,
    pools=True,
    questions=(),
    stages=(RESPONSE,),
    keys=replace(RECORDS, seeds_rival=False),
    check=_check_kept,
    views=Views(notes=before.notes_seeds, card=before.card_seeds, conversation=VIEWS.conversation),
    of_seeds=("keywords", "instruction", "summary", "instruction_reviews", "reviews", "verdict", "raw"),
)

FLOWS = (SYNTHESIZE, REFINE, SEEDS)
