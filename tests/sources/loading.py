"""Seeds out of a file, with the ledger checked: every record is accepted or rejected, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gra_hpc.config.settings import SeedsConfig
from gra_hpc.sources.seeds import SeedSet, load

Write = Callable[..., SeedSet]
ALPACA = {"instruction": "Add the numbers.", "input": "2 and 3", "output": "5"}


def balanced(result: SeedSet) -> SeedSet:
    assert result.read == len(result.seeds) + len(result.rejects)
    assert sum(result.reasons.values()) == len(result.rejects)
    assert len({s.id for s in result.seeds}) == len(result.seeds)
    return result


def load_file(path: Path, **settings_: Any) -> SeedSet:
    return balanced(load(SeedsConfig(path=str(path), **settings_)))


def reasons(result: SeedSet) -> list[tuple[int, str]]:
    return [(r.line, r.reason) for r in result.rejects]
