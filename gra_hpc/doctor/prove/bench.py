"""What the pieces of a proof work with: the node, its models, and engines placed on it as a run's would be."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from gra_hpc.config.settings import EngineConfig, ModelConfig, Residency, RunConfig
from gra_hpc.doctor.prove.outcome import CPU_PATIENCE
from gra_hpc.engines import vllm_server
from gra_hpc.engines.node import Node
from gra_hpc.engines.vllm_server import EngineSpec
from gra_hpc.errors import EngineError, GraError
from gra_hpc.flows.calls import Answer, Engine, Request, Sampling
from gra_hpc.models.facts import facts_of
from gra_hpc.models.files import embedding_length, model_directory
from gra_hpc.models.thinking import Thinking
from gra_hpc.placement.placement import EnginePlace, NodeSpec, Placement, Solution, constants_of, solve
from gra_hpc.run.engines import local_directory

log = logging.getLogger(__name__)

START_S = 200
"""Longest start of an engine of a small model, in seconds; `engine.start_timeout_s` if that is less."""
CALL_S = 60


@dataclass
class Bench:
    """The node under proof.

    Args:
        config: site, engine settings, and the model's entry under `name`.
        name: of the model that generates.
        directory: the proof's.
    """

    config: RunConfig
    name: str
    directory: Path
    no_engines: str = ""
    """Why no engine can be started on this node; empty: nothing is in the way."""
    gpus: int = field(init=False)
    """Devices that can be used: what the site says, until the node has been looked at."""

    def __post_init__(self) -> None:
        self.gpus = self.config.site.gpus_per_node

    @property
    def model(self) -> ModelConfig:
        return self.config.models[self.name]

    @property
    def on_cpu(self) -> bool:
        return not self.config.site.gpus_per_node

    @property
    def patience(self) -> float:
        """Times what GPUs need."""
        return CPU_PATIENCE if self.on_cpu else 1.0

    @property
    def engine(self) -> EngineConfig:
        """The site's settings of engines, with short patience: the proof's own time is short."""
        e = self.config.engine
        return replace(
            e,
            start_timeout_s=min(e.start_timeout_s, round(self.patience * START_S)),
            call_timeout_s=min(e.call_timeout_s, round(self.patience * CALL_S)),
            max_restarts=1,  # the second start is without a network of its own (engine.own_network)
            max_running=min(e.max_running, 256),
        )

    @property
    def node(self) -> NodeSpec:
        return NodeSpec.of_site(self.config.site)

    def embedder(self) -> ModelConfig:
        """The sentence embedding model.

        Raises:
            GraError: it is not here.
        """
        if not self.config.merge.embed_model:
            raise EngineError("no embedding model is set", "merge.embed_model=DIR")
        directory = model_directory(self.config.merge.embed_model, "", self.config.site.scratch)
        entry = ModelConfig(path=str(directory), dtype="float32", max_model_len=embedding_length(directory))
        return replace(entry, tensor_parallel=1, replicas=1)

    def placed(self, models: Mapping[str, ModelConfig], devices: int, residency: Residency) -> Solution:
        """Engines of models on so many of the node's devices, by the placement that runs have.

        Args:
            devices: GPUs; on a CPU node all cores are shared out.

        Raises:
            GraError: they do not fit; says how many GB are missing.
        """
        node = self.node if self.on_cpu else replace(self.node, devices=devices)
        facts = {name: facts_of(m) for name, m in models.items()}
        config = replace(self.config, engine=self.engine)
        return solve(models, facts, node, {}, residency, constants=constants_of(config, node))

    def refuse(self, name: str, model: ModelConfig, parser: str = "", embeds: bool = False) -> None:
        """Refuse an engine that cannot start, before it keeps the others from starting.

        Raises:
            EngineError: as `vllm_server.check`.
        """
        nowhere = Path()
        place = EnginePlace(name, 0, (0,), embeds=embeds)
        kind = "cpu" if self.on_cpu else "gpu"
        vllm_server.check(
            EngineSpec(place, model, self.engine, kind, nowhere, nowhere, nowhere, 0, parser=parser), Path(model.path)
        )

    def host(
        self, models: Mapping[str, ModelConfig], placement: Placement, thinking: Mapping[str, Thinking] | None = None
    ) -> Node:
        """The engines of a placement, as a worker hosts them."""
        for engine in placement.engines:
            log.info("to be hosted: %s", engine)
        parsers = {name: t.parser for name, t in (thinking or {}).items()}
        local = local_directory(self.config.site)
        return Node(dict(models), placement, self.engine, local, self.directory / "engines", parsers=parsers)


async def asked(
    engine: Engine,
    model: str,
    text: str,
    tokens: int,
    temperature: float = 0.0,
    schema: dict[str, object] | None = None,
    thinking: Thinking | None = None,
    thoughts: int = 0,
) -> Answer:
    """One call through the door.

    Raises:
        EngineError: the engine cannot be kept running, or refuses the call.
    """
    sampling = Sampling(temperature, 1.0, tokens, 1, 1.1 if schema else 1.0, thoughts)
    answer = await engine.ask(Request(model, "", ({"role": "user", "content": text},), sampling, schema, thinking))
    log.info(
        "%s: %s, %d + %d tokens, %.2f s, thoughts %r, text %r",
        *(model, answer.finish, answer.prompt_tokens, answer.completion_tokens, answer.seconds),
        *(answer.thoughts[:200], answer.text[:200]),
    )
    if answer.finish == "error":
        raise GraError(f"{model}: a call was refused: {answer.text}")
    return answer
