"""The command line: light, frozen by its help text, and one line for every error."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

GRA = [sys.executable, "-m", "gra_hpc.cli"]


def gra(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*GRA, *map(str, args)], capture_output=True, text=True, timeout=240, cwd=cwd, check=False)


def test_importing_the_cli_loads_nothing_heavy() -> None:
    code = (
        "import sys, gra_hpc.cli; "
        "bad = {'torch','vllm','transformers','datasets','pyarrow','numpy','submitit','rich','omegaconf','yaml'}"
        " & set(sys.modules); "
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_planning_loads_neither_torch_nor_vllm() -> None:
    code = (
        "import sys, gra_hpc.run.plan, gra_hpc.run.shard, gra_hpc.views.plan, gra_hpc.launch.submit,"
        " gra_hpc.launch.arrays, gra_hpc.engines.node, gra_hpc.merge.round; "
        "bad = {'torch','vllm','transformers'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_looks_at_runs_and_hands_them_to_slurm_loads_no_tables() -> None:
    """numpy and pyarrow take longer to load than `gra status` takes in all."""
    code = (
        "import sys, gra_hpc.run.plan, gra_hpc.views.plan, gra_hpc.views.progress, gra_hpc.views.logs,"
        " gra_hpc.launch.submit, gra_hpc.launch.cancel, gra_hpc.launch.clean, gra_hpc.doctor.report,"
        " gra_hpc.experiments.progress; "
        "bad = {'numpy', 'pyarrow', 'scipy', 'jinja2', 'submitit', 'gra_hpc.merge', 'gra_hpc.release'}"
        " & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_is_fast() -> None:
    """Under 0.3 s: CPU time, the best of several, as other tests may be running."""
    best = 9.0
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "Usage" in gra("--help").stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert best < 0.3


@pytest.mark.parametrize(
    ("args", "says", "code"),
    [
        (["submit", "nowhere"], "no such directory", 1),
        (["plan", "r", "--preset", "dmo"], "did you mean demo?", 2),
        (["plan", "r", "--preset", "demo", "method.reviewrs=2"], "did you mean reviewers?", 2),
        (["plan", "r", "--preset", "demo", "seeds.path=missing.jsonl"], "missing.jsonl", 1),
        (["plan", "r", "--preset", "demo", "models.smollm2.path=models/none"], "models/none", 1),
        (["status", "nowhere"], "gra plan nowhere", 1),
    ],
)
def test_mistakes_get_one_line(tmp_path: Path, args: list[str], says: str, code: int) -> None:
    done = gra(*args, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("gra: ")
    assert not (tmp_path / "r").exists()
