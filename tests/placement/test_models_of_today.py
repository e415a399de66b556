"""The presets of today: each model's facts from its own config.json, and where it would run on every site's nodes.

The configs are what their sources print of them, less what decides nothing here. Weights are not at hand: parameters
are counted from the config, and compared with what the model's card states.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from gra_hpc.config import presets
from gra_hpc.config.settings import ModelConfig
from gra_hpc.models.facts import facts_of
from gra_hpc.placement.placement import NodeSpec, constants_of, solve
from gra_hpc.placement.report import render
from gra_hpc.placement.workload import method_load
from tests.placement.placement_models import check

QWEN_3_5 = ["linear_attention"] * 3 + ["full_attention"]
OLMO = ["sliding_attention"] * 3 + ["full_attention"]
GRANITE = ["attention" if i in (5, 15, 25, 35) else "mamba" for i in range(40)]
CONFIGS: dict[str, tuple[str, float, dict[str, Any]]] = {
    "Qwen/Qwen3.5-9B": (
        # config: https://huggingface.co/khtsly/Mini-Coder/blob/main/config.json (text_config, unchanged);
        # heads, licence and size: https://docs.vultr.com/models/alibaba-qwen-35/qwen3.5-9b/nvidia
        "apache-2.0", 9e9,
        {"architectures": ["Qwen3_5ForConditionalGeneration"], "text_config": {
            "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32, "num_attention_heads": 16,
            "num_key_value_heads": 4, "head_dim": 256, "layer_types": QWEN_3_5 * 8, "vocab_size": 248_320,
            "max_position_embeddings": 262_144, "torch_dtype": "bfloat16"}},
    ),
    "Qwen/Qwen3.5-4B": (
        # https://huggingface.co/halen214/st01/blob/main/config.json, a fine-tuned one of that size
        "apache-2.0", 4e9,
        {"architectures": ["Qwen3_5ForCausalLM"], "hidden_size": 2560, "intermediate_size": 9216,
         "num_hidden_layers": 32, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 256,
         "layer_types": QWEN_3_5 * 8, "vocab_size": 248_320, "tie_word_embeddings": True,
         "max_position_embeddings": 262_144, "dtype": "bfloat16"},
    ),
    "Qwen/Qwen3-8B": (
        # https://huggingface.co/thejaminator/qwen-hook-layer-9/commit/478fb72 ("Copy config.json from Qwen/Qwen3-8B");
        # 8.2 billion, 36 layers, 32 and 8 heads: its card; Apache-2.0: https://apxml.com/models/qwen3-8b
        "apache-2.0", 8.2e9,
        {"architectures": ["Qwen3ForCausalLM"], "hidden_size": 4096, "intermediate_size": 12288,
         "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
         "vocab_size": 151_936, "max_position_embeddings": 40_960, "torch_dtype": "bfloat16"},
    ),
    "allenai/Olmo-3-7B-Think": (
        # https://huggingface.co/mlx-community/Olmo-3-7B-RLZero-Code-4bit/blob/main/config.json (same base); layers and
        # heads: https://huggingface.co/allenai/Olmo-3-1025-7B; Apache-2.0: https://openrouter.ai/allenai
        "apache-2.0", 7.3e9,
        {"architectures": ["Olmo3ForCausalLM"], "hidden_size": 4096, "intermediate_size": 11008,
         "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "layer_types": OLMO * 8,
         "vocab_size": 100_278, "max_position_embeddings": 65_536, "dtype": "bfloat16"},
    ),
    "microsoft/phi-4": (
        # https://huggingface.co/microsoft/phi-4/blob/refs%2Fpr%2F10/config.json
        "mit", 14.7e9,
        {"architectures": ["Phi3ForCausalLM"], "hidden_size": 5120, "intermediate_size": 17920,
         "num_hidden_layers": 40, "num_attention_heads": 40, "num_key_value_heads": 10, "vocab_size": 100_352,
         "max_position_embeddings": 16_384, "torch_dtype": "bfloat16"},
    ),
    "ibm-granite/granite-4.0-h-tiny": (
        # experts, heads, widths: https://ollama.com/library/granite4:tiny-h/blobs/9811e90b0eec; layers:
        # https://huggingface.co/anuj6316/granite/blob/main/config.json; 7B, Apache-2.0: https://ibm.com/granite/docs
        "apache-2.0", 7e9,
        {"architectures": ["GraniteMoeHybridForCausalLM"], "hidden_size": 1536, "intermediate_size": 512,
         "num_hidden_layers": 40, "num_attention_heads": 12, "num_key_value_heads": 4, "num_local_experts": 64,
         "num_experts_per_tok": 6, "layer_types": GRANITE, "vocab_size": 100_352, "tie_word_embeddings": True,
         "max_position_embeddings": 131_072, "dtype": "bfloat16"},
    ),
    "HuggingFaceTB/SmolLM3-3B": (
        # https://apxml.com/models/smollm3-3b (heads, vocabulary, licence); its layers:
        # https://huggingface.co/koutch/0.json_train_grpo_v1_dev/blob/main/config.json, a fine-tuned one
        "apache-2.0", 3.08e9,
        {"architectures": ["SmolLM3ForCausalLM"], "hidden_size": 2048, "intermediate_size": 11008,
         "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 128_256,
         "tie_word_embeddings": True, "max_position_embeddings": 65_536, "dtype": "bfloat16"},
    ),
}  # fmt: skip
PRESETS = ("today", "today-fp8", "today-24gb")
NODES = {
    "jupiter": NodeSpec("gpu", 4, 96, 288, 480, "gh200"),
    "leonardo": NodeSpec("gpu", 4, 64, 32, 480, "a100"),
    "lumi": NodeSpec("gpu", 8, 64, 56, 480, "mi250x"),
    "vista": NodeSpec("gpu", 1, 96, 72, 116, "gh200"),
    "marenostrum5": NodeSpec("gpu", 4, 64, 80, 480, "h100"),
    "2x24": NodeSpec("gpu", 2, 24, 16, 128, "4090"),
}


@pytest.fixture
def directories(tmp_path: Path) -> dict[str, Path]:
    """A directory with config.json for each model, by its id."""
    made = {}
    for name, (_, _, config) in CONFIGS.items():
        made[name] = tmp_path / name
        made[name].mkdir(parents=True)
        (made[name] / "config.json").write_text(json.dumps(config))
    return made


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_of_the_card(name: str, directories: dict[str, Path]) -> None:
    """Counted from the config: a linear layer is no attention layer, and shared experts are not counted."""
    _, stated, _ = CONFIGS[name]
    facts = facts_of(ModelConfig(path=str(directories[name])))
    assert 0.85 <= facts.parameters / stated <= 1.25
    assert 3e9 <= stated <= 15e9


@pytest.mark.parametrize("preset", PRESETS)
def test_a_pool_is_five_open_models_of_several_families(preset: str) -> None:
    models = presets.compose(preset, []).models
    assert len(models) == 5
    assert {m.licence for m in models.values()} <= {"apache-2.0", "mit"}
    for m in models.values():
        assert CONFIGS[m.path][0] == m.licence
        assert (
            m.max_model_len <= (CONFIGS[m.path][2].get("text_config") or CONFIGS[m.path][2])["max_position_embeddings"]
        )
    assert len({m.path.split("/")[0] for m in models.values()}) >= 4


QUICK = [("today", "vista"), ("today-24gb", "2x24")]
ALL = [*((p, s) for p in PRESETS[:2] for s in NODES if s != "2x24"), ("today-24gb", "2x24"), ("today-fp8", "2x24")]


@pytest.mark.parametrize(
    ("preset", "site"), [pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow) for pair in ALL]
)
def test_a_pool_has_a_place_on_a_node(preset: str, site: str, directories: dict[str, Path]) -> None:
    config = presets.compose(preset, [])
    models = {name: ModelConfig(**{**vars(m), "path": str(directories[m.path])}) for name, m in config.models.items()}
    node = NODES[site]
    began = time.process_time()
    solution = solve(
        models, {n: facts_of(m) for n, m in models.items()}, node, method_load(config), config.engine.residency,
        constants=constants_of(config, node),
    )  # fmt: skip
    print(f"\n{preset} on {site}, {time.process_time() - began:.1f} s of CPU\n{render(solution)}")
    check(solution, node)
    assert {e.model for e in solution.placement.engines} == set(models)
