"""What may change between two attempts, and what may not; and what `gra submit` and `gra resume` say about it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gra_hpc.run.run import Run
from gra_hpc.storage import read_json
from tools.faults.faults import SYNTHESIZE, Audit, check_shard, release_of

MakeRun = Callable[..., Run]


def gra(*words: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "gra_hpc.cli", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def begun(new_run: MakeRun, nursery, tmp_path: Path) -> tuple[Run, Audit]:
    """A run whose first shard was killed in the middle."""
    run = new_run()
    audit = Audit(run.round(1).shard(0))
    audit.starting()
    dead = nursery.start(
        SYNTHESIZE, run.path, 0, "--round", 1, log=tmp_path / "log", below=run.path, only="write", at=30
    )
    assert dead.wait() == -signal.SIGKILL
    audit.stopped()
    return run, audit


@pytest.mark.timeout(600)
def test_placement_may_change_in_the_middle_of_a_shard(begun: tuple[Run, Audit], reference: Run) -> None:
    run, audit = begun
    audit.starting()
    done = gra(
        "resume", run.path, "launch.window=2", "launch.parallel=2", "site.time_minutes=15", "site.partition=other",
        "engine.max_running=7",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (len(audit.answered), audit.published()[1], audit.reasked) == (29, 0, 0)
    for shard in (0, 1):
        check_shard(run.round(1).shard(shard), reference.round(1).shard(shard))
    assert release_of(run) == release_of(reference)
    assert "rows:" in done.stdout
    again = gra("resume", run.path)
    assert (again.returncode, again.stdout.strip()) == (0, f"nothing left to do; release in {run.release}")


def test_what_the_fingerprint_holds_may_not(begun: tuple[Run, Audit]) -> None:
    run, _ = begun
    config = run.config_file.read_bytes()
    done = gra("resume", run.path, "method.accept_mean=9", "launch.window=2", "committee.ada.persona=''")
    assert done.returncode != 0
    (line,) = done.stderr.strip().splitlines()
    assert "planned with other settings" in line
    assert "method.accept_mean: planned 6.0, now 9.0" in line
    assert "committee.ada.persona: planned 'Prefer concrete topics.', now ''" in line
    assert "window" not in line
    assert f"gra plan {run.path}-2" in line
    assert run.config_file.read_bytes() == config
    # the same by hand: an edited run.yaml is refused by every job
    run.config_file.write_text(config.decode().replace("accept_mean: 6.0", "accept_mean: 9.0"))
    by_hand = subprocess.run(
        [sys.executable, str(SYNTHESIZE), str(run.path), "0"], capture_output=True, text=True, check=False
    )
    assert by_hand.returncode == 1
    assert "method.accept_mean: planned 6.0, now 9.0" in by_hand.stderr
    assert "Traceback" not in by_hand.stderr


def test_submit_of_a_started_run_names_resume(begun: tuple[Run, Audit]) -> None:
    run, _ = begun
    done = gra("submit", run.path)
    assert done.returncode != 0
    assert done.stderr.strip() == f"gra: {run.path}: was started before -> gra resume {run.path}"


@pytest.mark.timeout(600)
def test_a_merge_without_all_shards(new_run: MakeRun, reference: Run, nursery, tmp_path: Path) -> None:
    """It fails with the list of what is missing; with `merge.allow_partial` the coverage is stated."""
    run = new_run()
    assert nursery.start(SYNTHESIZE, run.path, 1, "--round", 1, log=tmp_path / "log").wait() == 0
    done = gra("merge", run.path)
    assert done.returncode != 0
    assert "round 1: 1 of 2 shards are not published: 0" in done.stderr
    assert f"gra resume {run.path}" in done.stderr
    assert not run.release.exists()
    done = gra("release", "verify", run.path)
    assert done.stderr.strip() == f"gra: {run.path}: no release yet -> gra status {run.path}"
    done = gra("merge", run.path, "merge.allow_partial=true")
    assert done.returncode == 0, done.stderr
    coverage = read_json(run.round(1).manifest)["coverage"]
    assert (coverage["complete"], coverage["published"], coverage["expected"]) == (False, 1, 2)
    card = (run.release / "README.md").read_text().lower()
    assert "partial" in card or "1 of 2" in card
    then = f"gra resume {run.path} merge.allow_partial=false"
    done = gra("status", run.path)
    assert "round 1: merged in part: 1 of 2 shards" in done.stdout and f"next: {then}" in done.stdout
    done = gra("resume", run.path)
    assert "without 1 shard" in done.stdout and f"next: {then}" in done.stdout
    done = gra("resume", run.path, "merge.allow_partial=false")
    assert done.returncode == 0, done.stderr
    assert release_of(run) == release_of(reference)
