"""From a plan and a node to engines that answer: the one place where real and simulated engines part."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from gra_hpc.config import EngineKind, ModelConfig, RunConfig, SiteConfig
from gra_hpc.engines.door import Engine
from gra_hpc.engines.placement import Placement
from gra_hpc.plan import Plan

log = logging.getLogger(__name__)


class Hosted(Engine, Protocol):
    """An engine that can be asked what it did."""

    def stats(self) -> dict[str, Any]: ...


@contextlib.asynccontextmanager
async def open_engine(config: RunConfig, plan: Plan, log_dir: Path) -> AsyncIterator[Hosted]:
    """The engines of one shard, closed and swept on the way out. They start when first asked.

    Args:
        log_dir: where the engines' logs go; made when needed.

    Raises:
        EngineError: a placement that does not fit, or engines that cannot be started.
    """
    if config.engine.kind is EngineKind.simulated:
        from gra_hpc.engines.simulated import SimulatedEngine

        yield SimulatedEngine(config.engine.simulated_latency_s, config.engine.simulated_failures)
        return
    from gra_hpc.engines.node import Node

    placement = plan_engines(config, plan)
    local = local_directory(config.site)
    async with Node(pinned_models(config, plan), placement, config.engine, local, log_dir) as node:
        yield node


def local_directory(site: SiteConfig) -> Path:
    """The node-local directory, for sockets, temporary files and copies of weights; variables are this node's."""
    wanted = os.path.expandvars(site.local_dir)
    if "$" in wanted:
        log.warning(
            "site.local_dir=%s is not set on this node; using %s", site.local_dir, tempfile.gettempdir()
        )
        wanted = ""
    return Path(wanted or tempfile.gettempdir())


def pinned_models(config: RunConfig, plan: Plan) -> dict[str, ModelConfig]:
    """The models that some member of the committee uses, with the directories they were planned with."""
    used = {m.model for m in config.committee.values()}
    return {
        name: replace(m, path=plan.models[name].directory)
        for name, m in config.models.items()
        if name in used
    }


def plan_engines(config: RunConfig, plan: Plan) -> Placement:
    """Where the engines of one shard run.

    Raises:
        EngineError: the models do not fit on the site's nodes.
    """
    from gra_hpc.engines.model_facts import read_facts
    from gra_hpc.engines.placement import NodeSpec, plan_placement

    models = pinned_models(config, plan)
    facts = {name: read_facts(m.path, m.dtype) for name, m in models.items()}
    return plan_placement(models, facts, NodeSpec.of_site(config.site), {}, config.engine.residency)


def describe(placement: Placement) -> str:
    """One line per engine."""
    unit = "core" if placement.kind == "cpu" else "GPU"
    return "\n".join(
        f"{e.name}: {unit}s {', '.join(map(str, e.devices))}, tensor parallel {e.tensor_parallel}"
        + (f", turn {e.turn}" if placement.takes_turns else "")
        for e in placement.engines
    )
