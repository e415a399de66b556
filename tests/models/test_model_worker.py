"""A model's worker process: asked in a directory, answered there, and gone with its parent."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from gra_hpc.errors import EndedError, GraError
from gra_hpc.models.worker import answered
from tests.waiting import ended, until

ROOT = Path(__file__).resolve().parents[2]
WORKER = """
import json, os, sys, time
from pathlib import Path
from gra_hpc.models.worker import begin
directory, what = sys.argv[1:]
asked = begin(directory)
if what == "fail":
    sys.exit("the model does not know")
if what == "import":
    import torch_of_another_kind
if what == "wait":
    print(os.getpid(), flush=True)
    Path(asked).write_text(str(os.getpid()))
    time.sleep(600)
answer = [asked, os.environ["HF_HUB_OFFLINE"], os.environ["COLOUR"]]
(Path(directory) / "answer.json").write_text(json.dumps(answer))
"""
PARENT = """
import sys
from gra_hpc.models.worker import answered
with answered("worker_of_the_test", sys.argv[1], "wait", what="waiting", PYTHONPATH=sys.argv[2]):
    pass
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """PYTHONPATH with the worker on it."""
    (tmp_path / "worker_of_the_test.py").write_text(WORKER)
    return f"{tmp_path}:{ROOT}"


def test_what_is_asked_is_answered(path: str) -> None:
    with answered("worker_of_the_test", ["é", 1], "tell", what="telling", PYTHONPATH=path, COLOUR="red") as directory:
        assert json.loads((directory / "answer.json").read_text()) == [["é", 1], "1", "red"]
    assert not directory.exists()


def test_a_failure_is_one_line(path: str) -> None:
    for how, said in (
        ("fail", r"^telling failed \(exit code 1\): the model does not know -> another model$"),
        ("import", r"^telling: torch-of-another-kind is not installed -> pip install"),
    ):
        with (
            pytest.raises(GraError, match=said),
            answered("worker_of_the_test", 0, how, what="telling", then="another model", PYTHONPATH=path),
        ):
            pass


def test_a_worker_dies_with_its_parent(path: str, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(told), path], cwd=ROOT)
    try:
        until(lambda: told.is_file() and told.read_text(), lambda: parent.poll() is None)
        worker = psutil.Process(int(told.read_text()))
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    ended([worker])


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGKILL, r"SIGKILL \(out of memory\?\)"), (signal.SIGABRT, "SIGABRT"), (15, "SIGTERM")]
)
def test_a_worker_that_is_ended_is_no_fault_of_its_model(tmp_path: Path, number: int, said: str) -> None:
    (tmp_path / "worker_that_is_ended.py").write_text(f"import os; os.kill(os.getpid(), {int(number)})")
    with (
        pytest.raises(EndedError, match=f"^embedding: its process was ended by {said} -> gra resume RUN") as e,
        answered("worker_that_is_ended", 0, what="embedding", then="merge.embed_model=DIR", PYTHONPATH=str(tmp_path)),
    ):
        pass
    assert "embed_model" not in str(e.value), "a setting that is frozen"
