"""probe: quiz's question, and then a tool of this program's own."""

from __future__ import annotations

from dataclasses import dataclass

from gra_hpc.flows.registry import Flow, Stage
from gra_hpc.flows.tools import Tool
from gra_hpc.flows.units import Context, Unit
from tests.flows.foreign.quiz.flow import RATE


@dataclass
class Probed:
    """A question with what the tool found."""

    question: str
    found: int = 0


def work(text: str) -> int:
    """Replaced by tests that have it break."""
    return len(text)


async def run(context: Context, unit: Unit) -> None:
    """One question."""
    made, question = unit.made, unit.anchor.instruction
    made.result = Probed(question)
    await context.ask_all(RATE, made, question=question, program=unit.anchor.response)
    made.result.found = await context.use(Tool("probe", "1", lambda text: work(text)), text=question)
    made.accept()


FLOW = Flow(
    name="probe",
    about="questions that a tool looks at",
    result=Probed,
    roles=lambda _: {"rater": 1},
    questions=(RATE,),
    stages=(Stage("rating", "Rated"), Stage("probe", "Probed")),
    run=run,
    prompts=RATE.prompts,
    trial=lambda _: {"question": "Add 2 and 2.", "program": "print(2 + 2)"},
)
