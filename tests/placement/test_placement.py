"""Placements of whole pools: the cases a user meets, residency, cores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from placement_models import A100_8, FIVE, LLAMA_8B, MINILM, PAPER, QWEN_72B, SMOLLM2, by_model, check, solved

from gra_hpc.config.settings import ModelConfig, Residency, RunConfig
from gra_hpc.config.site import Executor, SiteConfig
from gra_hpc.errors import ConfigError, EngineError
from gra_hpc.models.facts import ModelFacts
from gra_hpc.placement.performance import GB, constants_for
from gra_hpc.placement.placement import NodeSpec, Placement, constants_of, plan_placement
from gra_hpc.placement.workload import ModelLoad, usual_load


def test_five_8b_models_on_eight_80_gb_gpus_share_what_is_left_over() -> None:
    solution = solved(FIVE, A100_8)
    check(solution, A100_8)
    assert not solution.placement.takes_turns
    assert max(e.tensor_parallel for e in solution.placement.engines) <= 2
    assert {d for e in solution.placement.engines for d in e.devices} == set(range(8))
    for engines in by_model(solution.placement).values():
        assert sum(e.tensor_parallel for e in engines) >= 2


@pytest.mark.parametrize(
    ("facts", "node"),
    [
        (FIVE, A100_8),
        (FIVE, NodeSpec("gpu", 4, 40)),
        (FIVE, NodeSpec("gpu", 1, 80)),
        ({"qwen72": QWEN_72B}, A100_8),
        ({**FIVE, "minilm": MINILM}, NodeSpec("gpu", 4, 24)),
    ],
)
def test_the_five_cases_are_solved(facts: dict[str, ModelFacts], node: NodeSpec) -> None:
    """With how much work: test_search.py."""
    check(solved(facts, node), node)


def test_running_calls_are_no_more_than_the_window_gives() -> None:
    solution = solved(FIVE, A100_8)
    constants = solution.model.constants
    assert constants.window == 256
    rates = [e.rate.batch for e in solution.rota.turns[0].engines]
    assert sum(rates) <= constants.calls_in_flight * 1.001 < 400
    wide = replace(constants_for("a100", 80), window=4096)
    assert solved(FIVE, A100_8, constants=wide).rota.samples_per_s > 1.05 * solution.rota.samples_per_s
    weights = [e.weight for e in solution.placement.engines]
    assert min(weights) < max(weights)  # engines that share a GPU are given fewer calls


@pytest.mark.parametrize("node", [A100_8, NodeSpec("cpu", cores=8)])
def test_how_many_calls_a_kv_cache_holds_does_not_hang_on_the_window(node: NodeSpec) -> None:
    """Engines are admitted calls by it: what the window gives on average must not be their limit."""
    facts = {"a": SMOLLM2} if node.kind == "cpu" else {"a": LLAMA_8B}
    usual = constants_for(node.device_type, node.memory_gb, node.kind)
    narrow = solved(facts, node, constants=replace(usual, window=4)).placement.engines
    wide = solved(facts, node, constants=replace(usual, window=4096)).placement.engines
    assert {e.batch for e in narrow} == {e.batch for e in wide}
    assert min(e.batch for e in narrow) > 50


def test_five_8b_models_on_four_40_gb_gpus_stay_awake_by_splitting_some() -> None:
    node = NodeSpec("gpu", 4, 40)
    solution = solved(FIVE, node)
    check(solution, node)
    assert not solution.placement.takes_turns
    assert max(e.tensor_parallel for e in solution.placement.engines) > 1


def test_five_8b_models_on_one_80_gb_gpu_take_turns_in_groups() -> None:
    node = NodeSpec("gpu", 1, 80)
    solution = solved(FIVE, node)
    check(solution, node)
    assert sorted(Counter(e.turn for e in solution.placement.engines).values()) == [2, 3]
    assert 0 < solution.rota.swap_share < 0.5
    assert solution.rota.window_for(0.05) > solution.rota.window_for(0.1) > solution.model.constants.window


def test_a_wider_window_makes_swaps_cheap() -> None:
    wide = replace(constants_for("a100", 80), window=5000)
    node = NodeSpec("gpu", 1, 80)
    assert solved(FIVE, node, constants=wide).rota.swap_share < 0.05
    best = solved(FIVE, node, constants=wide).rota.samples_per_s
    assert best > solved(FIVE, node).rota.samples_per_s


def test_one_72b_model_on_eight_80_gb_gpus_is_two_replicas_of_four() -> None:
    solution = solved({"qwen72": QWEN_72B}, A100_8)
    check(solution, A100_8)
    assert [(e.tensor_parallel, e.devices) for e in solution.placement.engines] == [
        (4, (0, 1, 2, 3)),
        (4, (4, 5, 6, 7)),
    ]


def test_five_8b_models_and_an_embedder_on_four_24_gb_gpus() -> None:
    node = NodeSpec("gpu", 4, 24)
    facts = {**FIVE, "minilm": MINILM}
    solution = solved(facts, node)
    check(solution, node)
    assert solution.placement.takes_turns  # 80 GB of weights and six engines in 88 GB: no room for five KV caches
    (embedder,) = by_model(solution.placement)["minilm"]
    assert embedder.memory_fraction < 0.06
    assert any(e.turn == embedder.turn for e in solution.placement.engines if e.model != "minilm")


def test_the_paper_s_pool_and_an_embedder_on_eight_gpus() -> None:
    solution = solved({**PAPER, "minilm": MINILM}, A100_8)
    check(solution, A100_8)
    assert len(by_model(solution.placement)["minilm"]) == 1
    assert solution.rota.samples_per_s > 0.9 * solution.rota.ideal


def test_a_large_model_shares_its_gpus_with_small_ones() -> None:
    facts = {"qwen72": QWEN_72B, **{k: v for k, v in PAPER.items() if k != "tulu"}}
    solution = solved(facts, A100_8)
    check(solution, A100_8)
    assert {e.tensor_parallel for e in by_model(solution.placement)["qwen72"]} == {4}
    assert solution.rota.samples_per_s > 0.7 * solution.rota.ideal


def test_a_model_without_work_gets_no_engine() -> None:
    load = {name: ModelLoad() if name == "tulu" else usual_load() for name in FIVE}
    placement = solved(FIVE, A100_8, load=load).placement
    assert set(by_model(placement)) == set(FIVE) - {"tulu"}


def test_a_busier_model_gets_more() -> None:
    load = {"llama": ModelLoad({k: _times(r, 4) for k, r in usual_load().roles.items()})}
    solution = solved(FIVE, A100_8, load=load)
    times = Counter[str]()
    for e in solution.rota.turns[0].engines:
        times[e.need.name] += e.time * e.tensor_parallel
    assert times["llama"] > 3 * times["qwen"]


def _times(role: Any, factor: float) -> Any:
    return replace(
        role,
        calls=factor * role.calls,
        prompt_tokens=factor * role.prompt_tokens,
        completion_tokens=factor * role.completion_tokens,
    )


# Residency


def test_turns_means_one_generating_model_awake_at_a_time() -> None:
    solution = solved({**FIVE, "minilm": MINILM}, A100_8, Residency.turns)
    check(solution, A100_8)
    awake = [{e.model for e in solution.placement.engines if e.turn == t} - {"minilm"} for t in range(5)]
    assert all(len(models) == 1 for models in awake)
    assert set().union(*awake) == set(FIVE)


def test_one_model_never_takes_turns() -> None:
    assert not solved({"a": LLAMA_8B}, A100_8, Residency.turns).placement.takes_turns


def test_auto_stays_awake_unless_turns_promise_more_than_a_little() -> None:
    eager = replace(constants_for("a100-40", 40), window=10**6, turn_gain=0.0)
    node = NodeSpec("gpu", 4, 40)
    assert solved(FIVE, node, constants=eager).placement.takes_turns
    assert not solved(FIVE, node, constants=replace(eager, turn_gain=1.0)).placement.takes_turns


def test_turns_are_compared_exactly() -> None:
    """Every partition of the pool, laid out and combined by hand, against the one chosen."""
    facts = {"a": LLAMA_8B, "b": LLAMA_8B, "c": PAPER["qwen"], "d": PAPER["mistral"]}
    node = NodeSpec("gpu", 1, 40)
    solution = solved(facts, node)
    rotas = [solution.model.rota(groups) for groups in solution.model.partitions()]
    best = max(r.samples_per_s for r in rotas if r)
    assert len(rotas) > 5
    assert solution.rota.samples_per_s == pytest.approx(best)


# Cores


CORES = {"a": SMOLLM2, "b": SMOLLM2, "c": SMOLLM2}


def cores(placement: Placement) -> dict[str, tuple[int, ...]]:
    return {e.name: e.devices for e in placement.engines}


def test_one_model_takes_all_cores() -> None:
    placement = solved({"a": SMOLLM2}, NodeSpec("cpu", cores=2)).placement
    assert cores(placement) == {"a-0": (0, 1)}
    assert placement.kind == "cpu"
    assert placement.engines[0].kv_cache_bytes == GB // 2


@pytest.mark.parametrize("count", range(1, 17))
def test_a_core_serves_one_engine_while_there_are_enough(count: int) -> None:
    engines = solved(CORES, NodeSpec("cpu", cores=count), Residency.together).placement.engines
    used = Counter(c for e in engines for c in e.devices)
    assert set(used) == set(range(count))
    assert max(used.values()) == (1 if count >= 3 else -(-3 // count))
    sizes = sorted(len(e.devices) for e in engines)
    assert sizes[-1] - sizes[0] <= 1


def test_a_slow_model_gets_more_cores() -> None:
    placement = solved({"small": SMOLLM2, "large": LLAMA_8B}, NodeSpec("cpu", cores=16)).placement
    sizes = {e.model: len(e.devices) for e in placement.engines}
    assert sizes["large"] > 3 * sizes["small"]


def test_cores_are_divided_as_well_as_by_exhaustive_search() -> None:
    from gra_hpc.placement.cpu import kv_bytes
    from gra_hpc.placement.performance import rate_curve

    solution = solved({"a": SMOLLM2, "b": LLAMA_8B, "c": PAPER["mistral"]}, NodeSpec("cpu", cores=12))
    needs, constants = solution.model.needs, solution.model.constants

    def rate(*sizes: int) -> float:
        each = zip(needs, sizes, strict=True)
        return min(rate_curve(n, 1, constants, s).samples_per_s(kv_bytes(n, constants)) for n, s in each)

    best = max(rate(i, j, 12 - i - j) for i in range(1, 11) for j in range(1, 12 - i))
    assert solution.rota.samples_per_s == pytest.approx(best)


def test_pins_on_cores() -> None:
    tiny = replace(SMOLLM2, heads=4, kv_heads=2, intermediate=1024)
    pins = {"a": {"tensor_parallel": 2, "kv_cache_gb": 1.0}, "b": {"replicas": 2}}
    placement = solved({"a": tiny, "b": tiny}, NodeSpec("cpu", cores=8), pins=pins).placement
    (a,) = by_model(placement)["a"]
    assert (len(a.devices), a.tensor_parallel, a.kv_cache_bytes) == (2, 2, GB // 2)
    assert sorted(len(e.devices) for e in by_model(placement)["b"]) == [3, 3]


def test_tensor_parallel_needs_as_many_cores() -> None:
    with pytest.raises(ConfigError, match="the node has 1 cores"):
        solved({"a": LLAMA_8B}, NodeSpec("cpu", cores=1), pins={"a": {"tensor_parallel": 2}})


def test_the_kv_cache_on_a_cpu_holds_the_longest_call() -> None:
    (engine,) = solved({"a": LLAMA_8B}, NodeSpec("cpu", cores=2)).placement.engines
    assert engine.kv_cache_bytes >= 8192 * LLAMA_8B.kv_bytes_per_token


def test_on_a_cpu_models_take_turns_only_for_want_of_memory() -> None:
    assert not solved(CORES, NodeSpec("cpu", cores=2)).placement.takes_turns
    assert not solved(CORES, NodeSpec("cpu", cores=2, host_memory_gb=24)).placement.takes_turns
    two = solved(CORES, NodeSpec("cpu", cores=2, host_memory_gb=8)).placement
    assert len({e.turn for e in two.engines}) == 2
    one = solved(CORES, NodeSpec("cpu", cores=2, host_memory_gb=4)).placement
    assert {e.name: (e.turn, e.devices) for e in one.engines} == {
        "a-0": (0, (0, 1)),
        "b-0": (1, (0, 1)),
        "c-0": (2, (0, 1)),
    }
    asked = solved(CORES, NodeSpec("cpu", cores=2), Residency.turns).placement
    assert asked == one


def test_too_little_host_memory_says_what_is_missing() -> None:
    with pytest.raises(EngineError, match=r"site\.memory_gb=3\.0: 0\.5 GB missing"):
        solved(CORES, NodeSpec("cpu", cores=2, host_memory_gb=3))
    with pytest.raises(EngineError, match=r"site\.memory_gb=8\.0: 2\.4 GB missing -> engine\.residency=turns"):
        solved(CORES, NodeSpec("cpu", cores=2, host_memory_gb=8), Residency.together)


# The node, and what planning costs a login node


def test_the_node_of_a_site() -> None:
    gpus = SiteConfig(gpus_per_node=4, gpu_memory_gb=40, gpu_type="a100", cpus_per_task=32, memory_gb=480)
    assert NodeSpec.of_site(gpus) == NodeSpec("gpu", 4, 40, 32, 480, "a100")
    here = NodeSpec.of_site(SiteConfig())
    assert (here.kind, here.cores) == ("cpu", len(os.sched_getaffinity(0)))
    assert here.host_memory_gb > 0.5
    assert NodeSpec.of_site(SiteConfig(executor=Executor.slurm)).host_memory_gb == 0


def test_the_constants_of_a_run() -> None:
    config = RunConfig()
    config.engine.max_running, config.launch.window = 128, 1000
    constants = constants_of(config, A100_8, {"step_s": 0.004})
    assert constants.calls_in_flight == 1000 * constants.calls_per_sample
    assert (constants.max_running, constants.window, constants.step_s) == (128, 1000, 0.004)
    assert constants.device.name == "a100"


def test_the_same_pool_is_placed_the_same_way_twice() -> None:
    models = {n: ModelConfig(path=n) for n in CORES}
    node = NodeSpec("gpu", 2, 24)
    assert plan_placement(models, CORES, node, {}) == plan_placement(models, CORES, node, {})


def test_planning_loads_neither_torch_nor_scipy_before_it_must() -> None:
    code = (
        "import sys, gra_hpc.placement.placement, gra_hpc.placement.report, gra_hpc.placement.workload,"
        " gra_hpc.models.facts; heavy = {'torch', 'vllm', 'scipy', 'numpy', 'pyarrow'} & set(sys.modules);"
        " sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)
