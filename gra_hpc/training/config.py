"""What a fine-tuning job does: dataclasses with a docstring per field, checked in one place (`checked`).

As in `config.settings`, fields marked `PLACE` may change between two attempts. All else is frozen when the job is first
submitted, and that includes the number of ranks: the optimiser's state in a checkpoint is cut by rank, and sums are
taken in another order with another cut, so that a resumed run would not end where an undisturbed one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from gra_hpc.config import presets
from gra_hpc.config.frozen import fingerprinted
from gra_hpc.config.rules import expecting
from gra_hpc.config.settings import PLACE, SiteConfig, place
from gra_hpc.records import digest

FOLDER = "finetune"
"""Where in `configs/` the presets are."""


class Device(Enum):
    """What the ranks compute on."""

    auto = "auto"
    cuda = "cuda"
    cpu = "cpu"


class Dtype(Enum):
    """Numbers of the weights and of the arithmetic."""

    bfloat16 = "bfloat16"
    float32 = "float32"


class Attention(Enum):
    """How attention is computed."""

    auto = "auto"
    flash_attention_2 = "flash_attention_2"
    sdpa = "sdpa"
    eager = "eager"


class TooLong(Enum):
    """What becomes of examples longer than `data.max_length`."""

    drop = "drop"
    truncate = "truncate"


class Offload(Enum):
    """Where optimiser states (and, with ZeRO-3, parameters) are kept."""

    none = "none"
    cpu = "cpu"


@dataclass
class BaseModelConfig:
    """The model that is fine-tuned."""

    path: str = MISSING
    """Hub id (`org/name`, staged) or a local directory with config.json, safetensors and a tokenizer."""
    revision: str = ""
    """Hub commit. Empty: the one in the local cache."""
    chat_template: str = ""
    """A Jinja file, or `alpaca`: used instead of the model's own chat template. `alpaca` needs no special tokens: for
    base models that have no template. Empty: the model's own."""
    dtype: Dtype = Dtype.bfloat16
    """Numbers of weights and arithmetic; DeepSpeed keeps float32 master weights beside bfloat16. float32 on a CPU."""
    attention: Attention = Attention.auto
    """auto: flash_attention_2 where there are a GPU and the package flash_attn, else sdpa."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass, to save memory."""
    trust_remote_code: bool = False
    """Run code that comes with the model."""
    random_weights: bool = False
    """Start from random weights (config.json and a tokenizer are enough): for tests of the machinery."""


@dataclass
class TrainingDataConfig:
    """The examples."""

    path: str = MISSING
    """A run or its release directory (its train split), or files (jsonl, json, csv, parquet) with `messages`, or with
    an instruction and a response."""
    limit: int = 0
    """Use the first N examples, in the data's order. 0: all."""
    limit_seed: int = -1
    """Draw the N examples of `limit` at random with this seed. -1: the first N."""
    min_score: float = 0.0
    """Leave out rows of a release with a lower score."""
    last_round: int = 0
    """Use only rows of a release that were made up to this round. 0: all."""
    max_length: int = 4096
    """Longest example, in tokens; also the length of a packed row. The paper uses 4096."""
    too_long: TooLong = TooLong.drop
    """drop: an example that is longer is left out and counted; truncate: its end is cut off (no end of a turn is learnt
    from it)."""
    packing: bool = True
    """Put several examples into one row of max_length tokens; they do not see each other."""


@dataclass
class OptimizerConfig:
    """AdamW and its schedule. Defaults are the paper's."""

    epochs: float = 1.0
    """Passes over the data."""
    max_steps: int = 0
    """Stop after so many optimiser steps. 0: by epochs."""
    global_batch: int = 256
    """Rows per optimiser step, over all ranks: with packing, packed rows (the paper counts examples)."""
    micro_batch: int = 4
    """Rows per rank and pass; accumulation follows from global_batch."""
    learning_rate: float = 5e-6
    """Peak learning rate."""
    schedule: str = "cosine"
    """Schedule after the warm-up: cosine, linear, constant_with_warmup."""
    warmup: float = 0.03
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    beta1: float = 0.9
    """AdamW's first moment."""
    beta2: float = 0.999
    """AdamW's second moment."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""


@dataclass
class DeepSpeedConfig:
    """How DeepSpeed cuts the model's states over the ranks."""

    zero: int = 2
    """ZeRO stage: 1 optimiser states, 2 and gradients (the paper), 3 and parameters."""
    offload_optimizer: Offload = Offload.none
    """cpu: optimiser states in host memory. DeepSpeed then compiles its CPU Adam (needs a C++ compiler)."""
    offload_parameters: Offload = Offload.none
    """cpu: parameters in host memory; ZeRO-3 only."""
    bucket_elements: int = 200_000_000
    """Elements that are reduced or gathered at once: memory against the number of messages."""
    extra: dict[str, Any] = field(default_factory=dict)
    """More of DeepSpeed's own configuration, merged last."""


@dataclass
class CheckpointConfig:
    """When the state is saved. A checkpoint is used only if all of it is there."""

    every_steps: int = place(0)
    """Save after so many optimiser steps. 0: by time alone."""
    every_minutes: float = place(20.0)
    """Save when the last one is so old, in minutes. 0: off. A kill without warning costs at most this."""
    keep: int = place(2)
    """Checkpoints that are kept while the job runs."""
    keep_at_end: bool = place(False)
    """Keep the last ones beside the finished model (they are six times its size)."""


