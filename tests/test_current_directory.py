"""Whoever owns the current directory, or may write there, runs no code as this user: plain sbatch, models' own code,
tasks of benchmarks, embedding models, the doctor's questions. Presets and `-P` have tests of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gra_hpc.config.settings import ModelConfig
from gra_hpc.config.site import SiteConfig
from gra_hpc.doctor import software
from gra_hpc.doctor.finding import OK
from gra_hpc.errors import GraError, OwnershipError
from gra_hpc.evaluation.config import BenchmarkConfig, tasks_of
from gra_hpc.models import embedder, files

ROOT = Path(__file__).resolve().parent.parent


def opened(path: Path) -> Path:
    """A directory that everybody may write to."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o777)
    return path


@pytest.mark.parametrize("job", ["synthesize", "merge", "finetune", "evaluate"])
@pytest.mark.parametrize("trusted", [False, True])
def test_plain_sbatch(tmp_path: Path, job: str, trusted: bool) -> None:
    """`.venv` and `jobs` of the directory that sbatch was run in."""
    home, out = opened(tmp_path / "home"), tmp_path / "out"
    python = home / ".venv/bin/python"
    for path, text in ((python, f"#!/bin/sh\necho ran >{tmp_path / 'ran'}\n"), (home / f"jobs/{job}.py", "")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    out.mkdir()
    for name in ("plan.json", "config.yaml"):
        (out / name).write_text("")
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "srun").write_text('#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n')
    (fake / "srun").chmod(0o755)
    env = {"PATH": f"{fake}:/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(home), "SLURM_JOB_ID": "1"}
    done = subprocess.run(
        ["bash", str(ROOT / f"slurm/{job}.sbatch"), str(out)], cwd=home, capture_output=True, text=True, timeout=60,
        env=env | ({"GRA_HOME": str(home)} if trusted else {}), check=False,
    )  # fmt: skip
    assert (tmp_path / "ran").exists() is trusted
    assert (done.returncode == 0) is trusted
    if not trusted:
        assert f"{job}: {home}: others may write there" in done.stderr
        home.chmod(0o755)
        subprocess.run(["bash", str(ROOT / f"slurm/{job}.sbatch"), str(out)], cwd=home, env=env, timeout=60, check=True)
        assert (tmp_path / "ran").exists()


def test_code_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hub id leads to a directory of that name, if there is one here."""
    monkeypatch.chdir(tmp_path)
    model = opened(tmp_path / "org/name")
    (model / "modeling.py").write_text("")
    trusting = ModelConfig(path="org/name", trust_remote_code=True)
    with pytest.raises(OwnershipError, match="others may write"):
        files.check_files(model, trusting)
    model.chmod(0o755)
    (model / "modeling.py").chmod(0o666)
    with pytest.raises(OwnershipError, match=r"modeling\.py"):
        files.check_files(model, trusting)
    (model / "modeling.py").chmod(0o644)
    files.refuse_strange_code("org/name", model, True)
    model.chmod(0o777)
    files.refuse_strange_code("org/name", model, False)
    files.refuse_strange_code(str(model), model, True)  # meant
    monkeypatch.setenv("GRA_TRUST", str(tmp_path))
    files.refuse_strange_code("org/name", model, True)


def test_tasks_of_a_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`configs/evaluate/tasks`, as the shipped presets have it, is looked for here first."""
    monkeypatch.chdir(tmp_path)
    shipped = BenchmarkConfig(include="configs/evaluate/tasks")
    assert tasks_of(shipped) == ROOT / "configs/evaluate/tasks"
    mine = opened(tmp_path / "configs/evaluate/tasks")
    (mine / "task.yaml").write_text("doc_to_text: !function evil.run\n")
    with pytest.raises(OwnershipError, match="others may write"):
        tasks_of(shipped)
    mine.chmod(0o755)
    assert tasks_of(shipped) == Path("configs/evaluate/tasks")
    (mine / "evil.py").write_text("")
    (mine / "evil.py").chmod(0o666)
    with pytest.raises(OwnershipError, match=r"evil\.py"):
        tasks_of(shipped)
    assert tasks_of(BenchmarkConfig(include="nowhere")) is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("modules.json", [{"idx": 0, "type": "modeling_x.Evil"}], "no part of sentence-transformers"),
        ("router_config.json", {"types": {"a": "os.Evil"}}, "no part of sentence-transformers"),
        ("modules.json", {"types": 1}, "not the modules"),
        ("modules.json", [1], "not the modules"),
    ],
)
def test_code_of_an_embedding_model(tmp_path: Path, name: str, content: object, message: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(GraError, match=message):
        embedder.encode(["x"], tmp_path)


def test_the_doctor_asks_another_python_safely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gra_hpc", "json", "torch"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n__version__ = 'x'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", str(ROOT)]))
    (found,) = software.interpreter(SiteConfig(python=sys.executable))
    assert found.level == OK and not (tmp_path / "ran").exists()
    done = software._asked(sys.executable, "import json; print(json.__file__)", 60)
    assert done.stdout.strip() == json.__file__ and not (tmp_path / "ran").exists()
