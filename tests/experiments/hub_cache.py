"""A Hub cache with stand-ins: the repositories' names, the models' real shapes, weights that are holes in a file, whose
digests are remembered as if they had been read."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from gra_hpc.models.identity import Book, state_of

COMMIT = "0" * 40
# parameters, layers, heads, KV heads, hidden, intermediate
SHAPES = {
    "meta-llama/Llama-3.1-8B-Instruct": (8.03e9, 32, 32, 8, 4096, 14336),
    "meta-llama/Llama-3.1-8B": (8.03e9, 32, 32, 8, 4096, 14336),
    "allenai/Llama-3.1-Tulu-3-8B": (8.03e9, 32, 32, 8, 4096, 14336),
    "Qwen/Qwen2.5-7B-Instruct": (7.62e9, 28, 28, 4, 3584, 18944),
    "Qwen/Qwen2.5-7B": (7.62e9, 28, 28, 4, 3584, 18944),
    "internlm/internlm3-8b-instruct": (8.8e9, 48, 32, 2, 4096, 10240),
    "mistralai/Mistral-7B-Instruct-v0.3": (7.25e9, 32, 32, 8, 4096, 14336),
    "Qwen/Qwen2.5-32B-Instruct": (32.8e9, 64, 40, 8, 5120, 27648),
    "Qwen/Qwen2.5-72B-Instruct": (72.7e9, 80, 64, 8, 8192, 29568),
    "sentence-transformers/all-MiniLM-L6-v2": (22.7e6, 6, 12, 12, 384, 1536),
}
DATASETS = ("tatsu-lab/alpaca", "WizardLMTeam/WizardLM_evol_instruct_70k", "internlm/Condor-SFT-20K")
ROWS = 600


def fill(scratch: Path, tokenizer: Path) -> Path:
    """Make the cache of a site's scratch directory."""
    for name, shape in SHAPES.items():
        _model(_snapshot(scratch, "models", name), tokenizer, *shape)
    for name in DATASETS:
        rows = [
            {"instruction": f"Tell something about number {i} in {name}.", "output": f"It is {i}."} for i in range(ROWS)
        ]
        text = "".join(json.dumps(r) + "\n" for r in rows)
        (_snapshot(scratch, "datasets", name) / "train.jsonl").write_text(text)
    return scratch


def _snapshot(scratch: Path, kind: str, name: str) -> Path:
    root = scratch / "hub" / f"{kind}--{name.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    (root / "snapshots" / COMMIT).mkdir(parents=True)
    return root / "snapshots" / COMMIT


def _model(
    path: Path, tokenizer: Path, parameters: float, layers: int, heads: int, kv: int, hidden: int, wide: int
) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tokenizer / file).exists():
            shutil.copy(tokenizer / file, path / file)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv, "intermediate_size": wide, "vocab_size": 32000,
        "max_position_embeddings": 32768, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    size = int(parameters) * 2
    header = json.dumps({"w": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}}).encode()
    with (path / "model.safetensors").open("wb") as f:
        f.write(len(header).to_bytes(8, "little") + header)
        f.truncate(8 + len(header) + size)
    # to read hundreds of GB of zeros takes minutes
    weights = path / "model.safetensors"
    Book.of(path).write({weights.name: (state_of(weights), hashlib.sha256(header).hexdigest())})
