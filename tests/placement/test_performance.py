"""The performance model: measured on a CPU, plausible on GPUs, monotonic everywhere."""

from __future__ import annotations

import itertools

import pytest
from placement_models import LLAMA_8B, MINILM, QWEN_72B, SMOLLM2, need

from gra_hpc.errors import ConfigError
from gra_hpc.placement.devices import DEVICES
from gra_hpc.placement.performance import GB, Need, constants_for, rate_curve
from gra_hpc.placement.workload import ModelLoad, RoleLoad

A100 = constants_for("a100", 80)
CHAT = ModelLoad({"generator": RoleLoad(1, 100, 200)})


@pytest.mark.parametrize(("batch", "measured"), [(1, 50), (16, 405), (64, 650)])
def test_the_cpu_figures_are_the_measured_ones(batch: int, measured: float) -> None:
    """SmolLM2-135M in vLLM's default mode on two cores: output tokens a second by batch."""
    constants = constants_for("cpu", 0, "cpu").calibrated({"max_running": batch})
    load = ModelLoad({"generator": RoleLoad(1, 1, 64)})
    curve = rate_curve(Need("smollm2", SMOLLM2, load, 2048), 1, constants, cores=2)
    assert curve.samples_per_s(4 * GB) * 64 == pytest.approx(measured, rel=0.35)


def test_an_8b_model_on_an_a100_serves_thousands_of_tokens() -> None:
    rate = rate_curve(Need("llama", LLAMA_8B, CHAT, 8192), 1, A100).rate(40 * GB)
    assert 4000 < rate.tokens_per_s < 15000
    assert rate.batch == 256


def test_more_kv_cache_never_hurts() -> None:
    curve = rate_curve(need("llama", LLAMA_8B), 1, A100)
    rates = [curve.samples_per_s(k * GB) for k in (0.5, 1, 2, 4, 8, 16, 32, 64)]
    assert rates == sorted(rates)
    assert rates[-1] == rates[-2]  # the batch is full


def test_a_small_cache_is_bound_by_bandwidth_a_large_one_by_compute() -> None:
    curve = rate_curve(need("llama", LLAMA_8B), 1, A100)
    assert curve.rate(0.5 * GB).bound == "memory"
    assert curve.rate(40 * GB).bound == "compute"


@pytest.mark.parametrize("device", sorted(DEVICES))
def test_tensor_parallelism_is_faster_but_never_for_free(device: str) -> None:
    constants = constants_for(device, 80)
    rates = [rate_curve(need("llama", LLAMA_8B), t, constants).samples_per_s(8 * GB) for t in (1, 2, 4, 8)]
    assert all(1 < b / a < 2 for a, b in itertools.pairwise(rates)) or DEVICES[device].link_gbs < 100
    assert all(r / t < rates[0] for r, t in zip(rates[1:], (2, 4, 8), strict=True))


def test_slow_links_make_tensor_parallelism_dear() -> None:
    share = {d: rate_curve(need("x", QWEN_72B), 8, constants_for(d, 80)).link_share(30 * GB) for d in ("h100", "l40s")}
    assert share["h100"] < 0.3 < share["l40s"]


def test_an_embedding_model_reads_prompts_only() -> None:
    rate = rate_curve(need("minilm", MINILM), 1, A100).rate(0)
    assert rate.samples_per_s > 1000
    assert rate.bound == "compute"


def test_experts_that_are_not_asked_cost_no_compute() -> None:
    from dataclasses import replace

    sparse = replace(LLAMA_8B, active_parameters=LLAMA_8B.parameters // 4)
    dense_rate = rate_curve(need("a", LLAMA_8B), 1, A100).samples_per_s(20 * GB)
    assert rate_curve(need("a", sparse), 1, A100).samples_per_s(20 * GB) > 2.5 * dense_rate


def test_cores_add_up() -> None:
    constants = constants_for("cpu", 0, "cpu")
    one, four = (rate_curve(need("s", SMOLLM2), 1, constants, cores=c).samples_per_s(GB) for c in (1, 4))
    assert 3 < four / one <= 4
    split = rate_curve(need("s", LLAMA_8B), 2, constants, cores=2).samples_per_s(GB)
    assert 0.5 < split / rate_curve(need("s", LLAMA_8B), 1, constants, cores=2).samples_per_s(2 * GB) < 0.75


@pytest.mark.parametrize(
    ("name", "memory", "device"),
    [
        ("NVIDIA A100-SXM4-80GB", 80, "a100"),
        ("a100", 40, "a100-40"),
        ("nvidia_h100_80gb_hbm3", 80, "h100"),
        ("l40s", 48, "l40s"),
        ("nvidia_l40", 48, "l40"),  # no l4
        ("NVIDIA GH200 480GB", 96, "gh200"),  # no h200
        ("Tesla-V100-SXM2", 32, "v100"),
        ("rtx4090", 24, "4090"),
        ("nvidia_geforce_rtx_2080_ti", 11, "2080ti"),
        ("rtx2080", 8, "2080"),
        ("Tesla P100-SXM2-16GB", 16, "p100-16"),
        ("p100", 12, "p100"),
        ("AMD Instinct MI250X", 64, "mi250x"),
        ("mi300x", 192, "mi300x"),
        ("MI300A", 128, "mi300"),
        ("a100_3g.20gb", 20, "a100 3g.20gb"),
        ("NVIDIA RTX A4000", 16, "t4"),  # none that we know: no a40, nor by another's digits
        ("", 80, "a100"),
        ("", 141, "h200"),
        ("", 48, "l40s"),
        ("", 40, "a100-40"),
        ("", 24, "a10"),
        ("", 16, "t4"),
        ("gpu", 96, "h100"),
    ],
)
def test_devices_are_known_by_name_or_guessed_from_memory(name: str, memory: float, device: str) -> None:
    assert constants_for(name, memory).device.name == device


def test_a_calibration_replaces_constants() -> None:
    constants = A100.calibrated({"compute_efficiency": 0.4, "device": {"bandwidth_gbs": 1500}, "speed": {"llama": 0.5}})
    assert constants.compute_efficiency == 0.4
    assert constants.device.bandwidth_gbs == 1500
    assert constants.device.tflops == A100.device.tflops
    plain = A100.calibrated({})
    slow, fast = (
        rate_curve(need("llama", LLAMA_8B), 1, c).samples_per_s(20 * GB)
        for c in (A100.calibrated({"speed": {"llama": 0.5}}), plain)
    )
    assert slow == pytest.approx(fast / 2)


@pytest.mark.parametrize("values", [{"fast": 1}, {"step_s": "x"}, {"device": {"flops": 1}}, {"device": "h100"}])
def test_a_wrong_calibration_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="calibration"):
        A100.calibrated(values)
