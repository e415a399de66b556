"""From a plan and a node to engines that answer: the one place where real and simulated engines part."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import tempfile
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from gra_hpc.config.references import expanded
from gra_hpc.config.settings import EngineKind, ModelConfig, RunConfig
from gra_hpc.config.site import SiteConfig
from gra_hpc.engines.endpoint import Endpoint
from gra_hpc.errors import EngineError
from gra_hpc.flows.calls import Answer, Engine, Request, Sampling
from gra_hpc.flows.registry import flow_of
from gra_hpc.models.files import embedding_length
from gra_hpc.models.identity import identity
from gra_hpc.placement.placement import Solution
from gra_hpc.run.pins import verify_embed, way_back
from gra_hpc.run.plan import Plan

log = logging.getLogger(__name__)

EMBEDDER = "sentence-embedder"
"""Name of the hosted embedding model in a placement."""


class Hosted(Engine, Protocol):
    """An engine that can be asked what it did, and told to end."""

    def drain(self) -> None:
        """Take no more calls: those that wait, and later ones, end with `Draining`; calls in flight are answered."""

    def stats(self) -> dict[str, Any]: ...


class Nobody:
    """The engine of a flow that asks nothing."""

    async def ask(self, request: Request) -> Answer:
        raise EngineError(f"{request.model}: asked, though this flow asks nobody")

    def drain(self) -> None:
        """Nothing waits."""

    def stats(self) -> dict[str, Any]:
        return {"engines": {}, "given_up": 0}


class Switchboard:
    """Engines of ours and endpoints behind one door: each call goes to who answers for its model."""

    def __init__(self, node: Hosted, endpoints: Mapping[str, Endpoint]) -> None:
        self._node, self._endpoints = node, endpoints

    async def ask(self, request: Request) -> Answer:
        endpoint = self._endpoints.get(request.model)
        return await (self._node.ask(request) if endpoint is None else endpoint.ask(request))

    def drain(self) -> None:
        """Nobody is asked any more."""
        self._node.drain()
        for endpoint in self._endpoints.values():
            endpoint.pace.drain()

    def stats(self) -> dict[str, Any]:
        node = self._node.stats()
        asked = {name: endpoint.report() for name, endpoint in self._endpoints.items()}
        given_up = node["given_up"] + sum(e.given_up for e in self._endpoints.values())
        return node | {"engines": node["engines"] | asked, "given_up": given_up}


@contextlib.asynccontextmanager
async def open_engine(config: RunConfig, plan: Plan, log_dir: Path) -> AsyncIterator[Hosted]:
    """The engines and endpoints of one shard, closed and swept on the way out. Engines start when first asked.

    Args:
        log_dir: where the engines' logs go; made when needed.

    Raises:
        EngineError: a placement that does not fit, or engines that cannot be started.
    """
    if plan.embed:  # needed at the end: better known at the start
        await asyncio.to_thread(verify_embed, plan.embed, config.merge.embed_model)
    if plan.embed and not config.engine.host_embedder and importlib.util.find_spec("sentence_transformers") is None:
        raise EngineError("embedding: sentence-transformers is not installed", "pip install sentence-transformers")
    if not flow_of(config).asks:
        yield Nobody()
        return
    if config.engine.kind is EngineKind.simulated:
        from gra_hpc.engines.planted import Planted
        from gra_hpc.engines.simulated import SimulatedEngine

        e = config.engine
        planted = Planted(e.simulated_truth, e.simulated_skill) if e.simulated_skill else None
        yield SimulatedEngine(e.simulated_latency_s, e.simulated_failures, planted)
        return
    async with contextlib.AsyncExitStack() as stack:
        endpoints = {}
        for name, model in endpoint_models(config).items():
            endpoints[name] = await stack.enter_async_context(verified_endpoint(name, model, plan))
        node = await stack.enter_async_context(_node(config, plan, log_dir))
        yield Switchboard(node, endpoints) if endpoints else node


@contextlib.asynccontextmanager
async def verified_endpoint(name: str, model: ModelConfig, plan: Plan) -> AsyncIterator[Endpoint]:
    """An endpoint that serves what it served when the run was planned; its connections are closed on the way out.

    Raises:
        EngineError: it is not reached, or serves something else.
    """
    endpoint = Endpoint(name, model)
    try:
        served, planned = await endpoint.served(), plan.models[name]
        if served.identity != planned.identity:
            now = replace(planned, directory=model.endpoint.url, served=served.name, identity=served.identity)
            raise EngineError(
                f"endpoint {name}: {planned.other(now)}",
                "bring back what it served, or plan a new run: gra plan RUN-2 --preset RUN/run.yaml"
                f" models.{name}.endpoint.url={model.endpoint.url}",
            )
        yield endpoint
    finally:
        await endpoint.close()


@contextlib.asynccontextmanager
async def _node(config: RunConfig, plan: Plan, log_dir: Path) -> AsyncIterator[Hosted]:
    """The engines of ours; nobody where every model has an endpoint."""
    solution = plan_engines(config, plan)
    if solution is None:
        yield Nobody()
        return
    from gra_hpc.engines import kept_caches
    from gra_hpc.engines.node import Node

    local, models = local_directory(config.site), pinned_models(config, plan)
    await asyncio.to_thread(verify_models, config, plan, models)
    embedder = hosted_embedder(config, plan)
    async with contextlib.AsyncExitStack() as stack:
        if config.site.copy_weights:
            from gra_hpc.engines.weight_copies import local_weights

            identities = {name: plan.models[name].identity for name in models}
            copies = local_weights(models, identities, local, config.site.copy_weights_gb)
            models = await asyncio.to_thread(copies.__enter__)
            stack.push(copies.__exit__)
        thinking = {name: pin.thinking for name, pin in plan.models.items()}
        parsers = {name: t.parser for name, t in thinking.items() if t and t.on}
        kept = await asyncio.to_thread(kept_caches.home, expanded("site.scratch", config.site.scratch))
        yield await stack.enter_async_context(
            Node(models | embedder, solution.placement, config.engine, local, log_dir, parsers=parsers, kept=kept)
        )


def verify_models(config: RunConfig, plan: Plan, models: dict[str, ModelConfig]) -> None:
    """Refuse models that are not on this node, or not what they were when the run was planned.

    Raises:
        EngineError: with what fetches them again.
    """
    for name, model in models.items():
        directory, entry = Path(model.path), config.models[name]
        if not directory.is_dir():
            raise EngineError(f"model {name}: {directory}: not there (seen from this node)", way_back(entry.path))
        if identity(directory, model, say=log.info) != plan.models[name].identity:
            raise EngineError(
                f"model {name}: the files in {directory} changed since the run was planned", way_back(entry.path)
            )


def local_directory(site: SiteConfig) -> Path:
    """The node-local directory, for sockets, temporary files and copies of weights; variables are this node's."""
    wanted = expanded("site.local_dir", site.local_dir)
    if "$" in wanted:
        log.warning("site.local_dir=%s is not set on this node; using %s", site.local_dir, tempfile.gettempdir())
        wanted = ""
    return Path(wanted or tempfile.gettempdir())


