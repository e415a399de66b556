"""echo: every round says the same of each seed, and nobody is asked. Its rows go into the pool."""

from __future__ import annotations

from dataclasses import dataclass

from gra_hpc.flows.keys import RECORDS
from gra_hpc.flows.registry import Flow, Stage
from gra_hpc.flows.units import Context, Unit


@dataclass
class Echo:
    """What a record has."""

    instruction: str
    response: str
    domain: str = "qa"
    summary: str = "The same."
    keywords: tuple[str, ...] = ("same",)


async def run(_: Context, unit: Unit) -> None:
    """One echo."""
    unit.made.result = Echo(f"Again: {unit.anchor.instruction}", unit.anchor.response)
    unit.made.accept(1.0)


FLOW = Flow(
    name="echo",
    about="seeds, said again",
    questions=(),
    stages=(Stage("saying", "Said"),),
    run=run,
    result=Echo,
    keys=RECORDS,
    pools=True,
)
