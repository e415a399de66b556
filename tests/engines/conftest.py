"""What the tests of engines share."""

from __future__ import annotations

from pathlib import Path

import pytest

from gra_hpc.engines import process
from tests.engines.node_host import Host


@pytest.fixture
def host(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(process, "TERM_GRACE_S", 1.0)
    return Host(short_dir)
