"""The performance model behind placement: what one engine does in a second, from public figures of its device.

A roofline of continuous batching: one step decodes one token for each of `batch` running calls and takes in its share
of prompt tokens. It lasts as long as the slower of reading weights and KV cache (bandwidth) and multiplying (compute),
plus the all-reduces of tensor parallelism, plus a constant. Absolute figures are good to a factor; placement needs only
their ratios. `gra calibrate` measures a site's own, which replace these (`Constants.calibrated`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gra_hpc.errors import ConfigError
from gra_hpc.models.facts import ModelFacts
from gra_hpc.placement.devices import CORE, Device, like
from gra_hpc.placement.workload import ModelLoad

GB = 10**9


@dataclass(frozen=True)
class Constants:
    """What the performance model assumes. Every field can be replaced by a measurement."""

    device: Device
    compute_efficiency: float = 0.5
    """Reached part of the device's peak in matrix products of serving (40 to 60% on A100 and H100)."""
    bandwidth_efficiency: float = 0.8
    """Reached part of the memory bandwidth in decoding."""
    step_s: float = 0.003
    """Seconds of a step beside the model's work: scheduling, sampling, launching."""
    sequence_s: float = 8e-6
    """Seconds a step takes longer for each running call."""
    call_s: float = 0.0005
    """Embedding models: seconds a call takes beside its tokens."""
    max_running: int = 256
    """Calls in flight per replica (`engine.max_running`)."""
    window: int = 256
    """Samples in flight per shard (`launch.window`): what one cycle of a rotation works on."""
    calls_per_sample: float = 1.45
    """Calls in flight per sample in flight, on average: Reviewers are asked at once (`workload.calls_per_sample`)."""
    kv_use: float = 0.9
    """Part of the KV cache that running calls fill before the engine has to preempt."""
    device_share: float = 0.92
    """Part of a GPU's memory that engines may take together."""
    engine_gb: float = 2.0
    """Device memory of an engine beside weights and KV cache: CUDA context, activations, graphs."""
    embedder_gb: float = 1.0
    """The same for an embedding model."""
    cpu_engine_gb: float = 2.7
    """Host memory of an engine on a CPU beside weights and KV cache (measured: three processes)."""
    cpu_kv_gb: float = 0.5
    """KV cache of an engine on a CPU node, when not pinned."""
    sharing_loss: float = 0.05
    """Part of a device's time lost for each generating engine on it after the first (time slicing, cold caches)."""
    cpu_tensor_parallel: float = 0.65
    """Speed of tensor parallelism on a CPU (measured: 31 to 43% slower than one process on the same cores)."""
    sleep_gb: float = 1.0
    """Device memory that a sleeping engine keeps: CUDA context, NCCL buffers."""
    swap_s: float = 2.0
    """Seconds to put a turn to sleep and wake the next one, beside moving weights: draining, graphs, allocation."""
    start_s: float = 25.0
    """Seconds to start an engine; on a CPU node, where nothing can sleep, a swap costs this."""
    passes: float = 4.0
    """Cycles of a rotation a sample needs: each of its stages waits for the turn of the models it asks."""
    turn_gain: float = 0.1
    """Taking turns must promise this much more than staying awake: it counts on full windows and smooth swaps."""
    engine_cost: float = 0.001
    """Part of the throughput that one more engine must bring to be worth its start."""
    speed: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """By model: measured speed over modelled speed."""

    @property
    def calls_in_flight(self) -> float:
        """Calls that a shard's window keeps going, all engines together: what their batches are filled from."""
        return self.calls_per_sample * self.window

    def calibrated(self, values: Mapping[str, Any]) -> Constants:
        """With measured values in place of defaults; `device` may be a mapping of fields of `Device`.

        Raises:
            ConfigError: a name that is no constant, or a value that is no number.
        """
        known = {f.name for f in dataclasses.fields(self)}
        changes: dict[str, Any] = {}
        for key, value in values.items():
            if key == "device" and isinstance(value, Mapping):
                fields = {f.name for f in dataclasses.fields(Device)}
                if unknown := set(value) - fields:
                    raise ConfigError(
                        f"calibration: device.{min(unknown)}: expected one of {', '.join(sorted(fields))}",
                        "gra calibrate RUN writes such a file",
                    )
                changes[key] = dataclasses.replace(self.device, **value)
            elif key == "speed" and isinstance(value, Mapping):
                changes[key] = {str(k): float(v) for k, v in value.items()}
            elif key in known - {"device", "speed"} and isinstance(value, (int, float)):
                changes[key] = value
            else:
                raise ConfigError(
                    f"calibration: {key}={value!r}: expected a number for one of {', '.join(sorted(known))}",
                    "gra calibrate RUN writes such a file",
                )
        return dataclasses.replace(self, **changes)


