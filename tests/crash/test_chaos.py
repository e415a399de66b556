"""A few rounds of tools/faults/chaos.py: one fault of every kind, and a table with zeros in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.faults.chaos import COLUMNS, FAULTS, MERGE_KILL, can_mount, kinds

TOOL = Path(__file__).resolve().parents[2] / "tools" / "faults" / "chaos.py"
ZERO = ("calls lost", "calls asked again", "rows lost", "rows duplicated", "rows changed")


@pytest.mark.timeout(900)
def test_one_fault_of_every_kind(crash_dir: Path) -> None:
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


def test_rounds_are_drawn_by_the_seed() -> None:
    import random

    first, again, other = (list(kinds(60, random.Random(seed), True)) for seed in (1, 1, 2))
    assert first == again != other
    assert set(first[: len(FAULTS) + 1]) == {*FAULTS, MERGE_KILL}
