"""Which shard a worker takes next: files alone say."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from gra_hpc.owner import Owner
from gra_hpc.run import attempts
from gra_hpc.run.attempts import Heartbeat
from gra_hpc.run.choice import Choice, Chooser
from gra_hpc.run.directory import AttemptDir, RunDir

ELSEWHERE = Owner("another-node", "another-boot", "pid:[1]", 7, 7).to_dict()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.setenv("GRA_CACHE", str(tmp_path / "cache"))
    return RunDir(tmp_path / "run")


def chooser(run: RunDir, shards: int = 4, place: int = 0) -> Chooser:
    return Chooser(run.round(1), shards, place, 1.0, run.submissions)


def at(run: RunDir, shard: int, silent_s: float = 0.0, **said: Any) -> AttemptDir:
    """An attempt of another node, whose heartbeat was written so long ago."""
    here = attempts.begin(run.round(1).shard(shard))
    Heartbeat(here.id, shard, 1, **{"phase": "running", "owner": ELSEWHERE, **said}).write(here)
    then = time.time() - silent_s
    os.utime(here.heartbeat, (then, then))
    return here


def publish(run: RunDir, shard: int) -> None:
    manifest = run.round(1).shard(shard).manifest
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text("{}")


def test_it_begins_at_its_place_and_goes_round(run: RunDir) -> None:
    mine = chooser(run, place=2)
    seen = []
    while choice := mine.next():
        seen.append(choice.shard)
        publish(run, choice.shard)
    assert seen == [2, 3, 0, 1]
    assert chooser(run, place=6).place == 2


def test_what_is_not_needed_is_left_out_as_long_as_it_is_not(run: RunDir) -> None:
    unneeded = {1, 2, 3}
    choosing = Chooser(run.round(1), 4, 2, 1.0, run.submissions, lambda _: unneeded)
    assert choosing.next() == Choice(0)
    assert choosing.next({0}) is None
    unneeded.clear()
    assert choosing.next({0}) == Choice(2)


def test_what_is_not_needed_is_asked_anew_before_nothing_is_left(run: RunDir) -> None:
    asked = []

    def unneeded(anew: bool) -> set[int]:
        asked.append(anew)
        return {1, 3} if anew else {1, 2, 3}

    choosing = Chooser(run.round(1), 4, 2, 1.0, run.submissions, unneeded)
    assert choosing.next() == Choice(0) and asked == [False]
    assert choosing.next({0}) == Choice(2) and asked == [False, False, True]
    assert choosing.next({0, 2}) is None


def test_what_is_held_or_published_is_left_out(run: RunDir) -> None:
    publish(run, 0)
    assert chooser(run).next({1}) == Choice(2)
    assert chooser(run).next({1, 2, 3}) is None


@pytest.mark.parametrize(
    ("said", "silent_s", "busy"),
    [
        ({}, 0, True),
        ({}, 25, True),
        ({}, 35, False),
        ({}, -7200, True),  # a clock that is ahead
        ({"phase": "drained"}, 0, False),
        ({"phase": "stopped"}, 0, False),
        ({"phase": "publishing"}, 0, True),
        ({"owner": Owner.me().to_dict() | {"start": 1}}, 0, False),  # a process of this machine that has gone
        ({"owner": {}}, 0, True),
    ],
)
def test_an_attempt_is_at_work_while_its_heartbeat_is_fresh(
    run: RunDir, said: dict[str, Any], silent_s: float, busy: bool
) -> None:
    at(run, 0, silent_s, **said)
    assert chooser(run, shards=1).next() == (None if busy else Choice(0))


def test_a_requeued_job_takes_up_what_it_was_at(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    at(run, 0, job="42", restart=0)
    at(run, 1, job="41", restart=0)
    assert chooser(run, shards=2, place=1).next() is None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert chooser(run, shards=2, place=1).next() == Choice(0)


def test_an_attempt_that_has_said_nothing_yet(run: RunDir) -> None:
    here = attempts.begin(run.round(1).shard(0))
    assert chooser(run, shards=1).next() is None
    os.utime(here.path, (0, 0))
    assert chooser(run, shards=1).next() == Choice(0)


def test_what_failed_goes_behind_then_last_and_alone_then_not_at_all(run: RunDir) -> None:
    mine = chooser(run, shards=2)
    seen = []
    for _ in range(3):
        at(run, 0, phase="failed")
        seen.append(mine.next())
    assert seen == [Choice(1)] * 3
    publish(run, 1)
    seen = [mine.next()]
    for name in attempts.attempt_names(run.round(1).shard(0))[:2]:
        old = run.round(1).shard(0).attempt(name).heartbeat
        os.utime(old, (0, 0))  # before this worker began, and the run was submitted
        seen.append(mine.next())
    assert seen == [None, Choice(0, suspect=True), Choice(0)]


def test_a_submission_gives_what_failed_another_chance(run: RunDir) -> None:
    for _ in range(3):
        at(run, 0, silent_s=50, phase="failed")
    run.submissions.mkdir()
    submitted = run.submissions / "s00001-1-aa.json"
    submitted.write_text("{}")
    os.utime(submitted, (time.time() - 100, time.time() - 100))
    assert chooser(run, shards=1).next() is None
    os.utime(submitted, (time.time() - 10, time.time() - 10))
    assert chooser(run, shards=1).next() == Choice(0)


def test_of_two_that_begin_in_one_moment_the_later_one_goes(run: RunDir) -> None:
    first, second = at(run, 0), at(run, 0)
    shard = run.round(1).shard(0)
    assert chooser(run).first(first, shard)
    assert not chooser(run).first(second, shard)
    Heartbeat(first.id, 0, 1, phase="drained", owner=ELSEWHERE).write(first)
    assert chooser(run).first(second, shard)


def test_an_attempt_that_was_cleared_away_is_not_the_first(run: RunDir) -> None:
    """Another worker published the shard in this moment, and removed what had begun at it."""
    here, shard = at(run, 0), run.round(1).shard(0)
    shutil.rmtree(shard.attempts)
    assert not chooser(run).first(here, shard)