def constants_for(device_type: str, memory_gb: float, kind: str = "gpu") -> Constants:
    """Defaults for a device, by its name (as Slurm or nvidia-smi write it), else guessed from its memory."""
    if kind == "cpu":
        return Constants(
            CORE,
            compute_efficiency=1.0,
            bandwidth_efficiency=1.0,
            step_s=0.007,
            sequence_s=2e-4,
            max_running=64,
        )
    return Constants(like(device_type, memory_gb))


@dataclass(frozen=True)
class Need:
    """One model that wants a place: its facts, its work per sample, and what the user has pinned."""

    name: str
    facts: ModelFacts
    load: ModelLoad
    max_model_len: int
    tensor_parallel: int = 0
    replicas: int = 0
    kv_bytes: int = 0
    """Pinned KV cache of a replica over all its devices, in bytes. 0: not pinned."""

    @property
    def generates(self) -> bool:
        return not self.facts.embedder

    @property
    def context_tokens(self) -> float:
        """KV cache a running call holds on average, in tokens: its prompt and half of its answer."""
        tokens = sum(r.completion_tokens for r in self.load.roles.values())
        if not tokens:
            return 1.0
        held = (
            r.completion_tokens * (r.prompt_tokens + r.completion_tokens / 2) / max(r.calls, 1e-9)
            for r in self.load.roles.values()
        )
        return max(1.0, sum(held) / tokens)

    def longest_call(self, tensor_parallel: int) -> float:
        """Bytes per device of one call of the longest length: without them the engine does not start."""
        longest = min(self.max_model_len, self.facts.max_length)
        return longest * self.facts.kv_bytes_per_device(tensor_parallel)

    def starts(self, tensor_parallel: int) -> bool:
        """Whether a pinned KV cache holds the longest call; what devices keep whole is not divided by their number."""
        if not self.kv_bytes or not self.generates:
            return True
        return self.kv_bytes / tensor_parallel >= self.longest_call(tensor_parallel)

    def kv_least(self, tensor_parallel: int) -> float:
        """Bytes per device of the least KV cache: the pinned one, else one call of the longest length."""
        return self.kv_bytes / tensor_parallel if self.kv_bytes else self.longest_call(tensor_parallel)

    def kv_full(self, tensor_parallel: int, constants: Constants) -> float:
        """Bytes per device with which `max_running` average calls run at once."""
        per_call = self.context_tokens * self.facts.kv_bytes_per_device(tensor_parallel)
        return max(self.kv_least(tensor_parallel), constants.max_running * per_call / constants.kv_use)

    def fixed_bytes(self, tensor_parallel: int, constants: Constants) -> float:
        """Bytes per device beside the KV cache."""
        extra = constants.engine_gb if self.generates else constants.embedder_gb
        return self.facts.weight_bytes / tensor_parallel + extra * GB


@dataclass(frozen=True)
class Rate:
    """What one replica does when it has its devices for itself."""

    samples_per_s: float
    """Samples whose calls to this model it answers in a second."""
    batch: float
    """Calls running at once."""
    tokens_per_s: float
    """Prompt (not cached) and completion tokens a second."""
    bound: str
    """What limits it: compute, memory (bandwidth), link (all-reduces) or steps (the constant part)."""


