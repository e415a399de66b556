"""From a plan and a node to engines that answer: the one place where real and simulated engines part."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from gra_hpc.config import EngineKind, RunConfig
from gra_hpc.engines.door import Engine
from gra_hpc.plan import Plan


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
    from gra_hpc.engines.load import committee_load
    from gra_hpc.engines.model_facts import ModelFacts
    from gra_hpc.engines.node import Node
    from gra_hpc.engines.placement import NodeSpec, plan_placement

    used = {m.model for m in config.committee.values()}
    models = {
        name: replace(m, path=plan.models[name].directory)
        for name, m in config.models.items()
        if name in used
    }
    facts = {name: ModelFacts.of_directory(Path(m.path)) for name, m in models.items()}
    placement = plan_placement(
        models, facts, NodeSpec.of_site(config.site), committee_load(config), config.engine.residency
    )
    local = Path(config.site.local_dir or tempfile.gettempdir())
    async with Node(models, placement, config.engine, local, log_dir) as node:
        yield node
