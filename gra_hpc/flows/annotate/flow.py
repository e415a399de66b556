"""`annotate`, described: labels for existing records."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gra_hpc.config.fields import Need
from gra_hpc.config.settings import Policy, RunConfig, Settle
from gra_hpc.flows.annotate import questions as q
from gra_hpc.flows.annotate.draw import draw_seats, seat_shares
from gra_hpc.flows.annotate.examples import Pool, check_labels, gold_of, text_of
from gra_hpc.flows.annotate.forward import forwards
from gra_hpc.flows.annotate.label import UNDECIDED, Example, Item, Seat, chained, label
from gra_hpc.flows.annotate.records import Labelled, as_text
from gra_hpc.flows.annotate.settings import Aggregate, AnnotateConfig, Examples, Keep, Kind, Route
from gra_hpc.flows.annotate.views import VIEWS, before
from gra_hpc.flows.ask import Unanswered
from gra_hpc.flows.expected import Asked, Rates, StepSize
from gra_hpc.flows.payload import Made
from gra_hpc.flows.registry import Flow, Stage
from gra_hpc.flows.tools import Tool
from gra_hpc.flows.units import Context, Draw, Drawn, Unit
from gra_hpc.records import ACCEPTED, FAILED, REJECTED, Record
from gra_hpc.terminal import printable


@dataclass(frozen=True)
class ItemUnit(Unit):
    """One item to label."""

    seats: tuple[Seat, ...] = ()
    adjudicator: str = ""
    shown: tuple[Example, ...] = ()
    """Labelled records that annotators are shown, or"""
    pool: Pool | None = None
    """where the nearest are."""

    @property
    def tools(self) -> tuple[Tool, ...]:
        """What finds the nearest examples."""
        return (self.pool.nearest,) if self.pool and self.pool.nearest else ()


def settings(config: RunConfig) -> AnnotateConfig:
    """The flow's section."""
    out: AnnotateConfig = config.annotate  # type: ignore[attr-defined]
    return out


def draw(of: Draw) -> Drawn:
    """Who labels an item, and which examples they are shown."""
    config, members = settings(of.config), list(of.config.committee)
    labels = q.Labels.of(config)
    pool = Pool.of(config, of.pool.anchors, of.anchors, of.embed)

    def drawn(id_: str, anchor: Record, index: int, rng: random.Random) -> Unit:
        seats, adjudicator = draw_seats(members, config.annotators, of.config.method, rng)
        if config.route is Route.chain:
            links = (
                config.chain if config.keep is Keep.margin else config.chain[max(of.round, 1) - 1 : max(of.round, 1)]
            )
            seats, adjudicator = [Seat(name) for name in links], ""
        roles = {"annotator": tuple(s.member for s in seats), "adjudicator": (adjudicator,) if adjudicator else ()}
        gold = gold_of(anchor, labels)
        result = Labelled(
            text_of(anchor),
            anchor.response if config.kind is Kind.pair else "",
            gold="" if gold is None else as_text(gold),
        )
        made = Made(id_, of.round, anchor.id, index, flow="annotate", seats=roles, result=result)
        shown = () if pool.nearest else pool.drawn(anchor, labels, rng)
        return ItemUnit(made, anchor, (), tuple(seats), adjudicator, shown, pool)

    return drawn


async def run(context: Context, unit: Unit) -> None:
    """One item to its label. Undecided is an outcome, and no failure: it is rejected, with that reason."""
    assert isinstance(unit, ItemUnit)
    made: Any = unit.sample
    shown = unit.shown
    if unit.pool and unit.pool.nearest:
        places = await context.use(unit.pool.nearest, item=unit.anchor.id)
        shown = unit.pool.at(places, q.Labels.of(context.settings))
    item = Item(made.result.text, made.result.second, shown)
    try:
        if context.settings.route is Route.chain:
            await chained(item, unit.seats, context.ask, context.settings)
        else:
            await label(item, unit.seats, unit.adjudicator, context.ask, context.settings, context.method.settle)
    except Unanswered as e:
        item.label, item.how = None, ""
        made.status, made.stage, made.reason, made.raw = FAILED, e.stage, e.reason, e.raw
    else:
        if item.label is None:
            made.status, made.stage, made.reason = REJECTED, "adjudication", UNDECIDED
        else:
            made.status = ACCEPTED
    made.score, made.result = item.confidence, Labelled.of(item, made.result.gold)


def check_seeds(c: RunConfig, seeds: Sequence[Record]) -> None:
    """Their own labels are among those of the settings.

    Raises:
        SeedError: one that there is not.
    """
    check_labels(seeds, q.Labels.of(settings(c)))


