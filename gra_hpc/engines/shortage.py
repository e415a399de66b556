"""What is missing when models do not fit a node, in GB and by model; and pins that no node could meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gra_hpc.config import Residency
from gra_hpc.engines.cores import host_bytes
from gra_hpc.engines.deadline import Deadline
from gra_hpc.engines.hosts import Space
from gra_hpc.engines.performance import GB, Need
from gra_hpc.engines.turns import NodeModel
from gra_hpc.errors import ConfigError, EngineError, GraError

SMALLER = (
    "a quantized model, a smaller max_model_len, or larger nodes (site.gpus_per_node, site.gpu_memory_gb)"
)


def check_pins(model: NodeModel) -> None:
    """Refuse pins that cannot be met whatever the memory.

    Raises:
        ConfigError: naming the key, its value, and the values that are possible.
        EngineError: a pinned KV cache in which no call of the longest length fits.
    """
    kind = "cores" if model.cpu else "GPUs"
    if model.devices < 1:
        raise ConfigError(
            f"site: a node with {model.devices} {kind}", "set site.gpus_per_node or site.cpus_per_task"
        )
    if not model.cpu and model.memory <= 0:
        raise ConfigError(
            "site.gpu_memory_gb=0: expected the memory of one GPU, in GB", "set site.gpu_memory_gb"
        )
    for n in model.needs:
        t, f = n.tensor_parallel, n.facts
        key = f"models.{n.name}.tensor_parallel={t}"
        if t > model.devices:
            raise ConfigError(
                f"{key}: the node has {model.devices} {kind}",
                f"at most {model.devices}, or 0 (placement decides)",
            )
        if t and not f.can_split(t):
            fits = [str(k) for k in range(1, model.devices + 1) if f.can_split(k)]
            raise ConfigError(
                f"{key}: {f.heads} heads, {f.kv_heads} KV heads and a feed-forward width of {f.intermediate} cannot be"
                f" divided so",
                f"one of {', '.join(fits)}, or 0 (placement decides)",
            )
        room = model.devices // max(1, t)
        if n.replicas > room and not model.cpu:
            raise ConfigError(
                f"models.{n.name}.replicas={n.replicas}: {model.devices} GPUs hold {room} replicas of tensor parallel"
                f" size {max(1, t)}",
                f"at most {room}, or 0 (placement decides)",
            )
        _check_kv(model, n)


def _check_kv(model: NodeModel, need: Need) -> None:
    """Refuse a pinned KV cache that holds no call of the longest length on as many devices as the weights take."""
    if not need.kv_bytes or not need.generates:
        return
    free = replace(need, kv_bytes=0)
    splits = [max(1, need.tensor_parallel)] if model.cpu or need.tensor_parallel else _splits(model, free)
    fitting = [t for t in splits if model.cpu or free.fixed_bytes(t, model.constants) <= model.memory]
    splits = fitting or splits
    if not splits or any(need.starts(t) for t in splits):
        return
    least, t = min((need.longest_call(t) * t / GB, t) for t in splits)
    where = f" on {t} devices" if t > 1 else ""
    raise EngineError(
        f"models.{need.name}.kv_cache_gb={need.kv_bytes / GB:g}: one call of max_model_len={need.max_model_len} tokens"
        f" needs {least:.2f} GB{where}: {least - need.kv_bytes / GB:.2f} GB missing",
        "raise kv_cache_gb, or lower max_model_len",
    )


def explain_shortage(model: NodeModel, residency: Residency) -> GraError:
    """Why there is no placement."""
    if model.cpu:
        return _on_cpu(model, residency)
    for n in model.needs:
        missing = missing_alone(model, n)
        if missing > 0:
            t = max(_splits(model, n), default=0)
            if not t:
                return ConfigError(
                    f"models.{n.name}: no tensor parallel size fits its {n.facts.heads} heads and {model.devices} GPUs"
                )
            where = f"split over {t}" if t > 1 else "on one GPU"
            each = (n.fixed_bytes(t, model.constants) + n.kv_least(t)) / GB
            return EngineError(
                f"models.{n.name}: {missing:.1f} GB missing on each GPU: {where} it needs {each:.1f} GB (weights"
                f" {n.facts.weight_bytes / GB / t:.1f}, KV cache of one call {n.kv_least(t) / GB:.1f}, engine"
                f" {model.constants.engine_gb:.1f}), a GPU gives {model.memory / GB:.1f} GB",
                SMALLER,
            )
    if residency is Residency.together or len(model.needs) < 2:
        name, missing = missing_together(model, model.needs)
        return EngineError(
            f"models.{name}: does not fit beside the others: {missing:.1f} GB missing on the node"
            f" ({model.devices} x {model.memory / GB:.1f} GB)",
            "engine.residency=auto  (models take turns), or " + SMALLER,
        )
    free = replace(model, host_memory=0.0, deadline=Deadline(0.5), _known={})
    rota = free.best(residency) if model.host_memory else None
    if rota:
        turns = [sum(e.need.facts.weight_bytes for e in t.engines) / GB for t in rota.turns]
        asleep, host = sum(turns) - min(turns), model.host_memory / GB
        return EngineError(
            f"models.{model.needs[0].name} and {len(model.needs) - 1} more: taking turns needs {asleep:.1f} GB of host"
            f" memory for sleeping weights, site.memory_gb={host:.1f}: {asleep - host:.1f} GB missing",
            "raise site.memory_gb",
        )
    worst = max(model.needs, key=lambda n: least_size(model, n))
    kept = (len(model.needs) - 1) * model.constants.sleep_gb
    return EngineError(
        f"models.{worst.name}: does not fit while {len(model.needs) - 1} other models sleep:"
        f" {max(0.1, missing_alone(model, worst, kept)):.1f} GB missing on each GPU (sleepers keep {kept:.1f} GB)",
        SMALLER,
    )


def _on_cpu(model: NodeModel, residency: Residency) -> GraError:
    memory = model.memory / GB
    if residency is Residency.together:
        need = host_bytes(model.needs, model.constants) / GB
        name = model.needs[0].name
        then = "engine.residency=turns, or raise site.memory_gb"
        return EngineError(
            f"models.{name} and {len(model.needs) - 1} more: awake together they need {need:.1f} GB of host memory,"
            f" site.memory_gb={memory:.1f}: {need - memory:.1f} GB missing",
            then,
        )
    worst = max(model.needs, key=lambda n: host_bytes([n], model.constants))
    need = host_bytes([worst], model.constants) / GB
    return EngineError(
        f"models.{worst.name}: needs {need:.1f} GB of host memory, site.memory_gb={memory:.1f}:"
        f" {need - memory:.1f} GB missing",
        "raise site.memory_gb, or lower kv_cache_gb and max_model_len",
    )


def least_size(model: NodeModel, need: Need) -> float:
    """Bytes of the node that one engine of a model takes at least."""
    return min(
        (t * (need.fixed_bytes(t, model.constants) + need.kv_least(t)) for t in _splits(model, need)),
        default=float("inf"),
    )


def missing_alone(model: NodeModel, need: Need, kept_gb: float = 0.0) -> float:
    """GB missing on each device for a model by itself, split as far as possible; 0 if it fits."""
    each = [need.fixed_bytes(t, model.constants) + need.kv_least(t) for t in _splits(model, need)]
    if not each:
        return float("inf")
    return max(0.0, (min(each) - model.memory) / GB + kept_gb)


def missing_together(model: NodeModel, needs: Sequence[Need]) -> tuple[str, float]:
    """The model that finds no room, large ones first, and the GB missing on the node."""
    total = sum(least_size(model, n) for n in needs) - model.devices * model.memory
    free = [model.memory] * model.devices
    for n in needs:
        spots = [
            (min(free[s : s + t]) - n.fixed_bytes(t, model.constants) - n.kv_least(t), t, s)
            for t in _splits(model, n)
            for s in range(0, model.devices - t + 1, t)
        ]
        fitting = [spot for spot in spots if spot[0] >= 0]
        if not fitting:
            left, t, _ = max(spots, key=lambda spot: spot[0] * spot[1])
            return n.name, max(total, -left * t) / GB
        _, t, s = max(fitting, key=lambda spot: (-spot[1], spot[0]))
        for d in range(s, s + t):
            free[d] -= n.fixed_bytes(t, model.constants) + n.kv_least(t)
    return needs[-1].name, max(total, 0.0) / GB


def _splits(model: NodeModel, need: Need) -> list[int]:
    return Space((need,), model.devices, model.memory, model.constants).splits(need)
