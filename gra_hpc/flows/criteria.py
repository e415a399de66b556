"""What Reviewers score by: the paper's criteria, or the user's own (`method.criteria`)."""

from __future__ import annotations

from gra_hpc.config.settings import MethodConfig
from gra_hpc.records import Rubric

MEANINGS = {
    "correctness": "facts, reasoning and code are right",
    "clarity": "it is easy to follow",
    "completeness": "it covers all that is asked",
    "relevance": "it keeps to what is asked",
    "coherence": "its parts fit together",
    "ethicality": "it is harmless and fair",
}
"""What the Reviewers are told of the paper's criteria for responses."""
INSTRUCTION_MEANINGS = {
    "reasonableness": "it makes sense and can be done by a text assistant",
    "completeness": "it contains what is needed to do it",
    "clarity": "it says plainly what is wanted",
}
"""The same of those for instructions."""


def meanings(method: MethodConfig) -> dict[str, str]:
    """What responses are scored by, with what the Reviewers are told of it."""
    return {name: said or MEANINGS[name] for name, said in method.criteria.items()} or MEANINGS


def instruction_meanings(method: MethodConfig) -> dict[str, str]:
    """The same of instructions."""
    own = method.instruction_criteria.items()
    return {name: said or INSTRUCTION_MEANINGS[name] for name, said in own} or INSTRUCTION_MEANINGS


def rubric_of(method: MethodConfig) -> Rubric:
    """Their names."""
    return Rubric(tuple(meanings(method)), tuple(instruction_meanings(method)))
