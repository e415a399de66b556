"""What placement must know of a model: bytes of weights, KV cache per token, layers, heads, length.

Read from a model directory's `config.json` and the headers of its safetensors files (no weights are loaded, no torch),
or stated by hand where a model lies elsewhere (`stated_facts`).
"""

from __future__ import annotations

import logging
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from gra_hpc.errors import ConfigError
from gra_hpc.foreign import fits
from gra_hpc.storage import open_regular, read_regular
from gra_hpc.terminal import word

if TYPE_CHECKING:
    from gra_hpc.config.settings import ModelConfig

log = logging.getLogger(__name__)

DTYPE_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "half": 2, "float": 4,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "fp8": 1, "int8": 1,
}  # fmt: skip
"""Bytes of a number, by the names used in config.json and by vLLM."""

_SAFETENSORS_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8,
    "F8_E4M3": 8, "F8_E5M2": 8, "F4": 4,
}  # fmt: skip

_ONLINE = {"fp8", "ptpc_fp8"}
"""Quantizations that vLLM makes while it loads 16-bit weights: a byte for each number of a matrix."""
_KEPT = ("embed", "lm_head", "wte", "wpe")
"""Parts of the names of matrices that it leaves as they are."""
_LINEAR_LAYERS = {"linear_attention", "mamba", "mamba2", "recurrent", "conv"}
"""Layer types that keep a constant state instead of a KV cache."""


@dataclass(frozen=True)
class ModelFacts:
    """The numbers of one model that decide where it can run and how fast."""

    weight_bytes: int
    """Weights as they lie in device memory, over all devices of a replica."""
    parameters: int
    """Number of weights."""
    active_parameters: int
    """Weights used for one token: fewer than `parameters` in a mixture of experts."""
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    kv_bytes_per_token: int
    """KV cache of one token, all layers, over all devices of a replica when no KV head is replicated."""
    max_length: int
    """Longest context the model was trained for, in tokens."""
    intermediate: int = 0
    """Width of the feed-forward layers (tensor parallelism must divide it). 0: unknown."""
    shared_kv: bool = False
    """The KV cache is one latent that every tensor-parallel rank keeps whole (MLA)."""
    embedder: bool = False
    """The model gives vectors, not text: no KV cache, no decoding."""
    architecture: str = ""
    group: int = 0
    """Quantized weights that share a scale (GPTQ, AWQ). 0: not quantized so, or one scale for a whole row."""
    grouped: tuple[int, ...] = ()
    """Widths of which every device of a replica must have whole groups: feed-forward layers, experts, attention."""

    @property
    def decode_bytes(self) -> int:
        """Weights read for one decoded token, in bytes."""
        return int(self.weight_bytes * self.active_parameters / max(1, self.parameters))

    def can_split(self, tensor_parallel: int) -> bool:
        """Whether vLLM can split the model over this many devices: heads, KV heads and widths must divide."""
        t = tensor_parallel
        if t == 1:
            return True
        if t < 1 or self.embedder or self.heads % t or (self.intermediate and self.intermediate % t):
            return False
        if self.group and any(width % (t * self.group) for width in self.grouped):
            return False
        # Fewer KV heads than devices: vLLM replicates them, which works when devices is a multiple of KV heads.
        return self.shared_kv or self.kv_heads % t == 0 or t % self.kv_heads == 0

    def kv_bytes_per_device(self, tensor_parallel: int) -> float:
        """KV cache of one token on one device of a replica, in bytes."""
        if self.shared_kv:
            return float(self.kv_bytes_per_token)
        return self.kv_bytes_per_token / min(tensor_parallel, self.kv_heads)


def stated_facts(
    *,
    parameters: float,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int = 128,
    bytes_per_weight: float = 2.0,
    kv_dtype_bytes: int = 2,
    max_length: int = 8192,
    intermediate: int = 0,
    active_parameters: float = 0,
    embedder: bool = False,
) -> ModelFacts:
    """Facts from stated numbers, for models that are not on this machine."""
    return ModelFacts(
        weight_bytes=int(parameters * bytes_per_weight),
        parameters=int(parameters),
        active_parameters=int(active_parameters or parameters),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        hidden=heads * head_dim,
        kv_bytes_per_token=0 if embedder else 2 * layers * kv_heads * head_dim * kv_dtype_bytes,
        max_length=max_length,
        intermediate=intermediate,
        embedder=embedder,
    )


def facts_of(model: ModelConfig) -> ModelFacts:
    """Facts of a model as its engine holds it: with its dtype, quantization and KV cache's dtype.

    Raises:
        ConfigError: as `read_facts`.
    """
    engine_args = {str(k).replace("_", "-"): v for k, v in model.engine_args.items()}
    kv_cache_dtype = str(engine_args.get("kv-cache-dtype") or "auto")
    return read_facts(model.path, model.dtype, kv_cache_dtype, model.quantization)


