"""GRA-Refine: the Generator rewrites the response of each seed's instruction; review and adjudication as in GRA."""

from __future__ import annotations

from gra_hpc.config.settings import MethodConfig
from gra_hpc.conversation import shown
from gra_hpc.flows.ask import Ask, Unanswered
from gra_hpc.flows.gra import questions as q
from gra_hpc.flows.gra.synthesize import fail, judge_response
from gra_hpc.records import Record, Sample


async def refine(sample: Sample, anchor: Record, ask: Ask, method: MethodConfig) -> Sample:
    """Take one seed through rewriting and review; it ends accepted, rejected or failed."""
    sample.instruction, sample.keywords, sample.context = anchor.instruction, anchor.keywords, anchor.context
    try:
        sample.response = await ask(
            q.REFINE,
            sample.roles.generator,
            "generator",
            instruction=anchor.instruction,
            context=shown(anchor.context),
            response=anchor.response,
        )
        await judge_response(sample, ask, method)
    except Unanswered as e:
        fail(sample, e.stage, e.reason, e.raw)
    return sample
