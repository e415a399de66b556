"""The baseline: each seed is its own sample, as it is; nobody is asked."""

from __future__ import annotations

from gra_hpc.flows.gra.synthesize import fail
from gra_hpc.records import ACCEPTED, Record, Sample
from gra_hpc.thoughts import without_marks


def keep(sample: Sample, anchor: Record) -> Sample:
    """Make a sample of a seed; one without a response cannot be trained on, and fails."""
    sample.instruction, sample.response = anchor.instruction, anchor.response
    sample.keywords, sample.summary = anchor.keywords, anchor.summary
    sample.context = anchor.context
    sample.thoughts = without_marks(anchor.thoughts)
    if anchor.response.strip():
        sample.status = ACCEPTED
    else:
        fail(sample, "response", "the seed has no response")
    return sample