@dataclass
class RanksConfig:
    """The ranks, and the job they run in."""

    nodes: int = 1
    """Nodes."""
    per_node: int = 0
    """Ranks on a node. 0: one per GPU of the site (`site.gpus_per_node`), or one on a CPU site."""
    device: Device = place(Device.auto)
    """auto: GPUs if there are any."""
    time_minutes: int = place(0)
    """Time limit of the job, in minutes. 0: `site.time_minutes`. It is requeued as often as it needs."""
    lead_s: int = place(0)
    """Seconds before the limit at which it saves and requeues itself. 0: `site.signal_lead_s`, but at least 300 where
    the limit leaves that."""
    memory_gb: float = place(0.0)
    """Host memory of a node. 0: `site.memory_gb`."""
    cpus: int = place(0)
    """CPUs of a node. 0: `site.cpus_per_task`."""
    partition: str = place("")
    """Slurm partition. Empty: `site.partition`."""
    interface: str = place("")
    """Network interface between nodes (NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME). Empty: the libraries choose."""


@dataclass
class FinetuneConfig:
    """Everything about one fine-tuning job."""

    model: BaseModelConfig = field(default_factory=BaseModelConfig)
    """The model that is fine-tuned."""
    data: TrainingDataConfig = field(default_factory=TrainingDataConfig)
    """The examples."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW and its schedule."""
    deepspeed: DeepSpeedConfig = field(default_factory=DeepSpeedConfig)
    """ZeRO and offload."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig, metadata=PLACE)
    """When the state is saved."""
    launch: RanksConfig = field(default_factory=RanksConfig)
    """Ranks and job."""
    site: SiteConfig = field(default_factory=SiteConfig, metadata=PLACE)
    """The cluster."""
    seed: int = 0
    """Seed of the data's order and of everything else that is drawn."""

    @property
    def ranks_per_node(self) -> int:
        if self.launch.device is Device.cpu:
            return self.launch.per_node or 1
        return self.launch.per_node or self.site.gpus_per_node or 1

    @property
    def world(self) -> int:
        """Ranks in all."""
        return self.launch.nodes * self.ranks_per_node

    @property
    def accumulation(self) -> int:
        """Passes per optimiser step on each rank."""
        return self.optimizer.global_batch // (self.optimizer.micro_batch * self.world)

    @property
    def fingerprint(self) -> str:
        """Digest of what the finished model depends on."""
        return digest({**fingerprinted(self), "ranks": self.world})


def compose(preset: str, overrides: Sequence[str] = (), site: str = "") -> FinetuneConfig:
    """The checked configuration of a preset below `configs/finetune/`, or of a YAML file, with overrides.

    Raises:
        ConfigError: as `presets.compose`.
    """
    return checked(presets.compose_as(FinetuneConfig, FOLDER, preset, overrides, site))


def load(path: Path) -> FinetuneConfig:
    """A saved configuration."""
    return checked(presets.load_as(FinetuneConfig, path))


def checked(c: FinetuneConfig) -> FinetuneConfig:
    """Refuse impossible values.

    Raises:
        ConfigError: naming the key, its value and what was expected.
    """
    from gra_hpc.training.templates import BUILT_IN

    need = expecting("gra config show --preset finetune/paper  (explains every key)")
    o, d, n = c.optimizer, c.data, c.launch
    need(c.model.path != "", "model.path", "", "a Hub id or a directory")
    template = c.model.chat_template
    need(
        not template or template in BUILT_IN or Path(template).is_file(),
        "model.chat_template",
        template,
        f"a Jinja file, or {' or '.join(BUILT_IN)}",
    )
    need(d.path != "", "data.path", "", "a release directory or a file")
    need(d.limit >= 0, "data.limit", d.limit, "0 or more")
    need(d.last_round >= 0, "data.last_round", d.last_round, "0 or more")
    need(d.max_length >= 16, "data.max_length", d.max_length, "at least 16")
    need(o.epochs > 0, "optimizer.epochs", o.epochs, "above 0")
    need(o.max_steps >= 0, "optimizer.max_steps", o.max_steps, "0 or more")
    need(o.learning_rate > 0, "optimizer.learning_rate", o.learning_rate, "above 0")
    need(0 <= o.warmup < 1, "optimizer.warmup", o.warmup, "0 to below 1")
    schedules = ("cosine", "linear", "constant_with_warmup")
    need(o.schedule in schedules, "optimizer.schedule", o.schedule, " or ".join(schedules))
    need(n.nodes >= 1, "launch.nodes", n.nodes, "1 or more")
    need(n.per_node >= 0, "launch.per_node", n.per_node, "0 or more")
    need(o.micro_batch >= 1, "optimizer.micro_batch", o.micro_batch, "1 or more")
    once = o.micro_batch * c.world
    need(
        o.global_batch >= once and o.global_batch % once == 0,
        "optimizer.global_batch",
        o.global_batch,
        f"a multiple of {once} (micro_batch {o.micro_batch} x {c.world} ranks)",
    )
    need(c.deepspeed.zero in (1, 2, 3), "deepspeed.zero", c.deepspeed.zero, "1, 2 or 3")
    need(
        c.deepspeed.offload_parameters is Offload.none or c.deepspeed.zero == 3,
        "deepspeed.offload_parameters",
        c.deepspeed.offload_parameters.value,
        "none, unless deepspeed.zero=3",
    )
    need(c.checkpoint.every_steps >= 0, "checkpoint.every_steps", c.checkpoint.every_steps, "0 or more")
    need(c.checkpoint.every_minutes >= 0, "checkpoint.every_minutes", c.checkpoint.every_minutes, "0 or more")
    need(c.checkpoint.keep >= 1, "checkpoint.keep", c.checkpoint.keep, "1 or more")
    return c
