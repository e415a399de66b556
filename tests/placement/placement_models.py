"""Stated models and loads for the tests of placement; placements of them, and what must hold of each."""

from __future__ import annotations

from typing import Any

from gra_hpc.config.settings import ModelConfig, Residency
from gra_hpc.models.facts import ModelFacts, stated_facts
from gra_hpc.placement.hosts import Space
from gra_hpc.placement.performance import GB, Constants, Need, constants_for
from gra_hpc.placement.placement import EnginePlace, NodeSpec, Placement, Solution, solve
from gra_hpc.placement.workload import ModelLoad, usual_load

LLAMA_8B = stated_facts(parameters=8.03e9, layers=32, heads=32, kv_heads=8, intermediate=14336)
QWEN_7B = stated_facts(parameters=7.62e9, layers=28, heads=28, kv_heads=4, intermediate=18944)
MISTRAL_7B = stated_facts(parameters=7.25e9, layers=32, heads=32, kv_heads=8, intermediate=14336)
INTERNLM_8B = stated_facts(parameters=8.8e9, layers=48, heads=32, kv_heads=2, intermediate=10240)
QWEN_32B = stated_facts(parameters=32.8e9, layers=64, heads=40, kv_heads=8, intermediate=27648)
QWEN_72B = stated_facts(parameters=72.7e9, layers=80, heads=64, kv_heads=8, intermediate=29568)
SMOLLM2 = stated_facts(parameters=134.5e6, layers=30, heads=9, kv_heads=3, head_dim=64, intermediate=1536)
MINILM = stated_facts(parameters=22.7e6, layers=6, heads=12, kv_heads=12, head_dim=32, embedder=True)

FIVE = dict.fromkeys(("llama", "tulu", "qwen", "mistral", "internlm"), LLAMA_8B)
"""Five 8B models alike: the hardest to tell apart."""
PAPER = {"llama": LLAMA_8B, "tulu": LLAMA_8B, "qwen": QWEN_7B, "mistral": MISTRAL_7B, "internlm": INTERNLM_8B}
"""The paper's pool."""


def need(name: str, facts: ModelFacts, load: ModelLoad | None = None, **pins: int) -> Need:
    return Need(name, facts, load or usual_load(facts.embedder), max_model_len=8192, **pins)


def space(facts: dict[str, ModelFacts], devices: int, memory_gb: float, constants: Constants | None = None) -> Space:
    constants = constants or constants_for("", memory_gb)
    needs = sorted((need(n, f) for n, f in facts.items()), key=lambda n: -n.facts.weight_bytes)
    return Space(tuple(needs), devices, memory_gb * GB * constants.device_share, constants)


A100_8 = NodeSpec("gpu", 8, 80)


def solved(
    facts: dict[str, ModelFacts],
    node: NodeSpec,
    residency: Residency = Residency.auto,
    pins: dict[str, dict[str, Any]] | None = None,
    **options: Any,
) -> Solution:
    pins = pins or {}
    models = {n: ModelConfig(path=n, **pins.get(n, pins.get("*", {}))) for n in facts}
    return solve(models, facts, node, options.pop("load", {}), residency, **options)


def check(solution: Solution, node: NodeSpec) -> None:
    """What must hold of every placement on GPUs: devices exist, memory suffices in every turn, heads divide."""
    placement = solution.placement
    assert len({e.name for e in placement.engines}) == len(placement.engines)
    hosts = [h for turn in solution.rota.turns for h in turn.engines]
    room = {e.name: h.batch(solution.model.constants) for e, h in zip(placement.engines, hosts, strict=True)}
    for e in placement.engines:
        assert e.batch == (0 if e.embeds else round(room[e.name]))
        assert len(e.devices) == e.tensor_parallel
        assert set(e.devices) <= set(range(node.devices))
        need = next(n for n in solution.model.needs if n.name == e.model)
        assert need.facts.can_split(e.tensor_parallel)
        fixed = need.fixed_bytes(e.tensor_parallel, solution.model.constants)
        least = need.kv_least(e.tensor_parallel)
        given = e.memory_fraction * node.memory_gb * GB
        assert given + 0.002 * node.memory_gb * GB >= fixed + max(least, e.kv_cache_bytes)
    for turn in {e.turn for e in placement.engines}:
        for d in range(node.devices):
            here = [e for e in placement.engines if d in e.devices and e.turn == turn]
            assert sum(e.memory_fraction for e in here) <= 0.921
            if len(here) > 1:  # neighbours are told their bytes, since vLLM measures memory while others load
                embedders = [n.name for n in solution.model.needs if not n.generates]
                assert all(e.kv_cache_bytes for e in here if e.model not in embedders)


def by_model(placement: Placement) -> dict[str, list[EnginePlace]]:
    out: dict[str, list[EnginePlace]] = {}
    for e in placement.engines:
        out.setdefault(e.model, []).append(e)
    return out
