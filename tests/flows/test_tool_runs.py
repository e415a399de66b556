"""Runs whose flow has a tool that breaks: which shards are published, and what the next attempt goes on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from gra_hpc.errors import GraError
from gra_hpc.run import worker
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json
from tests.flows.foreign.brought import brought
from tests.flows.foreign.probe import flow
from tests.flows.test_conversation_run import run_of

SEEDS = [{"instruction": f"Question {n}.", "response": "r" * (30 - n)} for n in range(30)]
"""Candidates begin with the longest response: that of question 0."""


def stops(_: str) -> int:
    return next(iter(()))


def test_a_tool_that_works_for_no_sample_ends_the_shard_and_mended_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with brought("probe"):
        run = run_of(tmp_path, "method.flow=probe", "method.samples_per_seed=1", "launch.shards=1", records=SEEDS)
        shard = run.round(1).shard(0)
        monkeypatch.setattr(flow, "work", stops)
        with pytest.raises(GraError, match=r"tool probe, sample \w+: StopIteration: ; it broke at all 30 samples"):
            worker.work(Run.open(run.path), 1)
        assert not shard.manifest.exists()
        # Of the candidates that begin first it breaks at more than most, and works at others.
        monkeypatch.setattr(flow, "work", lambda text: stops(text) if int(text[9:-1]) < 25 else 7)
        worker.work(Run.open(run.path), 1)
        found = read_json(shard.manifest)
        assert [journal["calls"] for journal in found["journals"]] == [30]  # nobody was asked again
        assert found["tools"] == {"probe": 5}
        assert found["ledger"]["failed"] == {"probe: StopIteration": 25}
        assert found["ledger"]["accepted"] == 5
