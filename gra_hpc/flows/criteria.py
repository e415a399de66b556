"""The criteria of a run: what Reviewers score responses and instructions by."""

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


def rubric_of(_: MethodConfig) -> Rubric:
    """Their names."""
    return Rubric()
