"""A language model of 1.6 million parameters with random weights and a real tokenizer: training that takes seconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest


def shrunk(source: Path, target: Path) -> Path:
    """The tiny model, made smaller still (its embedding is most of it)."""
    target.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(source / name, target / name)
    config = json.loads((source / "config.json").read_text())
    config |= {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    config |= {"head_dim": 32, "max_position_embeddings": 1024}  # 32: the smallest that vLLM has on a CPU
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.fixture(scope="session")
def small_model(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its directory: config and tokenizer, no weights."""
    return shrunk(tiny_llama, tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="session")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty-two short instructions with responses."""
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    rows = [
        {"instruction": f"Count from {n} to {n + 3}.", "response": ", ".join(str(n + i) for i in range(4)) + "."}
        for n in range(32)
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path
