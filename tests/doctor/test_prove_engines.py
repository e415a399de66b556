"""`gra doctor --prove` with real engines and a real training, on this machine's CPU: everything that a CPU can."""

from __future__ import annotations

from pathlib import Path

import pytest

from gra_hpc.config import presets
from gra_hpc.doctor.prove.job import prove
from gra_hpc.doctor.prove.outcome import FAILED, NOT_HERE, OK, TITLES
from tests.conftest import known_classes

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.all_cores, pytest.mark.timeout(3000)]


def test_all_that_a_cpu_can(tiny_llama: Path, minilm: Path, short_dir: Path) -> None:
    words = (
        *(f"models.smollm2.path={tiny_llama}", "models.smollm2.load_format=dummy"),
        *(f"merge.embed_model={minilm}", f"site.local_dir={short_dir}"),
    )
    with known_classes(short_dir):
        directory, report, wrong = prove(presets.compose("demo", words), short_dir)
    rows = {row["piece"]: row for row in report["pieces"]}
    assert wrong is None and list(rows) == list(TITLES)
    assert {piece: row["state"] for piece, row in rows.items()} == dict.fromkeys(TITLES, OK), rows
    assert "a CPU has no sleep mode" in rows["sleep"]["what"] and "over 2 processes" in rows["split"]["what"]
    assert "2 steps, 2 ranks on the CPU" in rows["tuning"]["what"]
    assert report["measured"]["start_s"] > 0 and set(report["measured"]["speed"]) == {"smollm2"}
    assert not (directory / "tuning" / "model").exists()


def test_a_training_without_its_device(tiny_llama: Path, short_dir: Path) -> None:
    """The site's file names a GPU that PyTorch does not see: the rank says so, in the table."""
    words = (f"models.smollm2.path={tiny_llama}", "models.smollm2.load_format=dummy", "site.gpus_per_node=1")
    config = presets.compose("demo", (*words, "site.gpu_memory_gb=80"))
    _, report, _ = prove(config, short_dir, only=["tuning"])
    (row,) = report["pieces"]
    assert row["state"] == FAILED and row["state"] != NOT_HERE
    assert "PyTorch sees no GPU on this node" in row["what"] and "job.log" in row["then"]
