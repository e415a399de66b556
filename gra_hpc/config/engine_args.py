"""Arguments of vLLM's server that a model's entry may pass on: which are refused, and which a run freezes.

`engine_args` takes whatever the installed vLLM knows. Those of a named list say where and how an engine runs, and may
change between two attempts; any other may decide what is answered (templates, tokenizers, overrides of sampling, the
precision of a cache), and is frozen with the plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gra_hpc.errors import ConfigError

_OWNED = {
    "tensor-parallel-size": "tensor_parallel",
    "gpu-memory-utilization": "kv_cache_gb",
    "kv-cache-memory-bytes": "kv_cache_gb",
    "num-gpu-blocks-override": "kv_cache_gb",
    "max-model-len": "max_model_len",
    "quantization": "quantization",
    "dtype": "dtype",
    "load-format": "load_format",
    "trust-remote-code": "trust_remote_code",
    "chat-template": "chat_template",
    "max-num-seqs": "engine.max_running",
    "enable-sleep-mode": "engine.residency",
    "data-parallel-size": "replicas",
    "pipeline-parallel-size": "tensor_parallel",
    "model": "path",
    "revision": "revision",
    "served-model-name": "",
    "uds": "",
    "host": "",
    "port": "",
    "config": "",
    "api-key": "",
}
"""Arguments that are settled elsewhere, with the setting: of the model, or of the run (with a dot)."""

_WHERE_AND_HOW = {
    "devices, and how the parts of an engine speak with each other": (
        "distributed-executor-backend device-ids numa-bind numa-bind-nodes numa-bind-cpus master-addr master-port"
        " nnodes node-rank distributed-timeout-seconds cpu-distributed-timeout-seconds disable-custom-all-reduce"
        " all2all-backend enable-expert-parallel enable-eplb eplb-config expert-placement-strategy"
        " decode-context-parallel-size prefill-context-parallel-size data-parallel-backend data-parallel-rpc-port"
        " data-parallel-address ray-workers-use-nsight worker-cls max-parallel-loading-workers enable-dbo"
        " dbo-decode-token-threshold dbo-prefill-token-threshold"
    ),
    "memory": (
        "block-size swap-space cpu-offload-gb cpu-offload-params offload-backend offload-params enable-prefix-caching"
        " prefix-caching-hash-algo kv-offloading-size kv-offloading-backend enable-cumem-allocator"
        " disable-hybrid-kv-cache-manager"
    ),
    "which call is computed when": (
        "max-num-batched-tokens max-num-scheduled-tokens max-num-partial-prefills max-long-partial-prefills"
        " long-prefill-token-threshold enable-chunked-prefill scheduling-policy async-scheduling scheduler-cls"
        " scheduler-reserve-full-isl watermark stream-interval renderer-num-workers"
    ),
    "kernels and compilation": (
        "enforce-eager compilation-config optimization-level performance-mode cudagraph-capture-sizes"
        " cuda-graph-sizes max-cudagraph-capture-size attention-backend attention-config mamba-backend moe-backend"
        " linear-backend kernel-config ir-op-priority enable-flashinfer-autotune disable-cascade-attn"
    ),
    "loading weights": (
        "download-dir safetensors-load-strategy safetensors-prefetch-num-threads safetensors-prefetch-block-size"
        " model-loader-extra-config use-tqdm-on-load pt-load-map-location"
    ),
    "the server, its logs and metrics": (
        "api-server-count disable-frontend-multiprocessing root-path h11-max-incomplete-event-size"
        " h11-max-header-count disable-fastapi-docs shutdown-timeout disable-log-stats aggregate-engine-logging"
        " enable-log-requests disable-log-requests enable-log-outputs enable-log-deltas max-log-len log-error-stack"
        " log-level log-config-file logging-config uvicorn-log-level disable-uvicorn-access-log"
        " disable-access-log-for-endpoints enable-request-id-headers show-hidden-metrics-for-version"
        " otlp-traces-endpoint collect-detailed-traces kv-cache-metrics kv-cache-metrics-sample cudagraph-metrics"
        " enable-mfu-metrics enable-per-request-metrics custom-histogram-buckets enable-layerwise-nvtx-tracing"
        " enable-logging-iteration-details profiler-config jit-monitor-mode jit-monitor-verbose"
        " enable-server-load-tracking"
    ),
}
WHERE_AND_HOW = frozenset(name for names in _WHERE_AND_HOW.values() for name in names.split())
"""Arguments that do not decide what is answered. (Other kernels round otherwise, as other devices do.)"""


def option(key: object) -> str:
    """An argument's name as vLLM writes it: `kv_cache_dtype` and `--kv-cache-dtype` are one."""
    return str(key).lstrip("-").replace("_", "-")


def check(name: str, engine_args: Mapping[str, object]) -> None:
    """Refuse arguments that would bypass what placement, the plan or the client of the engines counts on.

    Args:
        name: of the model.

    Raises:
        ConfigError: which, and what to set instead.
    """
    for key in engine_args:
        own = _OWNED.get(option(key))
        if own is None:
            continue
        setting = own if "." in own else f"models.{name}.{own}"
        raise ConfigError(
            f"models.{name}.engine_args.{key}: an argument that is set by {setting if own else 'the engine itself'}",
            f"set {setting} instead" if own else "leave it out",
        )


def deciding(engine_args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a run freezes, by their names in vLLM; the later of two that are one."""
    given = {option(key): value for key, value in engine_args.items()}
    return {name: value for name, value in sorted(given.items()) if _base(name) not in WHERE_AND_HOW}


def _base(name: str) -> str:
    """What an argument is about: `no-enable-prefix-caching`, and `compilation-config.level`, a part of a JSON one."""
    return name.split(".", 1)[0].removeprefix("no-")
