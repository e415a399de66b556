"""One benchmark through lm-evaluation-harness, with vLLM or transformers behind it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from gra_hpc.errors import ConfigError, nearest
from gra_hpc.evaluation.config import Backend, BenchmarkConfig, EvaluateConfig, tasks_of
from gra_hpc.models.facts import read_facts

log = logging.getLogger(__name__)


def task_manager(name: str, benchmark: BenchmarkConfig) -> Any:
    """The tasks of the benchmark's `include`, and the harness's where it is not one of them: to read its 14,000 files
    takes longer than many a benchmark."""
    from lm_eval.tasks import TaskManager

    found = tasks_of(benchmark) if benchmark.include else None
    path = str(found.absolute()) if found else None
    if path:
        own = TaskManager(include_path=path, include_defaults=False)
        if (benchmark.task or name) in own.all_subtasks:  # a group may have tasks of the harness
            return own
    return TaskManager(include_path=path)


def task_name(name: str, benchmark: BenchmarkConfig, manager: Any) -> str:
    """The task to run.

    Raises:
        ConfigError: no task or group of that name.
    """
    task = benchmark.task or name
    known = list(manager.all_tasks)
    if task not in known:
        raise ConfigError(f"benchmarks.{name}.task={task}: no such task{nearest(task, known)}", "lm_eval ls tasks")
    return task


def model_arguments(config: EvaluateConfig, model: Path, device: str, directory: Path) -> dict[str, Any]:
    """Arguments of the harness's model.

    Args:
        config: the evaluation's.
        model: directory of the model.
        device: cuda or cpu.
        directory: where a tokenizer with another chat template is put.
    """
    m, b = config.model, config.backend
    arguments: dict[str, Any] = {"pretrained": str(model), "dtype": m.dtype, "trust_remote_code": m.trust_remote_code}
    if m.chat_template:
        arguments["tokenizer"] = _tokenizer(config, model, directory)
    if b.kind is Backend.hf:
        return arguments | {"max_length": m.max_model_len} | b.args
    arguments |= {
        "max_model_len": m.max_model_len,
        "tensor_parallel_size": b.tensor_parallel or _splits(model, _devices(device)),
        "seed": config.seed,
    }
    if device == "cuda":
        arguments["gpu_memory_utilization"] = b.gpu_memory
    else:
        arguments |= {
            "enforce_eager": True,  # compiling takes longer than it saves here
            "kv_cache_memory_bytes": int(b.kv_cache_gb * 2**30),
            # prompts split by chunked prefill are not supported with all kinds of answers on a CPU
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(2048, m.max_model_len),
        }
    return arguments | b.args


def _tokenizer(config: EvaluateConfig, model: Path, directory: Path) -> str:
    from transformers import AutoTokenizer

    from gra_hpc.training import templates

    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=config.model.trust_remote_code)
    tokenizer.chat_template = templates.text(config.model.chat_template)
    tokenizer.save_pretrained(str(directory / "tokenizer"))
    return str(directory / "tokenizer")


def _splits(model: Path, devices: int) -> int:
    """The most devices that vLLM can split the model over: its heads must divide (28 heads go on 4 of 8 devices)."""
    if devices < 2:
        return 1
    facts = read_facts(model)
    return max(t for t in (1, 2, 4, 8, 16) if t <= devices and facts.can_split(t))


def _devices(device: str) -> int:
    import torch

    return torch.cuda.device_count() if device == "cuda" else 1


def run(
    name: str, config: EvaluateConfig, model: Path, device: str, directory: Path
) -> tuple[float, float, int, dict[str, Any], list[Any]]:
    """Measure one benchmark.

    Returns:
        Value and standard error of its metric, number of questions, the harness's own results, and its samples.

    Raises:
        ConfigError: unknown task or metric, or code that nobody allowed to run.
    """
    if config.backend.kind is Backend.vllm:
        _tell_version()
    import lm_eval

    benchmark = config.benchmarks[name]
    manager = task_manager(name, benchmark)
    task = task_name(name, benchmark, manager)
    if benchmark.unsafe_code:
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"
    arguments = model_arguments(config, model, device, directory)
    try:
        found = lm_eval.simple_evaluate(
            model=config.backend.kind.value,
            model_args=arguments,
            tasks=[task],
            num_fewshot=None if benchmark.shots < 0 else benchmark.shots,
            batch_size=_batch(config),
            device=device if config.backend.kind is Backend.hf else None,
            limit=benchmark.limit or None,
            apply_chat_template=benchmark.chat,
            fewshot_as_multiturn=benchmark.chat,
            gen_kwargs=dict(benchmark.generation) or None,
            task_manager=manager,
            random_seed=config.seed,
            numpy_random_seed=config.seed,
            torch_random_seed=config.seed,
            fewshot_random_seed=config.seed,
            confirm_run_unsafe_code=benchmark.unsafe_code,
            bootstrap_iters=1000,
        )
    except ValueError as e:
        if "unsafe" in str(e):
            raise ConfigError(
                f"benchmarks.{name}: {task} runs code that the model wrote", f"benchmarks.{name}.unsafe_code=true"
            ) from None
        raise
    scores = (found.get("groups") or {}).get(task) or found["results"][task]
    if benchmark.metric not in scores:
        known = [k for k in scores if "," in k and "_stderr" not in k]
        near = nearest(benchmark.metric, known)
        raise ConfigError(
            f"benchmarks.{name}.metric={benchmark.metric}: not among {', '.join(known)}{near}", "name one of them"
        )
    metric, _, filter_ = benchmark.metric.partition(",")
    error = scores.get(f"{metric}_stderr,{filter_}")
    counts = found.get("n-samples") or {}
    questions = sum(int(c["effective"]) for c in counts.values())
    samples = [s for per_task in (found.get("samples") or {}).values() for s in per_task]
    details = {"task": task, "scores": scores, "shots": found.get("n-shot"), "task_versions": found.get("versions")}
    value = float(scores[benchmark.metric])
    return (value, float(error) if isinstance(error, (int, float)) else float("nan"), questions, details, samples)


def _tell_version() -> None:
    """The harness asks for the version of the package `vllm`; the build for CPUs is a package of another name.

    Only the harness's module is told: vLLM asks the same question, and finds its platform by the answer.
    """
    import importlib.metadata

    import vllm
    from vllm.platforms import current_platform

    log.info("vLLM %s on %s", vllm.__version__, current_platform.device_type)  # it is looked up here, and kept
    ask = importlib.metadata.version

    def told(distribution_name: str) -> str:
        return str(vllm.__version__) if distribution_name == "vllm" else ask(distribution_name)

    importlib.metadata.version = told
    try:
        import lm_eval.models.vllm_causallms  # noqa: F401  (takes the function by its name)
    finally:
        importlib.metadata.version = ask


def _batch(config: EvaluateConfig) -> str | int:
    batch = config.backend.batch
    if batch.isdigit():
        return int(batch)
    return batch if config.backend.kind is Backend.vllm else 1
