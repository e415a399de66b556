"""What a benchmark's job asks of Slurm, and over how many devices its model is split."""

from __future__ import annotations

from pathlib import Path

import pytest

from gra_hpc.config.site import SiteConfig
from gra_hpc.evaluation.config import compose
from gra_hpc.evaluation.job import demand, environment
from gra_hpc.evaluation.process import harness
from gra_hpc.models.facts import stated_facts

NODE = ["model.path=m", "site.gpus_per_node=8", "site.cpus_per_task=60", "site.memory_gb=480"]


def test_a_benchmark_takes_its_share_of_a_node() -> None:
    one = demand(compose("paper", NODE))
    assert (one.gpus, one.cpus, one.memory_gb) == (1, 8, 60.0)
    whole = demand(compose("paper", [*NODE, "launch.gpus=0"]))
    assert (whole.gpus, whole.cpus, whole.memory_gb) == (8, 60, 480.0)
    assert demand(compose("paper", [*NODE, "launch.cpus=3"])).cpus == 3


@pytest.mark.parametrize(
    ("heads", "kv_heads", "devices", "split"), [(28, 4, 8, 4), (32, 8, 8, 8), (28, 4, 1, 1), (9, 3, 4, 1)]
)
def test_heads_divide_over_devices(
    monkeypatch: pytest.MonkeyPatch, heads: int, kv_heads: int, devices: int, split: int
) -> None:
    """Qwen2.5-7B has 28 heads: vLLM refuses to split them over the eight GPUs of a node."""
    facts = stated_facts(parameters=7e9, layers=28, heads=heads, kv_heads=kv_heads, intermediate=18944)
    monkeypatch.setattr(harness, "read_facts", lambda _: facts)
    assert harness._splits(Path("m"), devices) == split


def test_what_the_parts_of_a_benchmark_say_to_each_other_stays_on_the_node() -> None:
    env = environment(SiteConfig(gpus_per_node=8), {})
    assert env["GLOO_SOCKET_IFNAME"] == env["NCCL_SOCKET_IFNAME"] == "lo"
    assert env["VLLM_HOST_IP"] == env["VLLM_LOOPBACK_IP"] == "127.0.0.1"
