"""quiz: a member says whether a program answers a question. Its seeds' instructions are `topic: question`."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from gra_hpc.flows import choices
from gra_hpc.flows.ask import Question
from gra_hpc.flows.expected import Asked, StepSize
from gra_hpc.flows.keys import Keys
from gra_hpc.flows.payload import Made
from gra_hpc.flows.registry import Flow, Stage
from gra_hpc.flows.units import Context, Draw, Drawn, Unit
from gra_hpc.records import ACCEPTED, Record

PROMPTS = Path(__file__).parent / "prompts"


@dataclass
class Solved:
    """A question with its program."""

    topic: str
    question: str
    program: str
    rated: str = ""


ANSWERS = ("yes", "no")
RATE = Question(
    "rate", "rating", lambda said, _: choices.read(said, ANSWERS).code, choices=lambda _: ANSWERS, prompts=PROMPTS
)


def draw(of: Draw) -> Drawn:
    """Any member."""
    members = list(of.config.committee)

    def drawn(id_: str, anchor: Record, index: int, rng: random.Random) -> Unit:
        topic, _, question = anchor.instruction.partition(": ")
        result = Solved(topic, question, anchor.response)
        return Unit(Made(id_, of.round, anchor.id, index, "quiz", {"rater": (rng.choice(members),)}, result), anchor)

    return drawn


async def run(context: Context, unit: Unit) -> None:
    """One question."""
    made = unit.sample
    assert isinstance(made, Made)
    (rater,), row = made.seats["rater"], made.result
    row.rated = await context.ask(RATE, rater, "rater", question=row.question, program=row.program)
    made.score, made.status = float(row.rated == "yes"), ACCEPTED


FLOW = Flow(
    name="quiz",
    about="questions with programs",
    result=Solved,
    questions=(RATE,),
    stages=(Stage("rating", "Rated"),),
    draw=draw,
    run=run,
    prompts=PROMPTS,
    trial=lambda _: {"question": "Add 2 and 2.", "program": "print(2 + 2)"},
    expect=lambda *_: [Asked("rate", "rater", 1.0)],
    seats=lambda config: {"rater": dict.fromkeys(config.committee, 1 / len(config.committee))},
    sizes={"rate": StepSize(60, 1)},
    keys=Keys("question", "program", "topic", code=("programs", "scripts"), seeds_rival=False),
)
