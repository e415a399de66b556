"""What a fine-tuning job does: dataclasses with a docstring per field, its bounds beside its default.

As in `config.settings`, `unfrozen` fields may change between two attempts. All else is frozen when the job is first
submitted, and that includes the number of ranks: the optimiser's state in a checkpoint is cut by rank, and sums are
taken in another order with another cut, so that a resumed run would not end where an undisturbed one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from gra_hpc.config import presets, sbatch_options
from gra_hpc.config.fields import MISSING, Most, expecting, setting, unfrozen
from gra_hpc.config.frozen import fingerprinted
from gra_hpc.config.rules import check_bounds
from gra_hpc.config.site import SiteConfig
from gra_hpc.records import digest
from gra_hpc.training.templates import check_template

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


class Trained(Enum):
    """Whether thoughts before an answer are trained on."""

    auto = "auto"
    inline = "inline"
    drop = "drop"


class Offload(Enum):
    """Where optimiser states (and, with ZeRO-3, parameters) are kept."""

    none = "none"
    cpu = "cpu"


@dataclass
class BaseModelConfig:
    """The model that is fine-tuned."""

    path: str = setting(MISSING, needed="a Hub id or a directory")
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

    path: str = setting(MISSING, needed="a release directory or a file")
    """A run or its release directory (its train split), or files (jsonl, json, csv, parquet) with `messages`, or with
    an instruction and a response."""
    limit: int = setting(0, ge=0, le=Most.COUNT)
    """Use the first N examples, in the data's order. 0: all."""
    limit_seed: int = setting(-1, ge=-1, le=Most.SEED)
    """Draw the N examples of `limit` at random with this seed. -1: the first N."""
    min_score: float = setting(0.0, ge=0, le=10)
    """Leave out rows of a release with a lower score."""
    last_round: int = setting(0, ge=0, le=99)
    """Use only rows of a release that were made up to this round. 0: all."""
    max_length: int = setting(4096, ge=16, le=Most.TOKENS)
    """Longest example, in tokens; also the length of a packed row. The paper uses 4096."""
    too_long: TooLong = TooLong.drop
    """drop: an example that is longer is left out and counted; truncate: its end is cut off (no end of a turn is learnt
    from it)."""
    thoughts: Trained = Trained.auto
    """Train on the thoughts before the last answer, within `<think>`. auto: those of a release with `thoughts=inline`,
    and those that a file has; inline: also those in a release's column; drop: none."""
    packing: bool = True
    """Put several examples into one row of max_length tokens; they do not see each other."""


