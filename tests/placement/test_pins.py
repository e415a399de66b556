"""Pinned placements, and what is said when nothing fits: the key, the pin, and what is missing in GB."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from placement_models import A100_8, FIVE, LLAMA_8B, QWEN_32B, QWEN_72B, by_model, check, solved

from gra_hpc.config.settings import ModelConfig, Residency
from gra_hpc.errors import ConfigError, EngineError
from gra_hpc.models.facts import ModelFacts
from gra_hpc.placement.performance import GB
from gra_hpc.placement.placement import NodeSpec, solve
from gra_hpc.placement.workload import ModelLoad


def test_pins_are_honoured() -> None:
    pins: dict[str, dict[str, Any]] = {
        "llama": {"replicas": 3},
        "tulu": {"tensor_parallel": 2},
        "qwen": {"replicas": 1, "tensor_parallel": 4},
        "mistral": {"kv_cache_gb": 30.0},
    }
    solution = solved(FIVE, A100_8, pins=pins)
    check(solution, A100_8)
    engines = by_model(solution.placement)
    assert len(engines["llama"]) == 3
    assert {e.tensor_parallel for e in engines["tulu"]} == {2}
    assert [e.tensor_parallel for e in engines["qwen"]] == [4]
    assert all(e.kv_cache_bytes == 30 * GB // e.tensor_parallel for e in engines["mistral"])
    assert solution.rota.samples_per_s < solved(FIVE, A100_8).rota.samples_per_s


def test_one_model_per_gpu_by_pins() -> None:
    solution = solved(FIVE, A100_8, pins={"*": {"tensor_parallel": 1, "replicas": 1}})
    assert sorted(e.devices for e in solution.placement.engines) == [(d,) for d in range(5)]


def test_a_pinned_large_model_with_pinned_small_ones_on_its_gpus() -> None:
    pins = {"big": {"tensor_parallel": 8, "replicas": 1}, "*": {"tensor_parallel": 1, "replicas": 1}}
    solution = solved({"big": QWEN_72B, "a": LLAMA_8B, "b": LLAMA_8B}, A100_8, pins=pins)
    check(solution, A100_8)
    assert [e.tensor_parallel for e in by_model(solution.placement)["big"]] == [8]
    assert solution.placement.engines[0].devices != solution.placement.engines[1].devices


def test_so_many_pinned_replicas_that_models_must_take_turns() -> None:
    solution = solved(FIVE, A100_8, pins={"*": {"replicas": 8}})
    check(solution, A100_8)
    assert solution.placement.takes_turns
    assert all(len(v) == 8 for v in by_model(solution.placement).values())


@pytest.mark.parametrize(
    ("pins", "said"),
    [
        ({"tensor_parallel": 3}, r"models\.\w+\.tensor_parallel=3: 32 heads.*one of 1, 2, 4, 8"),
        ({"tensor_parallel": 16}, r"models\.\w+\.tensor_parallel=16: the node has 8 GPUs"),
        ({"replicas": 9}, r"models\.\w+\.replicas=9: 8 GPUs hold 8 replicas"),
        ({"replicas": 3, "tensor_parallel": 4}, r"models\.\w+\.replicas=3: 8 GPUs hold 2 replicas of .* size 4"),
    ],
)
def test_impossible_pins_are_refused_with_what_is_possible(pins: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        solved(FIVE, A100_8, pins={"*": pins})


def test_a_pinned_kv_cache_that_holds_no_call_is_refused() -> None:
    with pytest.raises(EngineError, match=r"kv_cache_gb=0\.5: one call of max_model_len=8192 .* 0\.57 GB missing"):
        solved(FIVE, A100_8, pins={"llama": {"kv_cache_gb": 0.5}})


def test_a_pinned_kv_cache_that_does_not_fit_says_how_much_is_missing() -> None:
    with pytest.raises(EngineError, match=r"models\.llama: 180\.4 GB missing on each GPU"):
        solved(FIVE, A100_8, pins={"llama": {"kv_cache_gb": 2000.0}})


@pytest.mark.parametrize(
    ("facts", "gb", "said"),
    [
        # Every device keeps the latent of all heads whole, or a KV head that there are not enough of.
        (replace(QWEN_72B, shared_kv=True, kv_bytes_per_token=100_000), 1.0, r"needs 3\.28 GB on 4 devices: 2\.28 GB"),
        (replace(QWEN_72B, kv_heads=2, kv_bytes_per_token=100_000), 1.0, r"needs 1\.64 GB on 4 devices: 0\.64 GB"),
    ],
)
def test_a_pinned_kv_cache_must_hold_a_call_on_every_device(facts: ModelFacts, gb: float, said: str) -> None:
    with pytest.raises(EngineError, match=rf"models\.m\.kv_cache_gb=1: .* {said} missing"):
        solved({"m": facts}, A100_8, pins={"m": {"kv_cache_gb": gb}})
    engines = solved({"m": facts}, A100_8, pins={"m": {"kv_cache_gb": 3.5}}).placement.engines
    assert {e.tensor_parallel for e in engines} == {4}  # on eight devices 3.5 GB would be too little of a latent


@pytest.mark.parametrize(
    ("facts", "node", "replicas", "said"),
    [
        (
            {"qwen72": QWEN_72B}, A100_8, 4,
            r"models\.qwen72: 2\.4 GB missing on each GPU \(pinned: replicas=4\): split over 2 it needs 76\.0 GB",
        ),
        (
            {"q32": QWEN_32B}, NodeSpec("gpu", 8, 40), 8,
            r"models\.q32: 32\.9 GB missing on each GPU \(pinned: replicas=8\): on one GPU it needs 69\.7 GB",
        ),
        (
            FIVE, A100_8, 8,
            r"models\.\w+ \(pinned: replicas=8\): does not fit beside the others: 176\.5 GB missing on the node",
        ),
    ],
)  # fmt: skip
def test_pinned_replicas_that_do_not_fit_say_what_is_missing(
    facts: dict[str, ModelFacts], node: NodeSpec, replicas: int, said: str
) -> None:
    with pytest.raises(EngineError, match=said + r".*fewer replicas, or 0"):
        solved(facts, node, Residency.together, pins={"*": {"replicas": replicas}})


def test_what_pinned_replicas_miss_would_suffice() -> None:
    pins = {"*": {"replicas": 4}}
    missing = 2.4 / 0.92
    solution = solved({"qwen72": QWEN_72B}, NodeSpec("gpu", 8, 80 + missing + 0.1), pins=pins)
    assert [e.tensor_parallel for e in solution.placement.engines] == [2] * 4
    with pytest.raises(EngineError, match="missing"):
        solved({"qwen72": QWEN_72B}, NodeSpec("gpu", 8, 80 + missing - 0.2), pins=pins)


def test_a_pinned_split_that_is_too_small_is_named() -> None:
    with pytest.raises(EngineError, match=r"2\.4 GB missing .*pinned: tensor_parallel=2.*tensor_parallel=0"):
        solved({"qwen72": QWEN_72B}, A100_8, pins={"*": {"tensor_parallel": 2}})


# Nothing fits


def test_a_model_too_large_for_the_node_says_what_is_missing() -> None:
    with pytest.raises(
        EngineError, match=r"models\.qwen72: 76\.5 GB missing on each GPU: on one GPU it needs 150\.1 GB"
    ):
        solved({"qwen72": QWEN_72B}, NodeSpec("gpu", 1, 80))


def test_what_is_missing_would_suffice() -> None:
    missing = 76.5 / 0.92
    assert solved({"qwen72": QWEN_72B}, NodeSpec("gpu", 1, 80 + missing + 0.1)).placement.engines
    with pytest.raises(EngineError, match="missing"):
        solved({"qwen72": QWEN_72B}, NodeSpec("gpu", 1, 80 + missing - 0.2))


def test_models_that_must_stay_awake_but_do_not_fit_together() -> None:
    with pytest.raises(
        EngineError, match=r"models\.\w+: does not fit beside the others: 22\.1 GB missing.*residency=auto"
    ):
        solved(FIVE, NodeSpec("gpu", 1, 80), Residency.together)


def test_sleeping_weights_need_host_memory() -> None:
    small = NodeSpec("gpu", 1, 80, host_memory_gb=20)
    with pytest.raises(EngineError, match=r"taking turns needs 48\.2 GB of host memory .* 28\.2 GB missing"):
        solved(FIVE, small)
    assert solved(FIVE, NodeSpec("gpu", 1, 80, host_memory_gb=60)).placement.takes_turns


def test_host_memory_limits_the_replicas_that_sleep() -> None:
    node = NodeSpec("gpu", 4, 24, host_memory_gb=100)
    solution = solved(FIVE, node)
    for turn in range(2):
        asleep = [e for e in solution.placement.engines if e.turn != turn]
        assert sum(LLAMA_8B.weight_bytes for _ in asleep) <= 100 * GB


@pytest.mark.parametrize("node", [NodeSpec("gpu", 0, 80), NodeSpec("cpu", cores=0)])
def test_a_node_without_devices(node: NodeSpec) -> None:
    with pytest.raises(ConfigError, match="a node with 0"):
        solved(FIVE, node)


def test_gpus_of_unknown_memory() -> None:
    with pytest.raises(ConfigError, match=r"site\.gpu_memory_gb=0: expected the memory of one GPU"):
        solved(FIVE, NodeSpec("gpu", 8, 0))


def test_a_model_whose_size_is_not_known() -> None:
    with pytest.raises(ConfigError, match=r"models\.x: its size is not known"):
        solve({"x": ModelConfig(path="x")}, {}, A100_8, {})


def test_a_pool_without_work() -> None:
    with pytest.raises(ConfigError, match="no model has any work"):
        solve({"x": ModelConfig(path="x")}, {"x": LLAMA_8B}, A100_8, {"x": ModelLoad()})