def pinned_models(config: RunConfig, plan: Plan) -> dict[str, ModelConfig]:
    """The models of ours that some member of the committee uses, with the directories they were planned with."""
    used = _used(config)
    return {
        name: replace(m, path=plan.models[name].directory)
        for name, m in config.models.items()
        if name in used and not m.endpoint.url
    }


def endpoint_models(config: RunConfig) -> dict[str, ModelConfig]:
    """The models that some member of the committee uses, and that an endpoint answers for."""
    return {name: m for name, m in config.models.items() if name in _used(config) and m.endpoint.url}


def _used(config: RunConfig) -> set[str]:
    return {m.model for m in config.committee.values()}


def hosted_embedder(config: RunConfig, plan: Plan) -> dict[str, ModelConfig]:
    """The sentence embedding model, if it is to be an engine beside the others; else nothing."""
    if not (config.engine.host_embedder and config.engine.kind is EngineKind.vllm and plan.embed):
        return {}
    directory = Path(plan.embed.directory)
    return {EMBEDDER: ModelConfig(path=str(directory), dtype="float32", max_model_len=embedding_length(directory))}


async def embed(engine: Engine, text: str) -> bytes | None:
    """A text's vector from a hosted embedding model: float16, little endian, of length one; None if it is refused.

    Raises:
        EngineError: the engine cannot be kept running.
    """
    messages = ({"role": "user", "content": text},)
    answer = await engine.ask(Request(EMBEDDER, "", messages, Sampling(0, 1, 1, 0)))
    return b64decode(answer.text) if answer.finish == "stop" else None


def plan_engines(config: RunConfig, plan: Plan) -> Solution | None:
    """Where the engines of one shard run, and why (`report.render` prints it); none where endpoints answer for all.

    Raises:
        ConfigError, EngineError: the models do not fit on the site's nodes.
    """
    from gra_hpc.models.facts import facts_of
    from gra_hpc.placement.placement import NodeSpec, constants_of, solve
    from gra_hpc.placement.workload import calibration_of, embedding_load, method_load

    node = NodeSpec.of_site(config.site)
    embedder = hosted_embedder(config, plan)
    models = pinned_models(config, plan) | embedder
    if not models:
        return None
    facts = {name: facts_of(m) for name, m in models.items()}
    rates, performance = calibration_of(config)
    expected = method_load(config, rates, thinking=plan.thinking_models, context_tokens=plan.context_tokens)
    load = {name: work for name, work in expected.items() if name in models}
    load |= dict.fromkeys(embedder, embedding_load(config, rates))
    constants = constants_of(config, node, performance, rates, plan.thinking_models)
    return solve(models, facts, node, load, config.engine.residency, constants=constants)


_AS_THEY_ARE = ("replica", "gpus", "turn", "in_flight", "arguments", "left_out")
"""Of engines' statistics, what does not add up."""


def did_since(before: Any, now: Any) -> Any:
    """What has been added to the statistics of engines (`Hosted.stats`) between two looks at them."""
    if isinstance(now, dict) and isinstance(before, dict):
        return {k: v if k in _AS_THEY_ARE or k not in before else did_since(before[k], v) for k, v in now.items()}
    if isinstance(now, list) and isinstance(before, list):
        if any(isinstance(v, dict) for v in now):
            return [did_since(b, v) for b, v in zip(before, now, strict=True)] if len(before) == len(now) else now
        return now if len(before) > len(now) or now[: len(before)] != before else now[len(before) :]
    if isinstance(now, int | float) and isinstance(before, int | float) and not isinstance(now, bool):
        return round(now - before, 6)
    return now
