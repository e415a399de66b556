"""Where each engine runs: devices, tensor parallel size, memory, and whether engines take turns."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gra_hpc.config import ModelConfig, Residency, SiteConfig
from gra_hpc.errors import EngineError

if TYPE_CHECKING:
    from gra_hpc.engines.load import ModelLoad
    from gra_hpc.engines.model_facts import ModelFacts

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
        """The node a site's shards get; what the site does not say is taken from this machine (cores only)."""
        cores = site.cpus_per_task or len(os.sched_getaffinity(0))
        gpus = site.gpus_per_node
        return cls(
            kind="gpu" if gpus else "cpu",
            devices=gpus,
            memory_gb=site.gpu_memory_gb if gpus else 0.0,
            cores=cores,
            host_memory_gb=site.memory_gb,
            device_type=site.gpu_type if gpus else "cpu",
        )


CPU_KV_GB = 0.5
"""KV cache of an engine on a CPU node, when not pinned."""
DEVICE_SHARE = 0.92
"""Part of a GPU's memory that engines may take."""
ENGINE_GB = 2.0
"""Memory of an engine on a device beside weights and KV cache: CUDA context, activations, graphs."""
MIN_KV_GB = 1.0


def plan_placement(
    models: Mapping[str, ModelConfig],
    facts: Mapping[str, ModelFacts],
    node: NodeSpec,
    load: Mapping[str, ModelLoad],
    residency: Residency = Residency.auto,
) -> Placement:
    """Where every model of the pool runs on the node.

    Raises:
        EngineError: the models do not fit; says how many GB are missing, and for which model.
    """
    names = sorted(models, key=lambda n: -facts[n].weight_bytes)
    return (
        _on_cpu(models, names, node, residency)
        if node.kind == "cpu"
        else _on_gpus(models, facts, node, names, residency)
    )


def _on_cpu(
    models: Mapping[str, ModelConfig], names: list[str], node: NodeSpec, residency: Residency
) -> Placement:
    turns = residency is Residency.turns
    engines: list[EnginePlace] = []
    groups = [[n] for n in names] if turns else [names]
    for turn, group in enumerate(groups):
        seats = [(n, r) for n in group for r in range(max(1, models[n].replicas))]
        sizes = [max(1, models[n].tensor_parallel) for n, _ in seats]
        free = node.cores - sum(sizes)
        order = [i for i, (n, _) in enumerate(seats) if models[n].tensor_parallel <= 1]
        for k in range(max(0, free) if order else 0):
            sizes[order[k % len(order)]] += 1
        core = 0
        for (name, replica), size in zip(seats, sizes, strict=True):
            devices = tuple((core + i) % node.cores for i in range(size))
            core += size
            engines.append(
                EnginePlace(
                    name,
                    replica,
                    devices,
                    tensor_parallel=max(1, models[name].tensor_parallel),
                    kv_cache_bytes=int((models[name].kv_cache_gb or CPU_KV_GB) * GB),
                    turn=turn,
                )
            )
    return Placement(tuple(engines), "cpu")


def _on_gpus(
    models: Mapping[str, ModelConfig],
    facts: Mapping[str, ModelFacts],
    node: NodeSpec,
    names: list[str],
    residency: Residency,
) -> Placement:
    room = node.memory_gb * DEVICE_SHARE
    groups: list[dict[str, list[tuple[int, ...]]]] = []
    free_by_group: list[list[float]] = []
    for name in names:
        m, f = models[name], facts[name]
        kv = m.kv_cache_gb or MIN_KV_GB
        sizes = (
            [m.tensor_parallel]
            if m.tensor_parallel
            else [t for t in range(1, node.devices + 1) if f.can_split(t)]
        )
        need = {t: (f.weight_bytes / GB + kv) / t + ENGINE_GB for t in sizes}
        fits = [t for t in sizes if need[t] <= room and t <= node.devices]
        if not fits:
            least = min(need.values())
            raise EngineError(
                f"models.{name}: needs {least:.1f} GB on each of {min(need, key=lambda t: need[t])} devices, a device has"
                f" {room:.1f} GB to give: {least - room:.1f} GB missing",
                "larger GPUs, more of them, or a quantized model",
            )
        tp, replicas = fits[0], max(1, m.replicas)

        def put(
            free: list[float], tp: int = tp, size: float = need[tp], count: int = replicas
        ) -> list[tuple[int, ...]]:
            found: list[tuple[int, ...]] = []
            for _ in range(count):
                blocks = [tuple(range(k, k + tp)) for k in range(0, node.devices - tp + 1, tp)]
                blocks = [b for b in blocks if b not in found and min(free[d] for d in b) >= size]
                if not blocks:
                    return []
                best = max(blocks, key=lambda b: min(free[d] for d in b))
                found.append(best)
                for d in best:
                    free[d] -= size
            return found

        for group, free in zip(groups, free_by_group, strict=True):
            trial = list(free)
            blocks = put(trial) if residency is not Residency.turns else []
            if blocks:
                group[name], free[:] = blocks, trial
                break
        else:
            if groups and residency is Residency.together:
                raise EngineError(
                    f"models.{name}: does not fit beside the others: {need[tp] * replicas - sum(free_by_group[0]):.1f} GB"
                    " missing",
                    "engine.residency=turns",
                )
            trial = [room] * node.devices
            blocks = put(trial)
            if not blocks:
                raise EngineError(f"models.{name}.replicas={replicas}: only {node.devices} devices")
            groups.append({name: blocks})
            free_by_group.append(trial)
    engines: list[EnginePlace] = []
    for turn, (group, free) in enumerate(zip(groups, free_by_group, strict=True)):
        on = [sum(d in b for blocks in group.values() for b in blocks) for d in range(node.devices)]
        for name, blocks in group.items():
            for replica, block in enumerate(blocks):
                kv = models[name].kv_cache_gb or MIN_KV_GB
                size = (facts[name].weight_bytes / GB + kv) / len(block) + ENGINE_GB
                if not models[name].kv_cache_gb:
                    size += min(free[d] / on[d] for d in block)
                engines.append(
                    EnginePlace(
                        name,
                        replica,
                        block,
                        tensor_parallel=len(block),
                        memory_fraction=round(size / node.memory_gb - 0.0005, 3),
                        kv_cache_bytes=int(models[name].kv_cache_gb / len(block) * GB),
                        turn=turn,
                    )
                )
    return Placement(tuple(engines), "gpu")
