"""What is missing when models do not fit a node, in GB and by model; and pins that no node could meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gra_hpc.config.settings import Residency
from gra_hpc.errors import ConfigError, EngineError, GraError
from gra_hpc.placement.cpu import host_bytes
from gra_hpc.placement.hosts import Space
from gra_hpc.placement.performance import GB, Need
from gra_hpc.placement.turns import NodeModel

SMALLER = "a quantized model, a smaller max_model_len, or larger nodes (site.gpus_per_node, site.gpu_memory_gb)"


def check_pins(model: NodeModel) -> None:
    """Refuse pins that cannot be met whatever else is placed.

    Raises:
        ConfigError: naming the key, its value, and the values that are possible.
        EngineError: a pinned KV cache in which no call of the longest length fits.
    """
    kind = "cores" if model.cpu else "GPUs"
    if model.devices < 1:
        raise ConfigError(f"site: a node with {model.devices} {kind}", "set site.gpus_per_node or site.cpus_per_task")
    if not model.cpu and model.memory <= 0:
        raise ConfigError("site.gpu_memory_gb=0: expected the memory of one GPU, in GB", "set site.gpu_memory_gb")
    for n in model.needs:
        t, f = n.tensor_parallel, n.facts
        key = f"models.{n.name}.tensor_parallel={t}"
        if t > model.devices:
            raise ConfigError(
                f"{key}: the node has {model.devices} {kind}", f"at most {model.devices}, or 0 (placement decides)"
            )
        if t and not f.can_split(t):
            fits = [str(k) for k in range(1, model.devices + 1) if f.can_split(k)]
            groups = f" in groups of {f.group} weights" if f.group else ""
            raise ConfigError(
                f"{key}: {f.heads} heads, {f.kv_heads} KV heads and a feed-forward width of {f.intermediate}{groups}"
                f" cannot be divided so",
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
            splits = _splits(model, n)
            if not splits:
                return ConfigError(
                    f"models.{n.name}: no tensor parallel size fits its {n.facts.heads} heads and {model.devices} GPUs"
                    f"{_pins(n)}"
                )
            t = min(splits, key=lambda t: n.fixed_bytes(t, model.constants) + n.kv_least(t))
            where = f"split over {t}" if t > 1 else "on one GPU"
            each = (n.fixed_bytes(t, model.constants) + n.kv_least(t)) / GB
            return EngineError(
                f"models.{n.name}: {missing:.1f} GB missing on each GPU{_pins(n)}: {where} it needs {each:.1f} GB"
                f" (weights {n.facts.weight_bytes / GB / t:.1f}, KV cache {n.kv_least(t) / GB:.1f}, engine"
                f" {model.constants.engine_gb:.1f}), a GPU gives {model.memory / GB:.1f} GB",
                _unpinned([n]) + SMALLER,
            )
    if residency is Residency.together or len(model.needs) < 2:
        name, missing = missing_together(model, model.needs)
        own = next(n for n in model.needs if n.name == name)
        beside = "beside the others" if len(model.needs) > 1 else "on this node"
        return EngineError(
            f"models.{name}{_pins(own)}: does not fit {beside}: {missing:.1f} GB missing on the node"
            f" ({model.devices} x {model.memory / GB:.1f} GB)",
            ("engine.residency=auto  (models take turns), or " if len(model.needs) > 1 else "")
            + _unpinned(model.needs)
            + SMALLER,
        )
    free = replace(model, host_memory=0.0, effort=0.1, _known={}, _ideals={})
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
    """The model that finds no room for all its engines, large ones first, and the GB missing on the node."""
    total = sum(max(1, n.replicas) * least_size(model, n) for n in needs) - model.devices * model.memory
    free = [model.memory] * model.devices
    for n in needs:
        mine: set[int] = set()
        for _ in range(max(1, n.replicas)):
            spots = [
                (min(free[s : s + t]) - n.fixed_bytes(t, model.constants) - n.kv_least(t), t, s)
                for t in _splits(model, n)
                for s in range(0, model.devices - t + 1, t)
                if not mine & set(range(s, s + t))
            ]
            fitting = [spot for spot in spots if spot[0] >= 0]
            if not fitting:
                lack = max((left * t for left, t, _ in spots), default=-least_size(model, n))
                return n.name, max(total, -lack) / GB
            _, t, s = max(fitting, key=lambda spot: (-spot[1], spot[0]))
            mine |= set(range(s, s + t))
            for d in range(s, s + t):
                free[d] -= n.fixed_bytes(t, model.constants) + n.kv_least(t)
    # All are placed one by one: what is missing is room in the order of the search, at least of the smallest engine.
    smallest = min(needs, key=lambda n: least_size(model, n))
    return smallest.name, max(total, least_size(model, smallest)) / GB


def _pins(need: Need) -> str:
    """` (pinned: replicas=4)`, or nothing."""
    pins = {"tensor_parallel": need.tensor_parallel, "replicas": need.replicas, "kv_cache_gb": need.kv_bytes / GB}
    told = [f"{key}={value:g}" for key, value in pins.items() if value]
    return f" (pinned: {', '.join(told)})" if told else ""


def _unpinned(needs: Sequence[Need]) -> str:
    """What to try first where there are pins."""
    if any(n.replicas > 1 for n in needs):
        return "fewer replicas, or 0 (placement decides); "
    return "tensor_parallel=0 (placement decides); " if any(n.tensor_parallel for n in needs) else ""


def _splits(model: NodeModel, need: Need) -> list[int]:
    return Space((need,), model.devices, model.memory, model.constants).splits(need)
