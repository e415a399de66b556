"""What a job begins with is read only if it is its user's alone, and is written so, whatever the umask."""

from __future__ import annotations

import os
import pickle
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from submitit.core.utils import JobPaths, temporary_save_path

from gra_hpc.config.site import SiteConfig
from gra_hpc.launch import task_file
from gra_hpc.launch.arrays import Demand, executor_for, submit_array, submit_one
from gra_hpc.launch.submissions import Job, Submission
from gra_hpc.launch.tasks import MergeTask
from gra_hpc.run.directory import OutputDir

other_user = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")


@dataclass(frozen=True)
class Touch:
    """A task that leaves a trace."""

    path: str

    def __call__(self) -> str:
        Path(self.path).touch()
        return "touched"


@pytest.fixture
def umask() -> Iterator[None]:
    """A group whose members trust each other with everything."""
    before = os.umask(0o002)
    yield
    os.umask(before)


def start(folder: Path, job: str = "77") -> subprocess.CompletedProcess[str]:
    """What a job's shell runs, as the local executor does."""
    words = task_file.command(sys.executable, str(folder)).split()
    env = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": job, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        words, env={**os.environ, **env}, capture_output=True, text=True, timeout=120, check=False, cwd="/"
    )


def test_a_task_runs_and_tells(tmp_path: Path) -> None:
    folder = tmp_path / "local"
    (file,) = task_file.write(folder, [Touch(str(tmp_path / "done"))], 5, 1)
    task_file.place([(file, JobPaths(folder, "77"))], "submitted_pickle")
    done = start(folder)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "done").exists()
    assert task_file.outcome(JobPaths(folder, "77")) == {"result": "touched"}
    assert not list(folder.glob("*_result.pkl"))


@pytest.mark.parametrize("swap", ["group", "everybody", "directory", "pipe", "theirs", "their link", "their directory"])
def test_a_task_that_others_could_write_does_not_run(tmp_path: Path, swap: str) -> None:
    """Swapped in place, by a link, or with the whole directory."""
    if swap.startswith("their") and os.getuid():
        pytest.skip("only root can give files away")
    trap, folder = tmp_path / "trap", tmp_path / "local"
    folder.mkdir()
    file = folder / "77_submitted.pkl"
    planted = pickle.dumps(task_file.Submitted(Touch(str(trap))))
    if swap == "directory":
        file.mkdir()
    elif swap == "pipe":
        os.mkfifo(file)
    else:
        file.write_bytes(planted)
        file.chmod({"group": 0o660, "everybody": 0o606}.get(swap, 0o600))
    if swap == "group" and os.getuid() == 0:
        os.chown(file, 0, 65534)
    elif swap == "theirs":
        os.chown(file, 65534, 65534)
    elif swap == "their link":
        (tmp_path / "theirs").write_bytes(planted)
        os.chown(tmp_path / "theirs", 65534, 65534)
        file.unlink()
        file.symlink_to(tmp_path / "theirs")
    elif swap == "their directory":
        for path in (folder, file):
            os.chown(path, 65534, 65534)
    done = start(folder)
    assert done.returncode != 0
    assert "gra_hpc.errors.OwnershipError" in done.stderr or "Is a directory" in done.stderr, done.stderr
    assert not trap.exists()


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for sbatch that keeps the script it is given."""
    place = tmp_path / "bin"
    place.mkdir()
    (place / "sbatch").write_text(
        f'#!/bin/sh\nstat -c "%a %n" "$1" >{tmp_path}/seen\numask >>{tmp_path}/seen\necho "Submitted batch job 4242"\n'
    )
    (place / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    return tmp_path / "seen"


@pytest.mark.parametrize("tasks", [1, 3])
def test_what_is_submitted_is_the_owners_alone(tmp_path: Path, sbatch: Path, umask: None, tasks: int) -> None:
    """Files, and the directories that they could be swapped in; logs can still be read, and the job keeps the umask."""
    run = OutputDir(tmp_path / "run")
    run.logs.mkdir(parents=True)
    run.submissions.mkdir()
    for left_by_an_earlier_version in (run.logs, run.submissions):
        left_by_an_earlier_version.chmod(0o2775)
    executor = executor_for(run, SiteConfig(), Demand.of_merge(SiteConfig()), "gra:RUN:SUBMISSION:0")
    made = [MergeTask("run", n) for n in range(tasks)]
    assert (submit_array(executor, made) if tasks > 1 else submit_one(executor, made[0])) == "4242"
    Submission.new(run, [Job("merge", 1)]).save(run)
    names = {f"4242_{n}_submitted.pkl" for n in range(tasks)} if tasks > 1 else {"4242_submitted.pkl"}
    assert {p.name for p in (run.logs / "4242").iterdir()} == {*names, "4242_submission.sh"}
    assert {p.name for p in run.logs.iterdir()} == {"4242"}
    for path in (run.logs, *run.logs.rglob("*"), run.submissions, *run.submissions.iterdir()):
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_file():
            assert mode == 0o600, path
        else:
            assert mode & 0o777 == (0o700 if path == run.submissions else 0o755), path
    script, mask = sbatch.read_text().splitlines()
    assert script.startswith("600 ") and mask.endswith("002")
    with (run.logs / "4242" / sorted(names)[0]).open("rb") as f:
        assert pickle.load(f).function == made[0]


def test_a_task_that_goes_back_to_the_queue_stays_its_owners(tmp_path: Path, umask: None) -> None:
    """submitit writes it again at a time limit."""
    file = tmp_path / "77_submitted.pkl"
    with temporary_save_path(file) as temporary:
        MergeTask("run", 1).checkpoint().dump(temporary)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@other_user
def test_only_who_made_a_directory_submits_from_it(tmp_path: Path, sbatch: Path) -> None:
    run = OutputDir(tmp_path / "run")
    run.logs.mkdir(parents=True)
    os.chown(run.logs, 65534, 65534)
    with pytest.raises(Exception, match="not a directory of yours"):
        submit_one(executor_for(run, SiteConfig(), Demand.of_merge(SiteConfig()), "c"), MergeTask("run", 1))
    shutil.rmtree(run.logs)
    run.submissions.mkdir()
    os.chown(run.submissions, 65534, 65534)
    with pytest.raises(Exception, match="not a directory of yours"):
        Submission.new(run, [Job("merge", 1)]).save(run)