def read_facts(
    path: Path | str, dtype: str = "auto", kv_cache_dtype: str = "auto", quantization: str = ""
) -> ModelFacts:
    """Facts of a model directory; see `_facts`.

    Raises:
        ConfigError: also where a value of config.json is of another type than any model's.
    """
    try:
        return _facts(path, dtype, kv_cache_dtype, quantization)
    except (AttributeError, TypeError, ValueError, KeyError, ArithmeticError, RecursionError) as e:
        file = Path(path) / "config.json"
        raise ConfigError(f"{file}: not of a language model ({e})", "gra fetch ORG/NAME fetches a model anew") from None


def _facts(path: Path | str, dtype: str, kv_cache_dtype: str, quantization: str) -> ModelFacts:
    """Facts of a model directory.

    Args:
        path: directory with config.json and safetensors (headers are read, weights are not).
        dtype: vLLM's dtype the weights are cast to; `auto` keeps the stored one (float32 becomes 16 bit, as in vLLM).
        kv_cache_dtype: vLLM's kv_cache_dtype.
        quantization: vLLM's quantization; of weights that are stored in 16 bit, `fp8` halves all but embeddings.

    Raises:
        ConfigError: no config.json, or one that names no layers or heads.
    """
    directory = Path(path)
    file = directory / "config.json"
    try:
        raw = orjson.loads(read_regular(file))
    except FileNotFoundError:
        raise ConfigError(
            f"{file}: missing; expected a model directory with config.json", f"ls {word(directory)}"
        ) from None
    except (OSError, orjson.JSONDecodeError) as e:
        raise ConfigError(f"{file}: cannot be read ({e})", "gra fetch ORG/NAME fetches a model anew") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{file}: expected a JSON object", "gra fetch ORG/NAME fetches a model anew")
    text = raw.get("text_config") or raw.get("llm_config") or raw
    layers = _number(text, "num_hidden_layers", "n_layer", "num_layers")
    heads = _number(text, "num_attention_heads", "n_head", "num_heads")
    hidden = _number(text, "hidden_size", "n_embd", "d_model")
    if not layers or not heads or not hidden:
        raise ConfigError(
            f"{file}: expected num_hidden_layers, num_attention_heads and hidden_size",
            "models.NAME.path=DIR: one of a language model that vLLM knows",
        )
    kv_heads = _number(text, "num_key_value_heads", "num_kv_heads", "multi_query_group_num") or heads
    head_dim = _number(text, "head_dim") or hidden // heads
    stored_dtype = str(raw.get("dtype") or raw.get("torch_dtype") or text.get("torch_dtype") or "bfloat16")
    stored_dtype = stored_dtype.removeprefix("torch.")
    work_bytes = _work_bytes(stored_dtype, dtype)
    matrix_bytes = 1 if quantization in _ONLINE and not raw.get("quantization_config") else work_bytes

    architectures = raw.get("architectures") or [""]
    embedder = _is_embedder(directory, architectures)
    weight_bytes, parameters = _weights(
        directory, raw, text, layers, hidden, heads, kv_heads, head_dim, work_bytes, matrix_bytes
    )
    kv_number = DTYPE_BYTES.get(kv_cache_dtype, 1 if kv_cache_dtype.startswith("fp8") else work_bytes)
    kinds = text.get("layer_types")
    kv_layers = sum(k not in _LINEAR_LAYERS for k in kinds) if isinstance(kinds, list) else layers
    intermediate = _number(text, "intermediate_size", "n_inner")
    widths = intermediate, _expert_width(text) if _experts(text) > 1 else 0, heads * head_dim
    latent = _number(text, "kv_lora_rank")
    if latent:
        per_layer = latent + _number(text, "qk_rope_head_dim")
    else:
        per_layer = 2 * kv_heads * head_dim
    return ModelFacts(
        weight_bytes=weight_bytes,
        parameters=parameters,
        active_parameters=_active(text, parameters, layers, hidden),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        hidden=hidden,
        kv_bytes_per_token=0 if embedder else kv_layers * per_layer * kv_number,
        max_length=_number(text, "max_position_embeddings", "n_positions", "seq_length") or 2048,
        intermediate=intermediate,
        shared_kv=bool(latent),
        embedder=embedder,
        architecture=str(architectures[0]),
        group=_group(raw.get("quantization_config")),
        grouped=tuple(w for w in widths if w),
    )


def _number(config: dict[str, Any], *keys: str) -> int:
    """The first of the keys that holds a number; 0 if none."""
    for key in keys:
        value = config.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return int(value)
    return 0


def _experts(text: dict[str, Any]) -> int:
    """Experts of a layer, without those that are always asked; 0 in a dense model."""
    return _number(text, "num_local_experts", "num_experts", "n_routed_experts")