@dataclass
class OptimizerConfig:
    """AdamW and its schedule. Defaults are the paper's."""

    epochs: float = setting(1.0, gt=0, le=1000)
    """Passes over the data."""
    max_steps: int = setting(0, ge=0, le=Most.COUNT)
    """Stop after so many optimiser steps. 0: by epochs."""
    global_batch: int = setting(256, ge=1, le=1_000_000)
    """Rows per optimiser step, over all ranks: with packing, packed rows (the paper counts examples)."""
    micro_batch: int = setting(4, ge=1, le=1_000_000)
    """Rows per rank and pass; accumulation follows from global_batch."""
    learning_rate: float = setting(5e-6, gt=0, le=1)
    """Peak learning rate."""
    schedule: str = setting("cosine", choices=("cosine", "linear", "constant_with_warmup"))
    """Schedule after the warm-up: cosine, linear, constant_with_warmup."""
    warmup: float = setting(0.03, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = setting(0.0, ge=0, le=10)
    """AdamW's weight decay."""
    beta1: float = setting(0.9, ge=0, lt=1)
    """AdamW's first moment."""
    beta2: float = setting(0.999, ge=0, lt=1)
    """AdamW's second moment."""
    max_grad_norm: float = setting(1.0, ge=0, le=1_000_000)
    """Gradients are clipped to this norm."""


@dataclass
class DeepSpeedConfig:
    """How DeepSpeed cuts the model's states over the ranks."""

    zero: int = setting(2, choices=(1, 2, 3))
    """ZeRO stage: 1 optimiser states, 2 and gradients (the paper), 3 and parameters."""
    offload_optimizer: Offload = Offload.none
    """cpu: optimiser states in host memory. DeepSpeed then compiles its CPU Adam (needs a C++ compiler)."""
    offload_parameters: Offload = Offload.none
    """cpu: parameters in host memory; ZeRO-3 only."""
    bucket_elements: int = setting(200_000_000, ge=1, le=1000 * Most.COUNT)
    """Elements that are reduced or gathered at once: memory against the number of messages."""
    extra: dict[str, Any] = setting({})
    """More of DeepSpeed's own configuration, merged last."""


@dataclass
class CheckpointConfig:
    """When the state is saved. A checkpoint is used only if all of it is there."""

    every_steps: int = unfrozen(0, ge=0, le=Most.COUNT)
    """Save after so many optimiser steps. 0: by time alone."""
    every_minutes: float = unfrozen(20.0, ge=0, le=Most.MINUTES)
    """Save when the last one is so old, in minutes. 0: off. A kill without warning costs at most this."""
    keep: int = unfrozen(2, ge=1, le=1000)
    """Checkpoints that are kept while the job runs."""
    keep_at_end: bool = unfrozen(False)
    """Keep the last ones beside the finished model (they are six times its size)."""


class Meeting(Enum):
    """Where ranks of several nodes meet."""

    file = "file"
    port = "port"


@dataclass
class RanksConfig:
    """The ranks, and the job they run in."""

    nodes: int = setting(1, ge=1, le=10_000)
    """Nodes."""
    per_node: int = setting(0, ge=0, le=Most.DEVICES)
    """Ranks on a node. 0: one per GPU of the site (`site.gpus_per_node`), or one on a CPU site."""
    device: Device = unfrozen(Device.auto)
    """auto: GPUs if there are any."""
    time_minutes: int = unfrozen(0, ge=0, le=Most.MINUTES)
    """Time limit of the job, in minutes. 0: `site.time_minutes`. It is requeued as often as it needs."""
    lead_s: int = unfrozen(0, ge=0, le=Most.SECONDS)
    """Seconds before the limit at which it saves and requeues itself. 0: `site.signal_lead_s`, but at least 300 where
    the limit leaves that."""
    memory_gb: float = unfrozen(0.0, ge=0, le=Most.GB)
    """Host memory of a node. 0: `site.memory_gb`."""
    cpus: int = unfrozen(0, ge=0, le=Most.CPUS)
    """CPUs of a node. 0: `site.cpus_per_task`."""
    partition: str = unfrozen("")
    """Slurm partition. Empty: `site.partition`."""
    interface: str = unfrozen("")
    """Network interface between nodes (NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME). Empty: the libraries choose."""
    meeting: Meeting = unfrozen(Meeting.file)
    """Where ranks of several nodes learn each other's addresses. file: in one that only you can reach, below the job's
    directory; its file system must keep locks between nodes (NFS, GPFS, Lustre with `flock`). port: at a port of the
    first node, which anybody on the cluster's network can reach."""


@dataclass
class FinetuneConfig:
    """Everything about one fine-tuning job."""

    model: BaseModelConfig = setting(BaseModelConfig)
    """The model that is fine-tuned."""
    data: TrainingDataConfig = setting(TrainingDataConfig)
    """The examples."""
    optimizer: OptimizerConfig = setting(OptimizerConfig)
    """AdamW and its schedule."""
    deepspeed: DeepSpeedConfig = setting(DeepSpeedConfig)
    """ZeRO and offload."""
    checkpoint: CheckpointConfig = unfrozen(CheckpointConfig)
    """When the state is saved."""
    launch: RanksConfig = setting(RanksConfig)
    """Ranks and job."""
    site: SiteConfig = unfrozen(SiteConfig)
    """The cluster."""
    seed: int = setting(0, ge=0, le=Most.SEED)
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
    return checked(presets.load_as(FinetuneConfig, path, own=True))


def checked(c: FinetuneConfig) -> FinetuneConfig:
    """Refuse impossible values.

    Raises:
        ConfigError: naming the key, its value and what was expected.
    """
    need = expecting("gra config show --preset finetune/paper  (explains every key)")
    check_bounds(c, need)
    check_template(c.model.chat_template, need)
    sbatch_options.check(c.site)
    o = c.optimizer
    once = o.micro_batch * c.world
    need(
        o.global_batch >= once and o.global_batch % once == 0,
        "optimizer.global_batch",
        o.global_batch,
        f"a multiple of {once} (micro_batch {o.micro_batch} x {c.world} ranks)",
    )
    need(
        c.deepspeed.offload_parameters is Offload.none or c.deepspeed.zero == 3,
        "deepspeed.offload_parameters",
        c.deepspeed.offload_parameters.value,
        "none, unless deepspeed.zero=3",
    )
    return c