@dataclass(frozen=True)
class RateCurve:
    """One replica's rate as a function of its KV cache: everything else about it is settled."""

    answer_tokens: float
    prompt_tokens: float
    """Not in the prefix cache, per sample."""
    fixed_s: float
    """Seconds per sample, where there is nothing to decode."""
    calls_per_byte: float
    """Average calls that a byte of KV cache per device holds."""
    max_running: float
    weight_s: float
    """Reading all weights once."""
    decode_s: float
    """Reading the weights that one token uses."""
    cache_s: float
    """Reading the KV cache of one call."""
    compute_s: float
    """Multiplying for one call's token, and for the prompt tokens that go with it."""
    link_s: float
    """All-reduces of a step: latency."""
    link_call_s: float
    """All-reduces of a step: for each running call."""
    step_s: float
    sequence_s: float
    speed: float

    def batch(self, kv_bytes: float) -> float:
        """Calls running at once with so much KV cache per device."""
        return max(1.0, min(self.max_running, kv_bytes * self.calls_per_byte))

    def step(self, batch: float) -> float:
        """Seconds of one step."""
        # A mixture of experts reads more of its experts the more calls run at once.
        reading = min(self.weight_s, self.decode_s * batch) + self.cache_s * batch
        rest = self.link_s + self.step_s + (self.link_call_s + self.sequence_s) * batch
        return (max(reading, self.compute_s * batch) + rest) / self.speed

    def answer_tokens_per_s(self, batch: float) -> float:
        """Answer tokens a second with so many calls at once."""
        return batch / self.step(batch)

    def link_share(self, kv_bytes: float) -> float:
        """Part of a step that is spent on all-reduces."""
        batch = self.batch(kv_bytes)
        return (self.link_s + self.link_call_s * batch) / (self.step(batch) * self.speed) if self.answer_tokens else 0.0

    def samples_per_s(self, kv_bytes: float, calls: float = math.inf) -> float:
        """Samples whose calls to this model are answered in a second, with the devices for itself.

        Args:
            kv_bytes: KV cache per device.
            calls: calls that are there to run at once; no more than the cache holds do.
        """
        if not self.answer_tokens:
            return 1 / self.fixed_s
        batch = min(self.batch(kv_bytes), calls)
        return batch / (self.answer_tokens * self.step(batch))

    def rate(self, kv_bytes: float, calls: float = math.inf) -> Rate:
        """The same with its reasons."""
        samples = self.samples_per_s(kv_bytes, calls)
        if not self.answer_tokens:
            return Rate(samples, 1.0, samples * self.prompt_tokens, "compute")
        batch = min(self.batch(kv_bytes), calls)
        parts = {
            "compute": self.compute_s * batch,
            "memory": min(self.weight_s, self.decode_s * batch) + self.cache_s * batch,
            "link": self.link_s + self.link_call_s * batch,
            "steps": self.step_s + self.sequence_s * batch,
        }
        tokens = samples * (self.prompt_tokens + self.answer_tokens)
        return Rate(samples, batch, tokens, max(parts, key=lambda k: parts[k]))


def rate_curve(need: Need, tensor_parallel: int, constants: Constants, cores: int = 0) -> RateCurve:
    """Rate of one replica over its KV cache.

    Args:
        need: the model and its load per sample.
        tensor_parallel: devices it is split over (processes, on a CPU).
        constants: figures of one device (of one core, on a CPU).
        cores: cores of the replica, on a CPU; 0: devices are GPUs.
    """
    d, t, f = constants.device, tensor_parallel, need.facts
    width = cores * (constants.cpu_tensor_parallel if t > 1 else 1.0) if cores else t
    flops = width * d.tflops * 1e12 * constants.compute_efficiency
    bandwidth = width * d.bandwidth_gbs * 1e9 * constants.bandwidth_efficiency
    speed = constants.speed.get(need.name, 1.0)
    prompt = max(0.0, need.load.prompt_tokens - need.load.cached_tokens)
    answer = need.load.completion_tokens if need.generates else 0.0
    token_s = 2 * f.active_parameters / flops
    per_call = max(1e-9, need.context_tokens * f.kv_bytes_per_device(t))
    tokens = 1 + prompt / answer if answer else 0.0
    linked = t > 1 and not cores
    moved = 2 * f.hidden * 2 * (t - 1) / t / (d.link_gbs * 1e9)  # ring all-reduce of 16-bit activations, per token
    return RateCurve(
        answer_tokens=answer,
        prompt_tokens=prompt,
        fixed_s=max(1e-9, (prompt * token_s + need.load.calls * constants.call_s) / speed),
        calls_per_byte=constants.kv_use / per_call,
        max_running=float(constants.max_running),
        weight_s=f.weight_bytes / bandwidth,
        decode_s=f.decode_bytes / bandwidth,
        cache_s=per_call * t / bandwidth,
        compute_s=tokens * token_s,
        link_s=2 * f.layers * d.link_latency_us * 1e-6 if linked else 0.0,
        link_call_s=2 * f.layers * tokens * moved if linked else 0.0,
        step_s=constants.step_s,
        sequence_s=constants.sequence_s,
        speed=speed,
    )
