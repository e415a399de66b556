"""A reviewed run, made once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gra_hpc.run.run import Run
from tests.judging.reviewed import reviewed


@pytest.fixture(scope="session")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run of 120 samples whose scores are planted; merged, without a release."""
    yield reviewed(tmp_path_factory.mktemp("audit"), 120)
