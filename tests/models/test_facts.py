"""Facts read from model directories made here: config.json and the headers of safetensors files."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from gra_hpc.config.settings import ModelConfig
from gra_hpc.errors import ConfigError
from gra_hpc.models.facts import facts_of, read_facts, stated_facts

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}


def directory(path: Path, config: dict[str, Any], *files: dict[str, tuple[str, list[int]]]) -> Path:
    """A model directory whose weight files have headers only."""
    (path / "config.json").write_text(json.dumps(config))
    for number, tensors in enumerate(files):
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        header |= {k: {"dtype": d, "shape": s, "data_offsets": [0, 0]} for k, (d, s) in tensors.items()}
        text = json.dumps(header).encode()
        (path / f"model-{number}.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    return path


def test_weights_are_summed_over_all_files(tmp_path: Path) -> None:
    facts = read_facts(
        directory(tmp_path, LLAMA, {"a": ("BF16", [1000, 10])}, {"b": ("BF16", [500, 10]), "c": ("BF16", [7])})
    )
    assert facts.parameters == 15007
    assert facts.weight_bytes == 30014
    assert facts.active_parameters == facts.parameters
    assert (facts.layers, facts.heads, facts.kv_heads, facts.intermediate) == (32, 32, 8, 14336)
    assert facts.kv_bytes_per_token == 131072  # 2 x 32 layers x 8 heads x 128 x 2 bytes
    assert facts.max_length == 131072
    assert not facts.embedder


def test_without_weights_the_config_tells_their_size(tmp_path: Path) -> None:
    facts = read_facts(directory(tmp_path, LLAMA))
    assert facts.parameters == pytest.approx(8.03e9, rel=0.01)
    assert facts.weight_bytes == pytest.approx(16.06e9, rel=0.01)


@pytest.mark.parametrize(("dtype", "size"), [("auto", 2), ("float32", 4), ("bfloat16", 2)])
def test_float32_checkpoints_are_computed_in_16_bit_unless_asked(tmp_path: Path, dtype: str, size: int) -> None:
    config = LLAMA | {"torch_dtype": "float32"}
    facts = read_facts(directory(tmp_path, config, {"a": ("F32", [100])}), dtype)
    assert facts.weight_bytes == 100 * size
    assert facts.kv_bytes_per_token == 65536 * size


def test_packed_quantized_weights(tmp_path: Path) -> None:
    config = LLAMA | {"quantization_config": {"quant_method": "awq", "bits": 4}}
    facts = read_facts(directory(tmp_path, config, {"q": ("I32", [100]), "scales": ("F16", [10])}))
    assert facts.weight_bytes == 420
    assert facts.parameters == 810
    assert facts.kv_bytes_per_token == 131072


def test_fp8_kv_cache_halves_it(tmp_path: Path) -> None:
    assert read_facts(directory(tmp_path, LLAMA), kv_cache_dtype="fp8").kv_bytes_per_token == 65536


@pytest.mark.parametrize("key", ["kv_cache_dtype", "kv-cache-dtype"])
def test_what_engine_args_say_of_the_kv_cache_counts(tmp_path: Path, key: str) -> None:
    directory(tmp_path, LLAMA)
    plain = facts_of(ModelConfig(path=str(tmp_path)))
    fp8 = facts_of(ModelConfig(path=str(tmp_path), engine_args={key: "fp8"}))
    assert (plain.kv_bytes_per_token, fp8.kv_bytes_per_token) == (131072, 65536)


def test_weights_quantized_while_they_load_take_half_but_for_embeddings(tmp_path: Path) -> None:
    tensors = {
        "model.embed_tokens.weight": ("BF16", [100, 10]),
        "model.layers.0.mlp.up_proj.weight": ("BF16", [50, 10]),
        "model.norm.weight": ("BF16", [10]),
    }
    directory(tmp_path, LLAMA, tensors)
    assert facts_of(ModelConfig(path=str(tmp_path))).weight_bytes == 2 * 1510
    assert facts_of(ModelConfig(path=str(tmp_path), quantization="fp8")).weight_bytes == 2000 + 500 + 20


def test_without_weights_their_quantized_size_is_told_too(tmp_path: Path) -> None:
    facts = read_facts(directory(tmp_path, LLAMA), quantization="fp8")
    assert facts.weight_bytes == pytest.approx(8.03e9 + 2 * 128256 * 4096, rel=0.01)
    assert facts.parameters == pytest.approx(8.03e9, rel=0.01)


def test_stored_quantized_weights_are_not_halved_again(tmp_path: Path) -> None:
    config = LLAMA | {"quantization_config": {"quant_method": "fp8"}}
    facts = read_facts(directory(tmp_path, config, {"a": ("F8_E4M3", [100, 10])}), quantization="fp8")
    assert facts.weight_bytes == 1000


def test_mixture_of_experts_uses_a_part_of_its_weights(tmp_path: Path) -> None:
    mixtral = LLAMA | {"num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 32000}
    facts = read_facts(directory(tmp_path, mixtral))
    assert facts.parameters == pytest.approx(46.7e9, rel=0.02)
    assert facts.active_parameters == pytest.approx(12.9e9, rel=0.02)
    assert facts.decode_bytes < facts.weight_bytes / 3


DEEPSEEK_V2_LITE: dict[str, Any] = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 64,
    "num_experts_per_tok": 6,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "vocab_size": 102400,
    "torch_dtype": "bfloat16",
}


def test_experts_have_their_own_width(tmp_path: Path) -> None:
    facts = read_facts(directory(tmp_path, DEEPSEEK_V2_LITE))
    assert facts.parameters == pytest.approx(15.7e9, rel=0.03)
    assert facts.active_parameters == pytest.approx(2.4e9, rel=0.1)


@pytest.mark.parametrize(
    ("quantization", "possible"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, {1, 2, 4}),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, {1, 2, 4, 8}),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, {1, 2, 4, 8}),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"group_size": 128}}}},
            {1, 2, 4},
        ),
        ({"quant_method": "fp8"}, {1, 2, 4, 8}),
    ],
)
def test_a_device_holds_whole_groups_of_quantized_weights(
    tmp_path: Path, quantization: dict[str, Any], possible: set[int]
) -> None:
    """9728 = 76 groups of 128: two and four devices have whole ones, eight have not."""
    config = LLAMA | {"intermediate_size": 9728, "quantization_config": quantization}
    facts = read_facts(directory(tmp_path, config))
    assert {t for t in range(1, 9) if facts.can_split(t)} == possible


def test_attention_is_divided_in_whole_groups_too(tmp_path: Path) -> None:
    config = LLAMA | {
        "hidden_size": 896, "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 4864,
        "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128},
    }  # fmt: skip
    assert not read_facts(directory(tmp_path, config)).can_split(2)  # 448 weights a row: three groups and a half


def test_latent_attention_keeps_one_small_cache_on_every_device(tmp_path: Path) -> None:
    config = LLAMA | {"kv_lora_rank": 512, "qk_rope_head_dim": 64}
    facts = read_facts(directory(tmp_path, config))
    assert facts.kv_bytes_per_token == 32 * 576 * 2
    assert facts.kv_bytes_per_device(8) == facts.kv_bytes_per_token


def test_linear_attention_layers_keep_no_cache(tmp_path: Path) -> None:
    config = LLAMA | {"layer_types": ["linear_attention"] * 24 + ["full_attention"] * 8}
    assert read_facts(directory(tmp_path, config)).kv_bytes_per_token == 131072 // 4


def test_a_multimodal_config_nests_its_language_model(tmp_path: Path) -> None:
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": LLAMA}
    facts = read_facts(directory(tmp_path, config))
    assert facts.layers == 32
    assert not facts.embedder


def test_an_embedding_model_has_no_cache(tmp_path: Path) -> None:
    config = {"architectures": ["BertModel"], "num_hidden_layers": 6, "num_attention_heads": 12, "hidden_size": 384}
    facts = read_facts(directory(tmp_path, config, {"a": ("F32", [1000])}))
    assert facts.embedder
    assert facts.kv_bytes_per_token == 0
    assert not facts.can_split(2)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "possible"),
    [
        (32, 8, {1, 2, 4, 8, 16}),
        (28, 4, {1, 2, 4}),
        (9, 3, {1, 3, 9}),
        (32, 2, {1, 2, 4, 8, 16}),
        (12, 12, {1, 2, 3, 4, 6, 12}),
    ],
)
def test_heads_decide_how_a_model_can_be_split(heads: int, kv_heads: int, possible: set[int]) -> None:
    facts = stated_facts(parameters=1e9, layers=2, heads=heads, kv_heads=kv_heads)
    assert {t for t in range(1, 17) if facts.can_split(t)} == possible


def test_the_feed_forward_width_must_divide_too() -> None:
    facts = stated_facts(parameters=1e9, layers=2, heads=16, kv_heads=16, intermediate=4 * 13)
    assert {t for t in range(1, 17) if facts.can_split(t)} == {1, 2, 4}


def test_replicated_kv_heads_are_not_divided_further() -> None:
    facts = stated_facts(parameters=1e9, layers=2, heads=32, kv_heads=2)
    assert facts.kv_bytes_per_device(2) == facts.kv_bytes_per_device(8) == facts.kv_bytes_per_token / 2


def test_a_directory_without_config_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: missing"):
        read_facts(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"num_hidden_layers": 2}'])
def test_a_broken_config_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        read_facts(tmp_path)


@pytest.mark.parametrize("data", [b"", b"\x00" * 8, b"\xff" * 20, struct.pack("<Q", 4) + b"oops"])
def test_a_broken_weight_file_names_the_file(tmp_path: Path, data: bytes) -> None:
    directory(tmp_path, LLAMA)
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(ConfigError, match=r"model\.safetensors: not a safetensors file"):
        read_facts(tmp_path)


def test_a_real_model(smollm2: Path) -> None:
    facts = read_facts(smollm2)
    assert facts.parameters == pytest.approx(134.5e6, rel=0.01)
    assert facts.weight_bytes == pytest.approx(2 * 134.5e6, rel=0.01)
    assert (facts.layers, facts.heads, facts.kv_heads) == (30, 9, 3)
    assert facts.kv_bytes_per_token == 2 * 30 * 3 * 64 * 2
    assert not facts.can_split(2)
