"""The way of one item: annotators label it, their labels are counted, disagreement goes to the Adjudicator."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gra_hpc.config.settings import Settle
from gra_hpc.flows.annotate import questions as q
from gra_hpc.flows.annotate.decide import decide
from gra_hpc.flows.annotate.questions import Label, Labels, Said
from gra_hpc.flows.annotate.settings import AnnotateConfig, Kind
from gra_hpc.flows.ask import Ask, Unanswered

UNDECIDED = "undecided"
"""The reason of an item that nobody can decide: an outcome as any other, listed for people."""
AGREED, SETTLED, KEPT = "agreed", "settled", "kept"


@dataclass(frozen=True)
class Example:
    """A labelled text, as an annotator is shown it."""

    text: str
    answer: str
    """As JSON, of the form that is asked for."""
    letter: str = ""
    """As a chain's member answers."""
    second: str = ""


@dataclass(frozen=True)
class Seat:
    """Who labels an item, and how."""

    member: str
    swapped: bool = False
    """Sees a pair's second text first: models prefer what stands first, and half of them see either first."""


@dataclass
class Item:
    """One record to label, and all that is said of it."""

    text: str
    second: str = ""
    """Of a pair."""
    examples: Sequence[Example] = ()
    annotations: list[tuple[str, Said]] = field(default_factory=list)
    """Member and what it says; who gave no answer that could be used abstains."""
    verdict: tuple[str, Said] | None = None
    """The Adjudicator's."""
    label: Label | None = None
    """None: undecided."""
    confidence: float = 0.0
    """Share of the annotators' weight behind the label, 0 to 1; behind the largest, of an undecided item."""
    how: str = ""
    """agreed, settled, kept (by a link of a chain) or undecided."""


async def label(
    item: Item, seats: Sequence[Seat], adjudicator: str, ask: Ask, config: AnnotateConfig, settle: Settle
) -> None:
    """Fill in what becomes of an item.

    Raises:
        Unanswered: no annotator has given an answer that could be used, or the Adjudicator has not.
    """
    variables = q.wording(config) | {"text": item.text, "second": item.second}
    labels: Labels = variables["labels"]
    item.annotations = await _annotations(item, seats, ask, variables)
    weights = [float(config.weights.get(member, 1.0)) for member, _ in item.annotations]
    found = decide([said.label for _, said in item.annotations], weights, labels, config)
    item.label, item.confidence, item.how = found.label, found.confidence, AGREED
    if found.agreed(config):
        return
    if settle is Settle.majority:
        if found.tied:
            item.label, item.how = None, UNDECIDED
        return
    others = [{"label": q.in_words(s.label, item.text), "reason": s.reason} for _, s in item.annotations]
    verdict = await ask(q.SETTLE, adjudicator, "adjudicator", **variables, swapped=False, others=others)
    item.verdict = adjudicator, verdict
    item.label, item.how = (verdict.label, SETTLED) if verdict.sure else (None, UNDECIDED)


async def chained(item: Item, seats: Sequence[Seat], ask: Ask, config: AnnotateConfig) -> None:
    """Show an item to one member after another, until one is sure enough of its label, or is the last.

    A member that cannot answer passes it on.

    Raises:
        Unanswered: none could; the last one's.
    """
    variables = q.wording(config) | {"text": item.text, "examples": item.examples}
    failed: Unanswered | None = None
    for number, seat in enumerate(seats, 1):
        try:
            said = await ask(q.LINK, seat.member, f"annotator-{number}", **variables)
        except Unanswered as e:
            failed = e
            continue
        item.annotations.append((seat.member, said))
        item.label, item.confidence, item.how = said.label, said.share, KEPT
        if number < len(seats) and (said.margin or 0.0) >= config.margins[number - 1]:
            return
    if not item.annotations and failed:
        raise failed


async def _annotations(
    item: Item, seats: Sequence[Seat], ask: Ask, variables: dict[str, Any]
) -> list[tuple[str, Said]]:
    """What each annotator says, in the order of the seats, without those that could not answer.

    Raises:
        Unanswered: none could; the first one's.
    """
    pair = variables["kind"] == Kind.pair.value

    async def one(number: int, seat: Seat) -> Said | Unanswered:
        try:
            return await ask(
                q.ANNOTATE,
                seat.member,
                f"annotator-{number}",
                **variables,
                swapped=pair and seat.swapped,
                examples=item.examples,
            )
        except Unanswered as e:
            return e

    found = await asyncio.gather(*(one(i, seat) for i, seat in enumerate(seats, 1)), return_exceptions=True)
    for answer in found:
        if isinstance(answer, BaseException) and not isinstance(answer, Unanswered):
            raise answer  # an interruption: the item is not at its end
    said = [(seat.member, answer) for seat, answer in zip(seats, found, strict=True) if isinstance(answer, Said)]
    if not said:
        raise next(answer for answer in found if isinstance(answer, Unanswered))
    return said
