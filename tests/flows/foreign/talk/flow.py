"""talk: members speak in turn about a topic, each having heard all before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gra_hpc.config.fields import setting
from gra_hpc.flows import parsing
from gra_hpc.flows.ask import Question
from gra_hpc.flows.expected import Asked
from gra_hpc.flows.registry import Flow, Stage
from gra_hpc.flows.units import Context, Unit


@dataclass
class Settings:
    """Settings of talk."""

    turns: int = setting(5, ge=1, le=50)
    """In all."""


@dataclass
class Turn:
    """What a member said."""

    member: str
    text: str


@dataclass
class Talk:
    """What was said about a topic."""

    topic: str
    turns: tuple[Turn, ...] = ()


SAY = Question("say", "talking", lambda said, _: parsing.verbatim(said), prompts=Path(__file__).parent / "prompts")


async def run(context: Context, unit: Unit) -> None:
    """One talk: its state is this function's, and follows from the answers."""
    made, members = unit.made, unit.made.seats["speaker"]
    made.result = Talk(unit.anchor.instruction)
    for number in range(context.settings.turns):
        member = members[number % len(members)]
        before = [f"{t.member}: {t.text}" for t in made.result.turns]
        said = await context.ask(SAY, member, f"speaker-{number + 1}", topic=made.result.topic, before=before)
        made.result.turns += (Turn(member, said),)
    made.accept(float(len(made.result.turns)))


FLOW = Flow(
    name="talk",
    about="talks about topics",
    settings=Settings,
    result=Talk,
    roles=lambda _: {"speaker": 2},
    questions=(SAY,),
    stages=(Stage("talking", "Talked to the end"),),
    run=run,
    trial=lambda _: {"topic": "Bees.", "before": ["ada: They fly."]},
    expect=lambda config, _: [Asked("say", "speaker", config.talk.turns / 2)],  # type: ignore[attr-defined]
)
