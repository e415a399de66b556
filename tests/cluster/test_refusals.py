"""What only Slurm can refuse: one line each, with the key to change; nothing is left in the queue."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import mini_slurm
from tests.cluster.small_runs import gra, planned

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]

STRICT = """AccountingStorageEnforce=associations,qos
EnforcePartLimits=ALL
PartitionName=short Nodes=ALL MaxTime=5 AllowAccounts=ALL
PartitionName=theirs Nodes=ALL AllowAccounts=other"""


@pytest.fixture(scope="module")
def strict() -> Iterator[Any]:
    """A cluster that checks accounts, QOS and limits, as shared ones do."""
    with mini_slurm(accounting=True, extra=STRICT) as cluster:
        time.sleep(1)
        yield cluster


def test_refused_jobs_name_the_key(
    strict: Any, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in strict.env.items():
        monkeypatch.setenv(key, value)
    run = planned(tmp_path / "run", tiny_llama)
    good = ["site.account=", "site.qos=", "site.partition=low", "site.constraint=", "site.gpus_per_node=0"]
    good += ["site.gpu_type=", "site.memory_gb=0", "site.reservation="]
    for words, then in [
        (["site.account=nobodys"], "site.account="),
        (["site.qos=platinum"], "site.qos="),
        (["site.partition=gup"], "site.partition="),
        (["site.partition=short"], "site.time_minutes="),
        (["site.partition=theirs"], "site.account="),
        (["site.constraint=h100"], "site.constraint="),
        (["site.gpus_per_node=9"], "site.gpus_per_node"),
        (["site.gpus_per_node=1", "site.gpu_type=h100"], "site."),
        (["site.memory_gb=9000"], "site.memory_gb"),
        (["site.reservation=maintenance"], "site.reservation="),
    ]:
        said = gra("resume", run, *good, *words, code=1)
        assert said.startswith("gra: sbatch refused: ") and said.count("\n") == 1, said
        assert then in said, said
    assert strict.run("squeue", "-h") == ""
    for words, said in [
        (["site.partition=gup"], "as it is, sbatch refused: invalid partition specified: gup"),
        (["site.sbatch.nodez=3"], "as it is, sbatch refused: unrecognized option '--nodez=3' -> mend site.sbatch"),
        ([], "Slurm would take it"),
    ]:
        assert said in gra("plan", run, "--preset", tmp_path / "run.yaml", *good, *words)
    # mended, the same run goes on
    assert "array" in gra("resume", run, *good)
    strict.wait_until(lambda: (run / "release" / "manifest.json").exists(), 120)
