"""quiz: a member says whether a program answers a question. Its seeds' instructions are `topic: question`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gra_hpc.flows.answers import guided
from gra_hpc.flows.keys import Keys
from gra_hpc.flows.registry import Flow, Stage
from gra_hpc.flows.units import Context, Unit


@dataclass
class Rated:
    """What a member is asked for."""

    answer: Literal["yes", "no"]


@dataclass
class Solved:
    """A question with its program."""

    topic: str
    question: str
    program: str
    rated: Literal["", "yes", "no"] = ""


RATE = guided("rate", "rating", Rated)


async def run(context: Context, unit: Unit) -> None:
    """One question."""
    made, (topic, _, question) = unit.made, unit.anchor.instruction.partition(": ")
    made.result = Solved(topic, question, unit.anchor.response)
    ((_, said),) = await context.ask_all(RATE, made, question=question, program=made.result.program)
    made.result.rated = said.answer
    made.accept(float(said.answer == "yes"))


FLOW = Flow(
    name="quiz",
    about="questions with programs",
    result=Solved,
    roles=lambda _: {"rater": 1},
    questions=(RATE,),
    stages=(Stage("rating", "Rated"),),
    run=run,
    trial=lambda _: {"question": "Add 2 and 2.", "program": "print(2 + 2)"},
    chat=lambda row: (("user", row["question"]), ("assistant", row["program"])),
    keys=Keys("question", "program", "topic", code=("programs", "scripts"), seeds_rival=False),
)
