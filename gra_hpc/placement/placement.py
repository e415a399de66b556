"""Where each engine runs: devices, tensor parallel size, memory, and whether engines take turns."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING, Any

from gra_hpc.config.settings import ModelConfig, Residency, RunConfig
from gra_hpc.config.site import Executor, SiteConfig
from gra_hpc.errors import ConfigError

if TYPE_CHECKING:
    from gra_hpc.models.facts import ModelFacts
    from gra_hpc.placement.performance import Constants, Need
    from gra_hpc.placement.turns import NodeModel, Rota
    from gra_hpc.placement.workload import MethodRates, ModelLoad

GB = 10**9


@dataclass(frozen=True)
class EnginePlace:
    """One engine process: one replica of one model."""

    model: str
    """Name of an entry in `models`."""
    replica: int
    devices: tuple[int, ...]
    """GPU indices; on a CPU node, indices of the cores its threads are bound to."""
    tensor_parallel: int = 1
    memory_fraction: float = 0.9
    """Share of each device's memory this engine may take (vLLM's gpu_memory_utilization); unused on a CPU."""
    kv_cache_bytes: int = 0
    """KV cache of the replica, in bytes per device; 0: what the memory fraction leaves."""
    turn: int = 0
    """Engines with the same turn are awake together; all 0 when nobody takes turns."""
    embeds: bool = False
    """It gives vectors, not text."""
    batch: int = 0
    """Calls that its KV cache is expected to hold at once; 0: not known."""
    weight: float = 1.0
    """Part of its model's calls in flight that it should have, against the other replicas'."""

    @property
    def name(self) -> str:
        return f"{self.model}-{self.replica}"


@dataclass(frozen=True)
class Placement:
    """All engines of one node."""

    engines: tuple[EnginePlace, ...]
    kind: str
    """gpu or cpu."""

    @property
    def takes_turns(self) -> bool:
        return len({e.turn for e in self.engines}) > 1

    def beside(self, engine: EnginePlace) -> frozenset[int]:
        """Devices of the engines that are awake with this one."""
        others = (e for e in self.engines if e.turn == engine.turn and e.name != engine.name)
        return frozenset(d for e in others for d in e.devices)


@dataclass(frozen=True)
class NodeSpec:
    """What a node offers to a shard; its devices are alike."""

    kind: str
    """gpu or cpu."""
    devices: int = 0
    """GPUs; 0 on a CPU node."""
    memory_gb: float = 0.0
    """Memory of one GPU, in GB (10^9 bytes)."""
    cores: int = 1
    """CPU cores the shard may use."""
    host_memory_gb: float = 0.0
    """Host memory the shard may use, in GB. 0: unknown, not checked."""
    device_type: str = ""
    """a100, h100, l40s, ...: picks the constants of the performance model. Empty: guessed from the memory."""

    @classmethod
    def of_site(cls, site: SiteConfig) -> NodeSpec:
        """The node a site's shards get. Where it does not say: this machine's cores, and for local runs its memory."""
        cores = site.task_cpus or len(os.sched_getaffinity(0))
        gpus = site.gpus_per_node
        memory = site.task_memory_gb
        if not memory and site.executor is Executor.local:
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB
        return cls(
            kind="gpu" if gpus else "cpu",
            devices=gpus,
            memory_gb=site.gpu_memory_gb if gpus else 0.0,
            cores=cores,
            host_memory_gb=memory,
            device_type=site.gpu_type if gpus else "cpu",
        )


def plan_placement(
    models: Mapping[str, ModelConfig],
    facts: Mapping[str, ModelFacts],
    node: NodeSpec,
    load: Mapping[str, ModelLoad],
    residency: Residency = Residency.auto,
    *,
    constants: Constants | None = None,
) -> Placement:
    """Where every model of the committee runs on the node: the placement with the highest committee throughput.

    Args:
        models: the committee's, embedding models too; pinned tensor_parallel, replicas and kv_cache_gb are honoured.
        facts: by model (`facts.read_facts`).
        node: what a shard's node offers.
        load: work per sample by model (`workload.method_load`). A model that is missing has a usual member's load; one
            that is there without calls gets no engine.
        residency: together, turns (one model awake at a time), or auto (the faster; turns where nothing else fits).
        constants: the performance model's; from the node's device if not given.

    Raises:
        ConfigError: a pin that cannot be met (tensor parallelism that heads do not allow, more devices than there are).
        EngineError: the models do not fit; says how many GB are missing, and for which model.
    """
    return solve(models, facts, node, load, residency, constants=constants).placement


@dataclass(frozen=True)
class Solution:
    """A placement and why it was chosen (`report.py` prints it)."""

    placement: Placement
    rota: Rota
    """The engines by turn, with memory, rates and times."""
    model: NodeModel
    """What laid them out; lays out alternatives."""
    node: NodeSpec
    seconds: float
    """CPU time of the search."""

    @property
    def start_s(self) -> float:
        """Seconds until a node's engines answer: those that would disturb each other start one after another."""
        engines = [e for turn in self.rota.turns for e in turn.engines]
        starts = max(1, len(engines)) if self.model.cpu else len({e.need.name for e in engines})
        return self.model.constants.start_s * starts


