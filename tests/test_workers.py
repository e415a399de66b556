"""The merge's worker processes, and what Slurm sends to all processes of a step."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from gra_hpc.errors import GraError
from gra_hpc.models.worker import answered
from gra_hpc.workers import Workers, child_environment
from tests.waiting import until


def struck_while(number: signal.Signals, tmp_path: Path) -> list[None]:
    """What workers answer while each of them is sent a signal, at work."""
    work = f"import os, pathlib, time; pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch(); time.sleep(0.5)"

    def strike() -> None:
        until(lambda: len(list(tmp_path.iterdir())) == 2)
        for p in tmp_path.iterdir():
            os.kill(int(p.name), number)

    with Workers(2) as workers:
        thread = threading.Thread(target=strike)
        thread.start()
        try:
            return list(workers.map(exec, [work] * 6))
        finally:
            thread.join()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_workers_leave_slurms_signals_to_the_merge(tmp_path: Path, number: signal.Signals) -> None:
    assert struck_while(number, tmp_path) == [None] * 6


def test_a_killed_worker_is_told(tmp_path: Path) -> None:
    with pytest.raises(GraError, match="worker"):
        struck_while(signal.SIGKILL, tmp_path)


PARENT = """
import sys
from gra_hpc.models.worker import answered
from gra_hpc.workers import Workers, child_environment
work = "import os, pathlib, time; pathlib.Path({!r}, str(os.getpid())).touch(); time.sleep(600)".format(sys.argv[1])
with Workers(2) as workers:
    list(workers.map(exec, [work] * 4))
"""


@pytest.mark.parametrize("begun", [False, True])
def test_workers_die_with_the_merge(tmp_path: Path, begun: bool) -> None:
    """Also where it is killed while they start: they would still do the first thing they were asked."""
    root = Path(__file__).resolve().parents[1]
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], cwd=root)
    merge = psutil.Process(parent.pid)
    try:
        while len(workers := merge.children()) < 2 or (begun and len(list(tmp_path.iterdir())) < 2):
            assert parent.poll() is None
            time.sleep(0.002)
        if not begun:  # what they are asked is in their pipes before they can ask to die
            for w in workers:
                w.suspend()
            time.sleep(0.5)
    finally:
        parent.kill()
        parent.wait()
    for w in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            w.resume()
    _, alive = psutil.wait_procs(workers, timeout=30)
    for w in alive:
        w.kill()
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_children_are_given_what_they_need_by_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """No token, whatever it is called; no password in a proxy's address; no current directory on a path."""
    secrets = {
        "SLURM_JWT": "s", "GITLAB_PAT": "s", "GH_TOKEN": "s", "HF_TOKEN": "s", "HUGGINGFACE_HUB_TOKEN": "s",
        "VLLM_API_KEY": "s", "https_proxy": "http://me:s@proxy:1", "ALL_PROXY": "http://proxy:1", "MYSITE_LOGIN": "s",
        "HF_ENDPOINT": "https://me:s@hub", "SSH_AUTH_SOCK": "s", "AWS_SECRET_ACCESS_KEY": "s", "WANDB_API_KEY": "s",
        "DATABASE_URL": "s", "NETRC": "s", "RANK": "3", "MASTER_ADDR": "x",
    }  # fmt: skip
    kept = {
        "HOME": "/h", "CUDA_VISIBLE_DEVICES": "0", "HF_HOME": "/hf", "TOKENIZERS_PARALLELISM": "false", "LC_ALL": "C",
        "OMP_NUM_THREADS": "2", "NCCL_DEBUG": "INFO", "VLLM_LOGGING_LEVEL": "DEBUG", "SLURM_JOB_ID": "7",
    }  # fmt: skip
    for name, value in (secrets | kept).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", ":/lib/x:rel")
    monkeypatch.setenv("LD_LIBRARY_PATH", ":/lib/y:")
    env = child_environment(EXTRA="1")
    assert not set(env) & set(secrets)
    assert kept.items() <= env.items() and env["EXTRA"] == "1"
    assert env["PYTHONSAFEPATH"] == "1" and env["LD_LIBRARY_PATH"] == "/lib/y"
    assert all(p.startswith("/") for p in env["PYTHONPATH"].split(":")) and "/lib/x" in env["PYTHONPATH"]


def test_the_current_directory_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules that somebody has put there, of names that workers import."""
    for name in ("gra_hpc", "orjson", "numpy", "pickle", "queue", "json", "typing", "subprocess"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'trap')!r}, 'w'); raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    with Workers(2) as workers:
        assert list(workers.map(len, ["a", "bb", "ccc"])) == [1, 2, 3]
    words = ("gra_hpc.models.embedder", ["x"], str(tmp_path / "no-model"), "1")
    with pytest.raises(GraError), answered(*words, what="embedding"):
        pass
    assert not (tmp_path / "trap").exists()
