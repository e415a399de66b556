"""What a flow's candidates are expected to cost: how often each question is asked, and how long it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

THOUGHT_TOKENS = 700.0
"""Stated default of thoughts before an answer, whatever is asked: of models of 4 to 8 billion parameters, some write a
few hundred and some thousands."""


BYTES_A_TOKEN = 4.4
"""Of texts in UTF-8, about: English has so many characters a token, and scripts of more bytes a character have fewer
characters."""


@dataclass(frozen=True)
class StepSize:
    """One question, on average."""

    prompt_tokens: float
    completion_tokens: float
    tries: float = 1.0
    """Calls until the answer can be used."""
    thought_tokens: float = THOUGHT_TOKENS
    """What a model that thinks writes before its answer."""


GUIDED, FREE = StepSize(200, 40), StepSize(200, 400)
"""Stated defaults of a question whose answer is guided, and of one whose answer is not."""


@dataclass(frozen=True)
class Asked:
    """How often one step is asked of one role, per sample."""

    step: str
    role: str
    times: float
    """Per seat of the role."""
    context: bool = False
    """Whether its prompt carries the context of the candidate's seed, where that has one."""
    answer_tokens: float = 0.0
    """What the run's settings add to the answer beyond the stated default: a measured length has it already."""


class Rates(Protocol):
    """What a flow's decisions come to (`placement.workload.MethodRates`)."""

    @property
    def acceptance(self) -> float:
        """Share of candidates accepted. 0: `method.expected_acceptance`."""

    @property
    def instruction_pass(self) -> float:
        """Share of instructions that no Reviewer gives a zero."""

    @property
    def adjudicated(self) -> float:
        """Share of what was judged that goes to the Adjudicator."""
