"""`gra doctor SITE --prove` as one job of the test cluster: table, logs, and the calibration that plans go by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gra_hpc.storage import read_json
from tests.cluster.small_runs import gra
from tests.doctor.made_up_node import simulated_python

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]


@pytest.fixture
def place(tmp_path: Path, tiny_llama: Path, short_dir: Path) -> Path:
    """A directory on the shared file system, with a site's file and a preset of a model without weights."""
    (tmp_path / "configs" / "sites").mkdir(parents=True)
    (tmp_path / "configs" / "sites" / "mini.yaml").write_text(
        "site: {name: mini, executor: slurm, partition: low, cpus_per_task: 2, memory_gb: 2, time_minutes: 30,"
        f" local_dir: {short_dir}}}\n"
    )
    (tmp_path / "small.yaml").write_text(
        f"include: [demo]\nmodels: {{smollm2: {{path: {tiny_llama}, load_format: dummy}}}}\n"
        "merge: {semantic: false}\n"
    )
    return tmp_path


@pytest.mark.usefixtures("slurm_env")
def test_a_node_is_proven_by_one_job(place: Path) -> None:
    """One piece with simulated servers and one that a node of two GB has no room for; a plan by what was measured."""
    python = simulated_python(place, 0)
    words = ("doctor", "mini", "--preset", "small.yaml", "--prove", f"engine.python={python}")
    said = gra(*words, "--only", "speed", "site.memory_gb=8", cwd=place, timeout=240)
    assert "submitted; its log" in said and "speed: ok after" in said and "1 ok" in said
    (proof,) = place.glob("gra-prove-mini-*")
    assert (proof / "speed.log").is_file() and list((proof / "engines").glob("*.log"))
    assert list((proof / "logs").glob("*/*_log.out"))
    file = place / "configs" / "sites" / "mini.calibration.json"
    assert set(read_json(file)["performance"]["speed"]) == {"smollm2"}
    planned = gra("plan", "run", "--preset", "small.yaml", "--site", "mini", "site.memory_gb=8", cwd=place)
    assert f"calibrated by {file}" in " ".join(planned.split())
    said = gra(*words, "--only", "sleep", "site.memory_gb=1", cwd=place, timeout=240, code=1)
    assert "GB missing -> raise site.memory_gb" in " ".join(said.split())
    assert "once mended: gra doctor mini --prove --only sleep" in said


def test_a_job_that_dies_says_so(slurm_env: Any, place: Path) -> None:
    """Nothing was reported: the job's last words, and what to look at."""
    words = ("doctor", "mini", "--preset", "small.yaml", "--prove", "site.setup=['exit 3']", "--only", "speed")
    said = " ".join(gra(*words, cwd=place, timeout=240, code=1).split())
    assert "failure the job" in said and "site.setup" in said
    assert not slurm_env.run("squeue", "-h")


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(2400)
@pytest.mark.usefixtures("slurm_env")
def test_a_real_engine_in_the_job(place: Path) -> None:
    """vLLM's server on the node's CPU, killed once; its speed is in the site's figures."""
    words = ("doctor", "mini", "--preset", "small.yaml", "--prove", "--only", "speed", "--only", "death")
    said = gra(*words, "site.memory_gb=6", cwd=place, timeout=2300)
    assert "2 ok" in said and "all answered" in " ".join(said.split()), said
    (proof,) = place.glob("gra-prove-mini-*")
    assert len(list((proof / "engines").glob("engine-smollm2-0-*.log"))) == 2
    performance = read_json(place / "configs" / "sites" / "mini.calibration.json")["performance"]
    assert performance["start_s"] > 0 and performance["speed"]["smollm2"] > 0
