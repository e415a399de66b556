"""A run knows which directory it is: a copy of a running run touches nothing of it, a moved run goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
from conftest import MiniSlurm

from gra_hpc.run.run import Run

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(400)]


def test_a_copy_of_a_running_run_and_a_moved_one(cluster: MiniSlurm, slurm_run: Callable[..., Any]) -> None:
    # calls so slow that no task ends while the commands below are typed, however busy the machine
    run = slurm_run(cluster, "engine.simulated_latency_s=5", "launch.window=1")
    run.submit()
    run.wait(lambda: any(t.running for _, t in run.queue()) and sum(run.answers(n) for n in range(4)) >= 2)
    before = {t.id for _, t in run.queue()}
    copy = run.run.path.with_name(f"{run.run.path.name}-copy")
    shutil.copytree(run.run.path, copy)
    said = f"this is a copy of {run.run.path}, whose jobs run"
    for command in ("resume", "cancel"):
        assert said in run.gra(command, copy, code=1)
    shown = " ".join(run.gra("status", copy).split())
    assert said in shown and f"next: gra status {run.run.path}" in shown
    assert "running" not in run.gra("logs", copy, "--paths")  # looks only
    assert {t.id for _, t in run.queue()} == before, "the original's jobs"
    # the original is moved: its jobs look for it where it was
    moved = run.run.path.with_name(f"{run.run.path.name}-moved")
    run.run.path.rename(moved)
    there = type(run)(cluster, Run.open(moved), run.reference)
    there.quick()
    said = there.resume()
    assert f"{len(before)} tasks of earlier submissions cancelled" in said and "array" in said
    # with nobody at work on the original, the copy is a run of its own
    here = type(run)(cluster, Run.open(copy), run.reference)
    here.quick()
    here.resume()
    for one in (there, here):
        one.wait_release()
        one.check()