def check(c: RunConfig, need: Need) -> None:
    """What labels need."""
    a, m = settings(c), c.method
    need(bool(c.models), "models", "{}", "at least one model")
    if a.kind.named:
        need(bool(a.labels), "annotate.labels", "{}", f"the labels, as `name: what it means`, with kind={a.kind.value}")
    else:
        need(not a.labels, "annotate.labels", list(a.labels), f"none with kind={a.kind.value}, which has its own")
    if a.kind is Kind.choice:
        need(len(a.labels) > 1, "annotate.labels", list(a.labels), "two or more to choose from")
    if a.kind is Kind.multi:
        need(len(a.labels) <= 62, "annotate.labels", len(a.labels), "62 at most with kind=multi")
    for name in a.labels:
        plain = name == " ".join(name.split()) and ";" not in name and name.casefold() not in ("", "none")
        expected = "names of letters that can be seen, without semicolon and double spaces, and not `none`"
        need(plain and name == printable(name), "annotate.labels", ascii(name), expected)
    if a.kind is Kind.score:
        need(a.lowest < a.highest, "annotate.highest", a.highest, f"more than annotate.lowest={a.lowest}")
    if a.kind is Kind.pair:
        none = a.examples is Examples.none
        need(none, "annotate.examples", a.examples.value, "none with kind=pair, whose records come without a label")
    if a.examples is Examples.nearest:
        at_hand = c.merge.semantic and bool(c.merge.embed_model)
        need(at_hand, "annotate.examples", "nearest", "merge.semantic=true and merge.embed_model with nearest examples")
    if a.kind is Kind.spans:
        expected = "majority or weighted with kind=spans"
        need(a.aggregate is not Aggregate.dawid_skene, "annotate.aggregate", a.aggregate.value, expected)
    for member, weight in a.weights.items():
        need(member in c.committee, "annotate.weights", member, f"a member: {', '.join(c.committee)}")
        need(0 < weight <= 1000, f"annotate.weights.{member}", weight, "above 0, at most 1,000")
    _check_chain(c, a, need)
    weighted = a.aggregate is Aggregate.weighted
    need(bool(a.weights) == weighted, "annotate.weights", a.weights, "given with aggregate=weighted, and only then")
    need(
        m.policy in (Policy.random, Policy.fixed), "method.policy", m.policy.value, "random or fixed with flow=annotate"
    )
    links = len(a.chain) if a.keep is Keep.quantile else 1
    expected = "one for each member of annotate.chain" if links > 1 else "with method.flow=annotate"
    need(m.rounds == links, "method.rounds", m.rounds, f"{links}: {expected}" if links > 1 else f"1 {expected}")
    need(m.samples_per_seed == 1, "method.samples_per_seed", m.samples_per_seed, "1 with method.flow=annotate")
    need(m.target_accepted == 0, "method.target_accepted", m.target_accepted, "0 with method.flow=annotate")


def _check_chain(c: RunConfig, a: AnnotateConfig, need: Need) -> None:
    """Of a chain, or that there is none."""
    if a.route is Route.all:
        need(not a.chain and not a.margins, "annotate.chain", a.chain, "none, and no margins, with route=all")
        need(a.keep is Keep.margin, "annotate.keep", a.keep.value, "margin, as it is without a setting, with route=all")
        return
    need(a.kind in (Kind.choice, Kind.score), "annotate.kind", a.kind.value, "choice or score with route=chain")
    count = len(q.Labels.of(a).categories)
    need(count <= 26, "annotate.labels", count, "26 at most with route=chain: each is a letter")
    need(len(a.chain) > 1 and len(set(a.chain)) == len(a.chain), "annotate.chain", a.chain, "two members or more")
    for member in a.chain:
        need(member in c.committee, "annotate.chain", member, f"members: {', '.join(c.committee)}")
    want = len(a.chain) - 1 if a.keep is Keep.margin else 0
    expected = f"{want}: one for each member of the chain but the last" if want else "none with keep=quantile"
    need(len(a.margins) == want, "annotate.margins", a.margins, expected)
    need(a.aggregate is Aggregate.majority, "annotate.aggregate", a.aggregate.value, "majority with route=chain")


def expect(config: RunConfig, rates: Rates) -> list[Asked]:
    """Every annotator once; the Adjudicator where they disagree."""
    if settings(config).route is Route.chain:
        return [Asked("link", "annotator", 1.0, context=True)]
    out = [Asked("annotate", "annotator", 1.0, context=True)]
    if config.method.settle is Settle.adjudicator:
        out.append(Asked("settle", "adjudicator", rates.adjudicated, context=True))
    return out


def seats(config: RunConfig) -> dict[str, dict[str, float]]:
    """Seats per candidate, by role and member; of a chain, as if each link handed on an even part."""
    if settings(config).route is Route.chain:
        chain = settings(config).chain
        saw = {name: 1 - i / len(chain) for i, name in enumerate(chain)}
        by_rounds = settings(config).keep is Keep.quantile  # then an item is a candidate of each link that sees it
        return {"annotator": {name: n / sum(saw.values()) if by_rounds else n for name, n in saw.items()}}
    return seat_shares(list(config.committee) or list(config.models), settings(config).annotators, config.method)


ANNOTATE = Flow(
    name="annotate",
    about="labels for existing records, by several members, with what they disagree on settled or left to people",
    settings=AnnotateConfig,
    reads=("policy", "fixed", "settle"),
    prompts=q.PROMPTS,
    questions=(q.ANNOTATE, q.SETTLE, q.LINK),
    stages=(Stage("annotation", "Labelled by an annotator or more"), Stage("adjudication", "Agreed, or settled")),
    draw=draw,
    run=run,
    result=Labelled,
    uses=("labels/chain.py", "labels/margins.py", "labels/nearest.py", "labels/spans.py", "labels/votes.py"),
    trial=before.trial,
    check=check,
    check_seeds=check_seeds,
    forwards=forwards,
    draws_by_likeness=lambda config: settings(config).examples is Examples.nearest,
    expect=expect,
    seats=seats,
    sizes={"annotate": StepSize(250, 50), "settle": StepSize(400, 55), "link": StepSize(160, 2)},
    views=VIEWS,
)

FLOWS = (ANNOTATE,)
