"""The sentence embedding model as an engine beside the others: placed with them, asked through the same door.

With a real engine: test_vllm_engines.py (slow).
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gra_hpc.config import presets
from gra_hpc.config.settings import EngineConfig, EngineKind, ModelConfig, RunConfig
from gra_hpc.engines import vllm_server
from gra_hpc.engines.node import Node
from gra_hpc.engines.vllm_server import EngineSpec
from gra_hpc.models.files import check_files, embedding_length
from gra_hpc.placement.placement import EnginePlace, Placement
from gra_hpc.run import engines
from gra_hpc.run.engines import EMBEDDER, hosted_embedder, plan_engines
from gra_hpc.run.pins import ModelPin
from gra_hpc.run.plan import Plan
from tools.simulated.server import Faults, launcher

BERT = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 384, "intermediate_size": 1536,
    "num_attention_heads": 12, "num_hidden_layers": 6, "vocab_size": 30522, "max_position_embeddings": 512,
}  # fmt: skip
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32, "vocab_size": 128256,
    "max_position_embeddings": 131072,
}  # fmt: skip


@pytest.fixture
def minilm_like(tmp_path: Path) -> Path:
    """The shape of all-MiniLM-L6-v2, without weights."""
    path = tmp_path / "minilm"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(BERT))
    (path / "modules.json").write_text("[]")
    (path / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
    (path / "tokenizer.json").write_text("{}")
    return path


def planned(tmp_path: Path, embedder: Path, **site: object) -> tuple[RunConfig, Plan]:
    llama = tmp_path / "llama"
    llama.mkdir()
    (llama / "config.json").write_text(json.dumps(LLAMA))
    config = presets.compose("alpaca", [f"site.{k}={v}" for k, v in site.items()])
    pins = {n: ModelPin(str(llama), n, "", "") for n in config.models}
    plan = Plan("", {}, "", 0.0, 1, 1, 0, 0, pins, ModelPin(str(embedder), "e", "", ""))
    return config, plan


def test_placed_with_the_others_only_if_wanted(tmp_path: Path, minilm_like: Path) -> None:
    config, plan = planned(tmp_path, minilm_like, gpus_per_node=8, gpu_memory_gb=80, memory_gb=512)
    without = plan_engines(config, plan)
    assert EMBEDDER not in {e.model for e in without.placement.engines}
    config.engine.host_embedder = True
    solution = plan_engines(config, plan)
    by_model = {e.model: e for e in solution.placement.engines}
    assert set(by_model) == {*config.models, EMBEDDER}
    assert by_model[EMBEDDER].embeds
    assert not any(e.embeds for n, e in by_model.items() if n != EMBEDDER)
    assert 0 < by_model[EMBEDDER].memory_fraction < 0.1  # a GPU is not given away for 90 MB
    assert solution.rota.samples_per_s > 0.95 * without.rota.samples_per_s
    config.engine.kind = EngineKind.simulated
    assert hosted_embedder(config, plan) == {}
    config.engine.kind = EngineKind.vllm
    assert hosted_embedder(config, replace(plan, embed=None)) == {}


def test_its_server(minilm_like: Path, tmp_path: Path) -> None:
    config, plan = planned(tmp_path, minilm_like)
    config.engine.host_embedder = True
    model = hosted_embedder(config, plan)[EMBEDDER]
    assert (embedding_length(minilm_like), model.max_model_len) == (256, 256)
    check_files(minilm_like, replace(model, load_format="dummy"), chat=False)  # it has no chat template
    place = EnginePlace(EMBEDDER, 0, (3,), memory_fraction=0.05, embeds=True)
    spec = EngineSpec(place, model, config.engine, "gpu", Path("/t/s"), Path("/t/p"), Path("/t/c"), 20000)
    words = vllm_server.command(spec, minilm_like)
    assert words[words.index("--runner") + 1] == "pooling"
    assert not {"--structured-outputs-config", "--generation-config"} & set(words)


def test_vectors_come_through_the_same_door(short_dir: Path) -> None:
    places = (EnginePlace(EMBEDDER, 0, (), embeds=True), EnginePlace("m", 0, ()))
    models = {n: ModelConfig(path=n) for n in (EMBEDDER, "m")}

    async def work() -> None:
        node = Node(models, Placement(places, "cpu"), EngineConfig(), short_dir, short_dir / "logs", launcher(Faults()))
        async with asyncio.timeout(60), node:
            found = await asyncio.gather(*(engines.embed(node, text) for text in ("one", "two", "one")))
            vectors = [np.frombuffer(v, "<f2").astype(float) for v in found if v]
            assert [len(v) for v in vectors] == [8, 8, 8]
            assert all(np.linalg.norm(v) == pytest.approx(1, abs=1e-2) for v in vectors)
            assert found[0] == found[2] != found[1]
            stats = node.stats()["engines"]
            assert (stats[f"{EMBEDDER}-0"]["calls"], stats["m-0"]["calls"]) == (3, 0)

    asyncio.run(work())
