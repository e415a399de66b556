"""A few prompts of a run, rendered with its own seeds before anything is asked."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from gra_hpc.errors import SeedError
from gra_hpc.flows.registry import flow_of
from gra_hpc.flows.render import render, wording
from gra_hpc.run.merged import seeds_of
from gra_hpc.run.run import Run
from gra_hpc.sources.seeds import read_records

SEEDS_READ = 2000
"""So many seeds are enough to draw examples from."""


def rendered(run: Run) -> Iterator[str]:
    """The questions that its flow shows (`Views.prompts`), as chat messages.

    Raises:
        SeedError: a run without seeds.
    """
    seeds = list(islice(read_records(seeds_of(run, run.plan)), SEEDS_READ))
    if not seeds:
        raise SeedError(f"{run.seeds}: no seeds", f"gra plan {run.path} ...")
    for prompt in flow_of(run.config).views.prompts(run.config, seeds):
        yield f"--- {prompt.title} ({prompt.step}.j2)"
        common = wording(run.config.method) | {"language": run.plan.language_of()(prompt.seed.id)}
        for message in render(prompt.step, common | dict(prompt.variables), own=run.plan.own_templates):
            yield f"[{message['role']}]"
            yield from message["content"].split("\n")
        yield ""
