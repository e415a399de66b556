"""Runs to disturb, the undisturbed run to compare with, and processes to kill."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gra_hpc.run.run import Run
from tools.faults import faults


@pytest.fixture(scope="session")
def crash_dir(tiny_llama: Path) -> Iterator[Path]:
    """A directory in memory where there is one: these tests are about processes, not about a slow disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="gra-crash-", dir=memory if memory.is_dir() else None, ignore_cleanup_errors=True
    ) as path:
        yield Path(path)


@pytest.fixture(scope="session")
def nursery() -> Iterator[faults.Nursery]:
    """Forks jobs from a process that has imported everything."""
    server = faults.Nursery()
    yield server
    server.close()


@pytest.fixture(scope="session")
def reference(crash_dir: Path) -> Run:
    """Two shards of about 60 calls each, and their release, made without a fault."""
    return faults.undisturbed(faults.make_run(crash_dir / "reference", 14, ["launch.shards=2"]))


@pytest.fixture
def new_run(crash_dir: Path, reference: Run, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Makes runs over the same seeds, for this test only; settings outside the fingerprint may differ."""
    made: list[Run] = []

    def make(*overrides: str) -> Run:
        number = len(list(crash_dir.glob("run-*")))
        made.append(faults.make_run(crash_dir / f"run-{number}", 14, ["launch.shards=2", *overrides]))
        return made[-1]

    yield make
    for run in made:
        shutil.rmtree(run.path, ignore_errors=True)
