"""A few prompts of a run, rendered with its own seeds before anything is asked."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

from gra_hpc.config.settings import Flow, RunConfig
from gra_hpc.conversation import shown
from gra_hpc.errors import SeedError
from gra_hpc.flows import domains
from gra_hpc.flows.render import render, wording
from gra_hpc.records import Record
from gra_hpc.run.merged import seeds_of
from gra_hpc.run.run import Run
from gra_hpc.run.slices import Pool, draw_examples
from gra_hpc.sources.seeds import read_records

SEEDS_READ = 2000
"""So many seeds are enough to draw examples from."""


def rendered(run: Run) -> Iterator[str]:
    """The Generator's first question, a Reviewer's and, where seeds lack it, round 0's, as chat messages.

    Raises:
        SeedError: a run without seeds.
    """
    seeds = list(islice(read_records(seeds_of(run, run.plan)), SEEDS_READ))
    if not seeds:
        raise SeedError(f"{run.seeds}: no seeds", f"gra plan {run.path} ...")
    for title, step, seed, variables in _questions(run.config, seeds):
        yield f"--- {title} ({step}.j2)"
        common = wording(run.config.method) | {"language": run.plan.language_of()(seed.id)}
        for message in render(step, common | variables, own=run.plan.own_templates):
            yield f"[{message['role']}]"
            yield from message["content"].split("\n")
        yield ""


def _questions(config: RunConfig, seeds: list[Record]) -> Iterator[tuple[str, str, Record, dict[str, object]]]:
    m, first = config.method, seeds[0]
    blank = next((s for s in seeds if not s.described), None)
    if blank:
        sizes = {"keywords": m.keywords, "summary_words": m.summary_words, "domains": domains.described(m)}
        yield "round 0 (describe): a seed is described", "describe", blank, {**_texts(blank), **sizes}
    described = [s for s in seeds if s.described]
    if m.flow is Flow.synthesize and described:
        pool = Pool(seeds, {})
        for s in described:
            pool.by_domain.setdefault(s.domain, []).append(s)
        anchor = described[0]
        examples = draw_examples(config, pool, anchor, random.Random(m.seed))
        domain = domains.label(m, anchor.domain)
        yield (
            "the Generator finds a topic",
            "keywords",
            anchor,
            {"domain_name": domain, "examples": examples, "keywords": m.keywords},
        )
    if m.flow is Flow.refine:
        yield ("the Generator answers again", "refine", first, _texts(first))
    if m.review_response and m.flow is not Flow.seeds:
        yield (
            "a Reviewer scores a response (here, a seed's)",
            "review_response",
            first,
            _texts(first),
        )


def _texts(seed: Record) -> dict[str, object]:
    """What questions about a response show of a seed."""
    return {"instruction": seed.instruction, "context": shown(seed.context), "response": seed.response}
