"""What an evaluation measures: dataclasses with a docstring per field, its bounds beside its default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from gra_hpc.config import presets, sbatch_options
from gra_hpc.config.directories import config_dirs, package_dirs
from gra_hpc.config.fields import MISSING, Most, expecting, setting, unfrozen
from gra_hpc.config.frozen import fingerprinted
from gra_hpc.config.rules import check_bounds
from gra_hpc.config.site import SiteConfig
from gra_hpc.errors import nearest
from gra_hpc.permissions import refuse_code_in_other_hands
from gra_hpc.records import digest
from gra_hpc.training.templates import check_template

FOLDER = "evaluate"
"""Where in `configs/` the presets are."""


class Kind(Enum):
    """How a benchmark is measured."""

    harness = "harness"
    heldout = "heldout"


class Backend(Enum):
    """What answers the harness."""

    vllm = "vllm"
    hf = "hf"


@dataclass
class EvaluatedModelConfig:
    """The model that is measured."""

    path: str = setting(MISSING, needed="a fine-tuning job, a model directory or a Hub id")
    """The directory of a fine-tuning job, a model directory, or a Hub id (staged)."""
    revision: str = ""
    """Hub commit. Empty: the one in the local cache."""
    dtype: str = setting("auto", choices=("auto", "bfloat16", "float16", "float32"))
    """auto, bfloat16, float16, float32."""
    max_model_len: int = setting(4096, ge=64, le=Most.TOKENS)
    """Context length in tokens, prompt and answer together."""
    chat_template: str = ""
    """A Jinja file, or `alpaca`, instead of the model's own chat template (fine-tuned models carry theirs)."""
    trust_remote_code: bool = False
    """Run code that comes with the model."""


@dataclass
class BackendConfig:
    """What answers the harness. It does not change what is asked."""

    kind: Backend = Backend.vllm
    """vllm, or hf (transformers: slow, needs nothing else)."""
    tensor_parallel: int = unfrozen(0, ge=0, le=Most.DEVICES)
    """Devices per model. 0: as many of the job's GPUs as the model can be split over (vllm)."""
    gpu_memory: float = unfrozen(0.9, gt=0, le=1)
    """Share of a GPU's memory that vLLM takes."""
    kv_cache_gb: float = unfrozen(1.0, ge=0, le=Most.GB)
    """Memory for vLLM's KV cache on a CPU, in GB."""
    batch: str = unfrozen("auto")
    """Batch size of the harness: auto, or a number (hf: number)."""
    args: dict[str, Any] = unfrozen({})
    """More arguments of the harness's model, as `name: value`."""
    env: dict[str, str] = unfrozen({})
    """Environment variables for the process."""


@dataclass
class BenchmarkConfig:
    """One benchmark: one task of the array."""

    kind: Kind = Kind.harness
    """harness: lm-evaluation-harness; heldout: mean loss per response token of human-written answers."""
    task: str = ""
    """Task or group of lm-evaluation-harness. Empty: the benchmark's name."""
    include: str = ""
    """Directory with task files (YAML) of your own."""
    metric: str = ""
    """Metric and filter as the harness names them (`exact_match,strict-match`). Needed for harness."""
    shots: int = setting(-1, ge=-1, le=1000)
    """Examples before each question. -1: as the task says."""
    limit: int = setting(0, ge=0, le=Most.COUNT)
    """Only the first N questions (rows, for heldout). 0: all."""
    chat: bool = True
    """Ask through the chat template."""
    generation: dict[str, Any] = setting({})
    """Sampling of generated answers, over the task's own (`temperature`, `max_gen_toks`, ...)."""
    unsafe_code: bool = False
    """The task runs code that the model wrote, on the node, as you: only where it says so here."""
    path: str = ""
    """heldout: rows with instruction and response, or chats; a file, or a release (its validation split)."""
    resamples: int = setting(2000, ge=100, le=1_000_000)
    """heldout: bootstrap resamples behind the confidence interval."""
    counts: bool = True
    """Whether it counts in the mean over benchmarks (heldout never does: it is a loss)."""


