"""A merge that computes embeddings, killed between two blocks: it goes on after the last part."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gra_hpc import storage
from gra_hpc.merge.round import merge_round
from gra_hpc.models import embedder
from gra_hpc.workers import child_environment
from tests.merge.fabricate import make_run, publish_shard, sample, seed, tables
from tools.faults.faults import wait_for

_MERGE = """
import sys, time
sys.path.insert(0, sys.argv[2])
from test_killed_embeddings import simulated_encode
from gra_hpc.merge.semantic import embeddings
from gra_hpc.models import embedder
from gra_hpc.merge.round import merge_round
from gra_hpc.run.run import Run
blocks = []
def encode(texts, model):
    blocks.append(texts)
    if len(blocks) == 3:  # where it is killed
        time.sleep(600)
    return simulated_encode(texts, model)
embeddings._AT_ONCE, embedder.encode = 2, encode
merge_round(Run.to_look_at(sys.argv[1]), 1)
"""


def simulated_encode(texts: Sequence[str], _: object) -> np.ndarray:
    """In place of the model (12 s each time; tests/merge has it): this is about the parts that it leaves."""
    vectors = np.stack([np.random.default_rng(list(t.encode())).normal(size=384) for t in texts])
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.timeout(600)
def test_embeddings_that_were_computed_are_not_computed_again(
    tmp_path: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedder, "encode", simulated_encode)
    run = make_run(tmp_path / "run", [seed(0)], shards=1, embed=str(minilm))
    publish_shard(run, 1, 0, [sample(i) for i in range(7)])
    kept = run.round(1).path / "embeddings"
    command = [sys.executable, "-c", _MERGE, str(run.path), str(Path(__file__).parent)]
    process = subprocess.Popen(command, env=child_environment(PYTHONPATH=os.pathsep.join(sys.path)))
    wait_for(lambda: any(kept.glob("00001-*.parquet")) or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    parts = {p.name: p.read_bytes() for p in kept.glob("*.parquet")}
    assert not run.round(1).merged.exists()
    merge_round(run, 1)
    assert len(parts) == 2  # the first block is the seed and a row
    assert storage.read_json(run.round(1).manifest)["steps"]["semantic"]["embedded_here"] == 4
    assert {name: (kept / name).read_bytes() for name in parts} == parts
    before = tables(run)
    shutil.rmtree(run.round(1).merged)
    merge_round(run, 1)
    assert storage.read_json(run.round(1).manifest)["steps"]["semantic"]["embedded_here"] == 0
    assert tables(run) == before
