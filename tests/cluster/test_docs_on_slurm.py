"""The tutorial and the recipes, typed on the test cluster as they are printed."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import free_port_block

from tests.test_docs import ROOT, Desk, blocks, run_page

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]


def test_the_tutorial(slurm_env: Any, tmp_path: Path, tiny_llama: Path) -> None:
    desk = Desk(tmp_path, tiny_llama)
    desk.env |= slurm_env.env | {"PATH": f"{desk.env['PATH']}:{slurm_env.env['PATH']}"}
    assert run_page(desk, ROOT / "docs" / "tutorial.md", "run=slurm") >= 15
    release = tmp_path / "runs" / "small" / "release"
    assert (release / "manifest.json").exists()
    assert list(release.parent.glob("release-alpaca*"))


def test_the_recipes(slurm_env: Any, tmp_path: Path, tiny_llama: Path) -> None:
    desk = Desk(tmp_path, tiny_llama)
    desk.env |= slurm_env.env | {"PATH": f"{desk.env['PATH']}:{slurm_env.env['PATH']}"}
    site = "site.executor=slurm site.partition=low site.time_minutes=30"
    desk.type(f"gra plan runs/done --preset demo {site} engine.simulated_latency_s=3 && gra submit runs/done")
    desk.type(f"gra plan runs/plain --preset demo {site}")
    assert run_page(desk, ROOT / "docs" / "howto.md", "run=slurm") >= 4
    slurm_env.wait_until(lambda: (tmp_path / "runs" / "plain" / "release" / "manifest.json").exists(), 180)


def test_the_readme(slurm_env: Any, tmp_path: Path, tiny_llama: Path) -> None:
    desk = Desk(tmp_path, tiny_llama)
    desk.env |= slurm_env.env | {"PATH": f"{desk.env['PATH']}:{slurm_env.env['PATH']}"}
    assert run_page(desk, ROOT / "README.md", "run=slurm") >= 8
    assert (tmp_path / "runs" / "alpaca" / "release" / "manifest.json").exists()


def test_the_test_cluster_by_hand(tmp_path: Path, short_dir: Path, tiny_llama: Path) -> None:
    desk = Desk(tmp_path, tiny_llama)
    (script,) = (text for _, marks, text in blocks(ROOT / "docs" / "developing.md") if marks == "run=script")
    with ExitStack() as ports:
        desk.env["MS_PORT"] = str(free_port_block(ports))
        short_dir.chmod(0o755)  # munged wants to reach its socket as anybody
        said = desk.type("set -e\n" + script.replace("/tmp/mini", str(short_dir / "mini")))
    assert "idle" in said