@dataclass
class ArrayConfig:
    """The job of a benchmark."""

    parallel: int = unfrozen(0, ge=0, le=Most.TASKS)
    """Benchmarks measured at once. 0: all (here, without Slurm: one after another)."""
    time_minutes: int = unfrozen(0, ge=0, le=Most.MINUTES)
    """Time limit of one benchmark, in minutes. 0: `site.time_minutes`."""
    memory_gb: float = unfrozen(0.0, ge=0, le=Most.GB)
    """Host memory. 0: `site.memory_gb`, or its share for these GPUs."""
    cpus: int = unfrozen(0, ge=0, le=Most.CPUS)
    """CPUs. 0: `site.cpus_per_task`, or its share for these GPUs."""
    gpus: int = unfrozen(0, ge=0, le=Most.DEVICES)
    """GPUs of one benchmark, on one node. 0: all of the site's nodes' (`site.gpus_per_node`)."""
    partition: str = unfrozen("")
    """Slurm partition. Empty: `site.partition`."""


@dataclass
class EvaluateConfig:
    """Everything about one evaluation."""

    model: EvaluatedModelConfig = setting(EvaluatedModelConfig)
    """The model that is measured."""
    backend: BackendConfig = setting(BackendConfig)
    """What answers."""
    benchmarks: dict[str, BenchmarkConfig] = setting({})
    """The benchmarks, by name."""
    only: list[str] = setting([])
    """Measure only these of them. Empty: all."""
    launch: ArrayConfig = unfrozen(ArrayConfig)
    """The job of a benchmark."""
    site: SiteConfig = unfrozen(SiteConfig)
    """The cluster."""
    seed: int = setting(0, ge=0, le=Most.SEED)
    """Seed of few-shot examples, sampling and bootstrap."""

    @property
    def names(self) -> list[str]:
        """The benchmarks to measure, in order: array index i is the i-th of them."""
        return list(self.only) or list(self.benchmarks)

    @property
    def fingerprint(self) -> str:
        """Digest of what the results depend on."""
        return digest(fingerprinted(self))


def located(path: str) -> Path | None:
    """A file or directory: from the working directory, or beside the configs (`configs/evaluate/tasks`)."""
    return next((p for p in (Path(path), *(d.parent / path for d in config_dirs())) if p.exists()), None)


def tasks_of(benchmark: BenchmarkConfig) -> Path | None:
    """The directory of a benchmark's own tasks; none if there is no such directory. Its YAML names Python that is run.

    Raises:
        OwnershipError: others may write there.
    """
    found = located(benchmark.include)
    if found and not any(found.resolve().is_relative_to(d.resolve()) for d in package_dirs()):
        refuse_code_in_other_hands(found)
    return found


def compose(preset: str, overrides: Sequence[str] = (), site: str = "") -> EvaluateConfig:
    """The checked configuration of a preset below `configs/evaluate/`, or of a YAML file, with overrides.

    Raises:
        ConfigError: as `presets.compose`.
    """
    return checked(presets.compose_as(EvaluateConfig, FOLDER, preset, overrides, site))


def load(path: Path) -> EvaluateConfig:
    """A saved configuration."""
    return checked(presets.load_as(EvaluateConfig, path, own=True))


def checked(c: EvaluateConfig) -> EvaluateConfig:
    """Refuse impossible values.

    Raises:
        ConfigError: naming the key, its value and what was expected.
    """
    need = expecting("gra config show --preset evaluate/paper  (explains every key)")
    check_bounds(c, need)
    check_template(c.model.chat_template, need)
    sbatch_options.check(c.site)
    need(bool(c.benchmarks), "benchmarks", "{}", "at least one benchmark")
    for name in c.only:
        near = nearest(name, list(c.benchmarks))
        need(name in c.benchmarks, "only", name, f"of {', '.join(c.benchmarks)}{near}")
    for name, b in c.benchmarks.items():
        where = f"benchmarks.{name}"
        need(all(ch.isalnum() or ch in "-_." for ch in name), "benchmarks", name, "letters, digits, - _ .")
        if b.kind is Kind.harness:
            need("," in b.metric, f"{where}.metric", b.metric, "METRIC,FILTER, such as acc,none")
            need(
                not b.include or tasks_of(b) is not None,
                f"{where}.include",
                b.include,
                "a directory with task files",
            )
        else:
            need(bool(b.path), f"{where}.path", b.path, "a file with instructions and responses")
    return c
