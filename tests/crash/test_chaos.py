"""A few rounds of tools/faults/chaos.py: one fault of every kind, and a table with zeros in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.faults.chaos import FAULTS, MERGE_KILL, can_mount, kinds
from tools.faults.outcome import COLUMNS
from tools.faults.run_faults import NEEDS_ROOT, RUN_FAULTS, Stages, disturb

TOOL = Path(__file__).resolve().parents[2] / "tools" / "faults" / "chaos.py"
ZERO = ("calls lost", "calls asked again", "rows lost", "rows duplicated", "rows changed")


@pytest.mark.timeout(900)
def test_one_fault_of_every_kind(crash_dir: Path) -> None:
    """On shards and their merge; what disturbs a run between its rounds is tested below."""
    rounds = len(FAULTS) + 1 if can_mount() else len(FAULTS)
    done = subprocess.run(
        [sys.executable, str(TOOL), "--rounds", str(rounds), "--seed", "7", "--dir", str(crash_dir)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    rows = [
        dict(zip(COLUMNS, (cell.strip() for cell in line.strip("|").split("|")), strict=True))
        for line in done.stdout.splitlines()
        if line.startswith("|") and not line.startswith(("|---", "| fault"))
    ]
    assert {r["fault"] for r in rows} >= {MERGE_KILL, "**all**", "SIGKILL in publish", "corrupt line"}
    assert all(r[column] == "0" for r in rows for column in ZERO)
    assert int(rows[-1]["calls answered"]) > 200
    assert "the release equals the undisturbed run's" in done.stdout


@pytest.fixture(scope="module")
def stages(crash_dir: Path) -> Stages:
    return Stages.make(crash_dir)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "kind", [k if k in ("late shard", "flipped bit") else pytest.param(k, marks=pytest.mark.slow) for k in RUN_FAULTS]
)
def test_a_run_goes_on_to_the_same_end(stages: Stages, kind: str, crash_dir: Path) -> None:
    if kind in NEEDS_ROOT and not can_mount():
        pytest.skip("no right to give a process a node name of its own")
    case = disturb(stages, crash_dir, kind, "7")
    assert case.problems == [] and (case.lost, case.twice) == (0, 0)
    assert case.rows > 10


def test_rounds_are_drawn_by_the_seed() -> None:
    import random

    first, again, other = (list(kinds(60, random.Random(seed), True)) for seed in (1, 1, 2))
    assert first == again != other
    every = {*FAULTS, MERGE_KILL, *RUN_FAULTS}
    assert set(first[: len(every)]) == every
