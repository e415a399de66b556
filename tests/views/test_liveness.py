"""Whether a shard runs: by its process, by Slurm, or by what was seen of its heartbeat; never by clocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gra_hpc.cli import app
from gra_hpc.errors import GraError, IncompleteError
from gra_hpc.owner import Owner
from gra_hpc.run.attempts import Heartbeat, begin
from gra_hpc.run.directory import RunDir
from gra_hpc.views.states import SILENT_S
from gra_hpc.views.status import collect
from tests.conftest import SteadyClock
from tools.faults.faults import make_run


def beat(run: RunDir, at: float, **owner: Any) -> None:
    """One heartbeat of shard 0's attempt, at a time of its own clock, of this process but for what is said."""
    shard = run.round(1).shard(0)
    names = sorted(p.name for p in shard.attempts.iterdir()) if shard.attempts.is_dir() else []
    attempt = shard.attempt(names[-1]) if names else begin(shard)
    Heartbeat(attempt.id, 0, 1, phase="running", owner=Owner.me().to_dict() | owner).write(attempt)
    said = json.loads(attempt.heartbeat.read_text())
    attempt.heartbeat.write_text(json.dumps(said | {"at": said["at"] + at}))


def state(run: RunDir) -> str:
    return collect(run).rounds[0].shards[0].state


@pytest.fixture
def run(tmp_path: Path, tiny_llama: Path) -> RunDir:
    return make_run(tmp_path / "run", 2, ["launch.shards=1"])


@pytest.mark.parametrize("at", [-960.0, 0.0, 960.0])
def test_of_this_machine_whatever_the_clock_says(run: RunDir, at: float) -> None:
    beat(run, at)
    assert state(run) == "running"
    beat(run, at, start=Owner.me().start + 1)
    assert state(run) == "stopped"


@pytest.mark.parametrize("at", [-960.0, 0.0, 960.0])
@pytest.mark.parametrize("where", [{"boot": "another"}, {"namespace": "another"}, {"host": "n-2"}, {"pid": "damaged"}])
def test_of_another_by_what_was_seen(run: RunDir, steady: SteadyClock, at: float, where: dict[str, Any]) -> None:
    for later in (0.0, -5.0):  # its clock is set back
        beat(run, at + later, **where)
        assert state(run) == "running"
        steady.now += SILENT_S - 1
    beat(run, at - 10, **where)
    assert state(run) == "running"
    steady.now += SILENT_S
    assert state(run) == "stopped"
    beat(run, at - 20, **where)  # it was only suspended
    assert state(run) == "running"


def test_what_needs_a_merge_waits_for_the_jobs_that_run(run: RunDir) -> None:
    def refused(*words: str) -> GraError:
        error = CliRunner().invoke(app, [words[0], str(run.path), *words[1:]]).exception
        assert isinstance(error, IncompleteError), error
        return error

    every = [("merge",), ("decide", "accept_mean=7", "--to", "again"), ("decide", "--sweep"), ("audit",)]
    before = [refused(*words) for words in every]
    assert not any("its jobs run" in e.what or "--watch" in e.then for e in before)
    beat(run, 0.0)
    for words, error in zip(every, before, strict=True):
        now = refused(*words)
        assert now.what == f"{error.what}; its jobs run: wait" and now.then.endswith("--watch")
    assert "its jobs run" not in refused("merge", "--round", "7").what
