"""tally: each attribute of each document is found by a member in round 1; round 2 takes, without a model, what was
found most often for that attribute. A document is a seed, an attribute one of its candidates.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, Literal

from gra_hpc.flows.answers import guided
from gra_hpc.flows.expected import Asked
from gra_hpc.flows.payload import Made
from gra_hpc.flows.registry import After, Flow, Stage
from gra_hpc.flows.units import Context, Draw, Drawn, Unit
from gra_hpc.records import Record

ATTRIBUTES = ("colour", "size")


@dataclass
class Found:
    """What a member is asked for."""

    value: Literal["small", "large", "red", "blue"]


@dataclass
class Cell:
    """An attribute of a document."""

    attribute: str
    value: str = ""


@dataclass(frozen=True)
class CellUnit(Unit):
    """A cell to fill."""

    known: str | None = None
    """What round 1 has found most often; none: it is round 1."""


FIND = guided("find", "finding", Found, role="finder")


def draw(of: Draw) -> Drawn:
    """A member for each cell of round 1, nobody in round 2."""
    members = list(of.config.committee)

    def drawn(id_: str, anchor: Record, index: int, rng: random.Random) -> Unit:
        attribute = ATTRIBUTES[index]
        seats = {"finder": () if of.standing else (rng.choice(members),)}
        made = Made(id_, of.round, anchor.id, index, "tally", seats, Cell(attribute))
        return CellUnit(made, anchor, known=of.standing[attribute] if of.standing else None)

    return drawn


async def run(context: Context, unit: Unit) -> None:
    """One cell."""
    assert isinstance(unit, CellUnit)
    made, value = unit.made, unit.known
    if value is None:
        ((_, found),) = await context.ask_all(FIND, made, text=unit.anchor.instruction)
        value = found.value
    made.result.value = value
    made.accept()


def between(after: After) -> dict[str, Any]:
    """The value found most often, by attribute."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for batch in after.samples(("attribute", "value")):
        for attribute, value in zip(batch["attribute"].to_pylist(), batch["value"].to_pylist(), strict=True):
            counts[attribute][value or ""] += 1
    return {attribute: max(sorted(found), key=found.__getitem__) for attribute, found in counts.items()}


FLOW = Flow(
    name="tally",
    about="attributes of documents",
    result=Cell,
    draw=draw,
    questions=(FIND,),
    stages=(Stage("finding", "Found"),),
    run=run,
    between=between,
    trial=lambda _: {"text": "A small red house."},
    roles=lambda _: {"finder": 1},
    expect=lambda config, _: [Asked("find", "finder", 1 / config.method.rounds)],
)
