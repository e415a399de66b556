"""What the tests of seeds share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from gra_hpc.sources.seeds import SeedSet
from tests.sources.loading import Write, load_file


@pytest.fixture
def jsonl(tmp_path: Path) -> Write:
    """Load records, or raw lines, written to a JSONL file."""

    def write(*lines: object, **settings_: Any) -> SeedSet:
        encoded = [line if isinstance(line, bytes) else orjson.dumps(line) for line in lines]
        (tmp_path / "s.jsonl").write_bytes(b"\n".join(encoded) + b"\n")
        return load_file(tmp_path / "s.jsonl", **settings_)

    return write