def solve(
    models: Mapping[str, ModelConfig],
    facts: Mapping[str, ModelFacts],
    node: NodeSpec,
    load: Mapping[str, ModelLoad],
    residency: Residency = Residency.auto,
    *,
    constants: Constants | None = None,
) -> Solution:
    """As `plan_placement`, with what is needed to explain it."""
    from gra_hpc.placement.performance import constants_for
    from gra_hpc.placement.shortage import check_pins, explain_shortage
    from gra_hpc.placement.turns import NodeModel

    constants = constants or constants_for(node.device_type, node.memory_gb, node.kind)
    needs = _needs(models, facts, load)
    cpu = node.kind == "cpu"
    began = time.process_time()
    model = NodeModel(
        needs=needs,
        devices=node.cores if cpu else node.devices,
        memory=node.host_memory_gb * GB if cpu else node.memory_gb * GB * constants.device_share,
        constants=constants,
        cpu=cpu,
        host_memory=0.0 if cpu else node.host_memory_gb * GB,
    )
    check_pins(model)
    rota = model.best(residency)
    if rota is None:
        raise explain_shortage(model, residency)
    return Solution(_placement(rota, node, constants), rota, model, node, time.process_time() - began)


def constants_of(
    config: RunConfig,
    node: NodeSpec,
    calibration: Mapping[str, Any] | None = None,
    rates: MethodRates | None = None,
    thinking: Collection[str] = (),
) -> Constants:
    """The performance model's constants for a run: its node's device, its window and batch limits, what was measured.

    Args:
        config: `engine.max_running` and `launch.window`; the method, which says how many calls a sample has in flight.
        node: kind, device type and memory.
        calibration: the `performance` part of a calibration file (`workload.read_calibration`).
        rates: its `method` part; stated defaults if not given.
        thinking: models that think before they answer.
    """
    from gra_hpc.placement.performance import constants_for
    from gra_hpc.placement.workload import calls_per_sample

    defaults = constants_for(node.device_type, node.memory_gb, node.kind)
    own = {
        "max_running": min(defaults.max_running, config.engine.max_running),
        "window": config.launch.window,
        "calls_per_sample": calls_per_sample(config, rates, thinking),
    }
    return defaults.calibrated(own).calibrated(calibration or {})


def _needs(
    models: Mapping[str, ModelConfig], facts: Mapping[str, ModelFacts], load: Mapping[str, ModelLoad]
) -> tuple[Need, ...]:
    """The models that want an engine, largest first."""
    from gra_hpc.placement.performance import Need
    from gra_hpc.placement.workload import usual_load

    needs = []
    for name, m in models.items():
        if name not in facts:
            raise ConfigError(f"models.{name}: its size is not known", "give a model directory with config.json")
        f = facts[name]
        work = load.get(name) or usual_load(f.embedder)
        if name in load and not load[name].calls:
            continue
        needs.append(
            Need(
                name=name,
                facts=f,
                load=work,
                max_model_len=m.max_model_len,
                tensor_parallel=m.tensor_parallel,
                replicas=m.replicas,
                kv_bytes=int(m.kv_cache_gb * GB),
            )
        )
    if not needs:
        raise ConfigError("placement: no model has any work", "gra config show  (committee, method.policy)")
    return tuple(sorted(needs, key=lambda n: -n.facts.weight_bytes))


def _placement(rota: Rota, node: NodeSpec, constants: Constants) -> Placement:
    """The engines as processes to start."""
    places: list[EnginePlace] = []
    counts: dict[str, int] = {}
    for number, turn in enumerate(rota.turns):
        for e in turn.engines:
            name = e.need.name
            replica = counts.get(name, 0)
            counts[name] = replica + 1
            if node.kind == "cpu":
                kv, fraction = int(e.kv_bytes), 0.9
            else:
                shared = any(o is not e and set(o.devices) & set(e.devices) for o in turn.engines)
                size = e.need.fixed_bytes(e.tensor_parallel, constants) + e.kv_bytes
                alone = not shared and not e.need.kv_bytes and e.need.generates
                fraction = floor(1000 * size / (node.memory_gb * GB)) / 1000
                # An engine alone on its devices takes what its fraction leaves; neighbours are given their bytes, since
                # vLLM measures free memory while others load.
                kv = 0 if alone else int(e.kv_bytes)
            places.append(
                EnginePlace(
                    model=name,
                    replica=replica,
                    devices=e.devices,
                    tensor_parallel=e.tensor_parallel,
                    memory_fraction=fraction,
                    kv_cache_bytes=kv,
                    turn=number,
                    embeds=not e.need.generates,
                    batch=round(e.batch(constants)) if e.need.generates else 0,
                    weight=round(max(1.0, e.calls), 1),
                )
            )
    return Placement(tuple(places), node.kind)
