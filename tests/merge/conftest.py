"""Fixtures of the merge's tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2, the real embedding model; made by tools/get_models.py unless it is there."""
    tool = ROOT / "tools" / "get_models.py"
    subprocess.run(
        [sys.executable, str(tool), "minilm", "--dir", str(ROOT / "models")], check=True, timeout=280
    )
    return ROOT / "models" / "all-minilm-l6-v2"