def _expert_width(text: dict[str, Any]) -> int:
    """Width of one expert: DeepSeek's and Qwen's configs give their dense layers' width beside it."""
    return _number(text, "moe_intermediate_size", "intermediate_size")


def _group(quantization: Any) -> int:
    """Weights that share a scale, of GPTQ, AWQ or compressed-tensors; 0 where a whole row does."""
    if not isinstance(quantization, dict):
        return 0
    found = _number(quantization, "group_size", "q_group_size")
    groups = quantization.get("config_groups")
    for part in groups.values() if isinstance(groups, dict) else []:
        weights = part.get("weights") if isinstance(part, dict) else None
        found = max(found, _number(weights or {}, "group_size"))
    return max(0, found)


def _work_bytes(stored: str, asked: str) -> int:
    """Bytes of a number in memory: vLLM's `auto` computes float32 checkpoints in 16 bit."""
    name = stored if asked in ("", "auto") else asked
    size = DTYPE_BYTES.get(name, 2)
    return 2 if asked in ("", "auto") and size > 2 else size


def _is_embedder(directory: Path, architectures: list[str]) -> bool:
    generates = any(a.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for a in architectures)
    return (directory / "modules.json").is_file() or not generates


def _headers(directory: Path) -> list[dict[str, Any]]:
    """The tensor tables at the start of each safetensors file: `name -> {dtype, shape}`."""
    tables = []
    for file in sorted(directory.glob("*.safetensors")):
        try:
            with open_regular(file) as f:
                (length,) = struct.unpack("<Q", f.read(8))
                if not 0 < length < 100_000_000:
                    raise ValueError(f"header of {length} bytes")
                if length > os.fstat(f.fileno()).st_size - 8:
                    raise ValueError(f"header of {length} bytes, which it does not have")
                tables.append(_table(orjson.loads(f.read(length))))
        except (OSError, struct.error, ValueError) as e:
            raise ConfigError(
                f"{file}: not a safetensors file ({e})", "gra fetch  (checks and completes models)"
            ) from e
    return tables


def _table(header: Any) -> dict[str, Any]:
    """A header that is one.

    Raises:
        ValueError: a tensor without dtype and shape.
    """
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    for name, tensor in header.items():
        if name != "__metadata__" and not (
            isinstance(tensor, dict)
            and fits(tensor.get("dtype"), str)
            and fits(tensor.get("shape"), list[int])
            and all(n >= 0 for n in tensor["shape"])
        ):
            raise ValueError(f"its tensor {name[:60]} has no dtype and shape")
    return header


def _weights(
    directory: Path,
    raw: dict[str, Any],
    text: dict[str, Any],
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    work_bytes: int,
    matrix_bytes: int,
) -> tuple[int, int]:
    """Bytes in memory and number of weights, from the files' headers; from the architecture where there are none."""
    quantization = raw.get("quantization_config")
    stored = parameters = 0
    for table in _headers(directory):
        for name, tensor in table.items():
            if name == "__metadata__":
                continue
            bits = _SAFETENSORS_BITS.get(tensor["dtype"], 16)
            count = 1
            for n in tensor["shape"]:
                count *= n
            packed = bits == 32 and tensor["dtype"] == "I32" and quantization
            # Packed integers of AWQ and GPTQ hold eight 4-bit (or four 8-bit) weights each.
            parameters += count * (32 // int(quantization.get("bits", 4)) if packed and quantization else 1)
            floats = tensor["dtype"] in ("F64", "F32", "F16", "BF16")
            matrix = len(tensor["shape"]) > 1 and not any(part in name for part in _KEPT)
            each = matrix_bytes if matrix else work_bytes
            stored += count * (each if floats and not quantization else 0) or count * bits // 8
    if parameters:
        return stored, parameters
    experts = max(1, _experts(text))
    width = _expert_width(text) if experts > 1 else _number(text, "intermediate_size", "n_inner")
    width = width or 4 * hidden
    vocabulary = _number(text, "vocab_size")
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads)
    matrices = layers * (attention + experts * 3 * hidden * width)
    embeddings = vocabulary * hidden * (1 if text.get("tie_word_embeddings") else 2)
    log.info("%s: no safetensors; weights estimated from config.json", directory)
    return matrices * matrix_bytes + embeddings * work_bytes, matrices + embeddings


def _active(text: dict[str, Any], parameters: int, layers: int, hidden: int) -> int:
    """Weights used for one token: all of them, less the experts that are not asked."""
    experts = _experts(text)
    asked = _number(text, "num_experts_per_tok", "moe_topk")
    if experts < 2 or not asked:
        return parameters
    idle = layers * (experts - asked) * 3 * hidden * _expert_width(text)
    return max(parameters - idle, parameters * asked // experts)
