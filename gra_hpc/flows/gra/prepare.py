"""Round 0: domain, keywords and summary of a seed that comes without them."""

from __future__ import annotations

from gra_hpc.config.settings import MethodConfig
from gra_hpc.conversation import shown
from gra_hpc.flows import domains
from gra_hpc.flows.ask import Ask, Unanswered
from gra_hpc.flows.gra import questions as q
from gra_hpc.flows.gra.synthesize import fail
from gra_hpc.records import ACCEPTED, Record, Sample


async def prepare(sample: Sample, seed: Record, ask: Ask, method: MethodConfig) -> Sample:
    """Describe one seed; what it already carries is kept."""
    sample.instruction, sample.response, sample.context = seed.instruction, seed.response, seed.context
    try:
        domain, keywords, summary = await ask(
            q.DESCRIBE,
            sample.roles.generator,
            "generator",
            instruction=seed.instruction,
            context=shown(seed.context),
            response=seed.response,
            keywords=method.keywords,
            summary_words=method.summary_words,
            domains=domains.described(method),
            domain_names=domains.domains_of(method),
        )
    except Unanswered as e:
        fail(sample, e.stage, e.reason, e.raw)
        return sample
    sample.domain = seed.domain or domain
    sample.keywords = seed.keywords or keywords
    sample.summary = seed.summary or summary
    sample.status = ACCEPTED
    return sample
