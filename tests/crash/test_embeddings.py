"""A merge that computes embeddings, killed between two blocks: it goes on after the last part."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faults import wait_for

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "merge"))

from fabricate import make_run, publish_shard, sample, seed, tables

from gra_hpc import storage
from gra_hpc.merge.job import merge_round
from gra_hpc.merge.workers import child_environment

_MERGE = """
import sys
from gra_hpc.merge import vectors
from gra_hpc.merge.job import merge_round
from gra_hpc.rundir import RunDir
vectors._AT_ONCE = 2
merge_round(RunDir.existing(sys.argv[1]), 1)
"""


@pytest.mark.timeout(600)
def test_embeddings_that_were_computed_are_not_computed_again(tmp_path: Path, minilm: Path) -> None:
    run = make_run(tmp_path / "run", [seed(0)], shards=1, embed=str(minilm))
    publish_shard(run, 1, 0, [sample(i) for i in range(7)])
    kept = run.round(1).path / "embeddings"
    process = subprocess.Popen([sys.executable, "-c", _MERGE, str(run.path)], env=child_environment())
    wait_for(lambda: (kept / "00001.parquet").is_file() or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    parts = {p.name: p.read_bytes() for p in kept.glob("*.parquet")}
    assert not run.round(1).merged.exists()
    merge_round(run, 1)
    there = 1 + 1 + 2 * (len(parts) - 1)  # the seed and a row in the first block, then two rows in each
    assert storage.read_json(run.round(1).manifest)["steps"]["semantic"]["embedded_here"] == 8 - there
    assert {name: (kept / name).read_bytes() for name in parts} == parts
    before = tables(run)
    shutil.rmtree(run.round(1).merged)
    merge_round(run, 1)
    assert storage.read_json(run.round(1).manifest)["steps"]["semantic"]["embedded_here"] == 0
    assert tables(run) == before
