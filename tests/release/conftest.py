"""Runs for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from made_up_runs import BENCHMARK, Maker

from gra_hpc.run.run import Run


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


@pytest.fixture(scope="session")
def shared_maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return Maker(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="session")
def built(shared_maker: Maker) -> Iterator[Run]:
    """A run of two rounds with its release; not to be changed."""
    from gra_hpc.release.build import build

    config = shared_maker.config()
    benchmark = shared_maker.path / "bench.txt"
    benchmark.write_text(BENCHMARK + "\n")
    config.merge.decontamination.sources = [str(benchmark)]
    config.release.formats = ["alpaca", "chat"]
    run = shared_maker.make("two-rounds", config, rounds=2)
    build(run)
    yield run
