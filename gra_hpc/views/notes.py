"""What a plan has that its owner may not mean: said beforehand, with counts, since nothing would fail for it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from gra_hpc.config.settings import MethodConfig, RunConfig
from gra_hpc.config.site import Executor
from gra_hpc.flows.registry import GRA_SETTINGS, SeedCounts, flow_of
from gra_hpc.run.plan import Plan

_ACTIVATES = re.compile(r"\b(?:conda|mamba|micromamba)\b.*\bactivate\b|\b(?:source|\.)\s+\S*activate\b")
"""A line of `site.setup` that puts another Python first."""


def notes(config: RunConfig, plan: Plan, candidates: int) -> Iterator[str]:
    """One line each.

    Args:
        candidates: of round 1.
    """
    seeds = SeedCounts(plan.seeds, plan.seed_unanswered, plan.undescribed, candidates)
    yield from flow_of(config).views.notes(config, seeds)
    yield from _unread(config)
    if config.method.target_accepted and (made := config.method.samples_per_seed) != MethodConfig().samples_per_seed:
        yield f"method.samples_per_seed={made} is not read: method.target_accepted says how many candidates there are"
    if config.launch.stop_at_target:
        yield from _unstopped(config, plan)
    yield from _python(config)


def _unstopped(config: RunConfig, plan: Plan) -> Iterator[str]:
    why = {
        "there is no method.target_accepted": not config.method.target_accepted,
        "merge.allow_partial makes a release of any shards": config.merge.allow_partial,
        "every shard has seeds that the next round needs": flow_of(config).forwards(config) is not None,
        "there is one shard a round": plan.shards == 1,
    }
    if reason := next((words for words, holds in why.items() if holds), ""):
        yield f"launch.stop_at_target=true does nothing: {reason}"


def _unread(config: RunConfig) -> Iterator[str]:
    """Settings of the method that are others than the usual ones, and that the flow has no use for."""
    method, usual, flow = config.method, MethodConfig(), flow_of(config)
    changed = [k for k in GRA_SETTINGS if k not in flow.reads and getattr(method, k) != getattr(usual, k)]
    if changed:
        yield f"method.flow={flow.name} does not read {', '.join(f'method.{k}' for k in changed)}, which are set"


def _python(config: RunConfig) -> Iterator[str]:
    site = config.site
    if site.executor is not Executor.slurm or site.python or site.container:
        return
    if line := next((s for s in site.setup if _ACTIVATES.search(s)), ""):
        yield f"site.setup: {line!r} chooses no Python: jobs run {sys.executable}, unless site.python=... names another"
