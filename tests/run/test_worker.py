"""A worker: engines that start once, shards one after the other, and what becomes of those that cannot be made."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gra_hpc.engines.simulated import SimulatedEngine
from gra_hpc.errors import EngineError, GraError
from gra_hpc.flows.calls import Answer, Request
from gra_hpc.run import worker
from gra_hpc.run.attempts import Heartbeat, attempt_names
from gra_hpc.run.publish import is_published
from gra_hpc.run.run import Run
from gra_hpc.run.shard import End
from gra_hpc.storage import read_json
from tools.faults.faults import check_shard, make_run, release_of, undisturbed

SHARDS, SEEDS = 3, 6
SETTINGS = [f"launch.shards={SHARDS}", "engine.simulated_failures=0"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Run:
    return undisturbed(make_run(tmp_path_factory.mktemp("worker") / "reference", SEEDS, SETTINGS))


@pytest.fixture
def run(tmp_path: Path, reference: Run) -> Run:
    return make_run(tmp_path / "run", SEEDS, SETTINGS)


class Poisoned(SimulatedEngine):
    """Simulated engines that die of every question with one of these words in it."""

    def __init__(self, words: tuple[str, ...]) -> None:
        super().__init__()
        self.words = words

    async def ask(self, request: Request) -> Answer:
        if any(w in m["content"] for w in self.words for m in request.messages):
            raise EngineError("the engines died")
        return await super().ask(request)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Has workers open simulated engines that die of some words; what is given back grows with every start."""

    def poisoned(*words: str) -> list[Any]:
        starts: list[Any] = []

        @contextlib.asynccontextmanager
        async def engines(*args: Any) -> AsyncIterator[Poisoned]:
            starts.append(args)
            yield Poisoned(words)

        monkeypatch.setattr(worker, "open_engine", engines)
        return starts

    return poisoned


def shards(run: Run) -> list[Any]:
    return [run.round(1).shard(n) for n in range(SHARDS)]


def phases(run: Run, shard: int) -> list[str]:
    here = shards(run)[shard]
    beats = [Heartbeat.read(here.attempt(name)) for name in attempt_names(here)]
    return [b.phase for b in beats if b]


def test_engines_start_once_and_every_shard_has_its_part_of_what_they_did(
    run: Run, reference: Run, opened: Callable[..., list[Any]]
) -> None:
    starts = opened()
    assert str(worker.work(run, 1, place=1)) == "3 shards published"
    assert len(starts) == 1
    manifests = [read_json(s.manifest) for s in shards(run)]
    for shard, manifest in zip(shards(run), manifests, strict=True):
        check_shard(shard, reference.round(1).shard(shard.number))
        (engine,) = manifest["engines"]["engines"].values()
        assert engine["calls"] == manifest["calls"]["rows"] > 0
        assert engine["replica"] == 0
    assert len({a["worker"] for m in manifests for a in m["attempts"]}) == 1
    assert manifests[1]["attempts"][0]["worker"] == manifests[1]["attempt"], "it began at its place"
    assert str(worker.work(run, 1)) == "0 shards published"
    assert len(starts) == 1, "engines were started for nothing"


def test_a_shard_that_kills_its_engines_is_tried_three_times_and_the_others_are_made(
    run: Run, reference: Run, opened: Callable[..., list[Any]]
) -> None:
    starts = opened("number 1")
    with pytest.raises(EngineError, match="the engines died"):
        worker.work(run, 1)
    made = [is_published(s) for s in shards(run)]
    bad = made.index(False)
    assert made.count(False) == 1
    assert phases(run, bad) == ["failed"] * 3
    assert len(starts) in (3, 4)
    opened()
    assert worker.work(run, 1) == worker.Outcome(End.published, 1)
    for shard in shards(run):
        check_shard(shard, reference.round(1).shard(shard.number))


def test_a_node_whose_engines_answer_nothing_ends_its_worker(run: Run, opened: Callable[..., list[Any]]) -> None:
    starts = opened("")
    with pytest.raises(EngineError, match="the engines died"):
        worker.work(run, 1)
    assert len(starts) == 2
    assert [phases(run, n) for n in range(SHARDS)] == [["failed"], ["failed"], []]


def test_an_error_that_is_not_the_engines_fails_its_shard_alone(
    run: Run, opened: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened()
    drawn = worker.attempt.__globals__["_drawn"]

    def unreadable(run: Run, round_: int, number: int) -> Any:
        if number == 0:
            raise GraError("a pool that cannot be read", "mend it")
        return drawn(run, round_, number)

    monkeypatch.setitem(worker.attempt.__globals__, "_drawn", unreadable)
    with pytest.raises(GraError, match="cannot be read"):
        worker.work(run, 1)
    assert [is_published(s) for s in shards(run)] == [False, True, True]
    assert phases(run, 0) == ["failed"]


def test_one_worker_makes_the_release_that_single_shards_make(run: Run, reference: Run) -> None:
    from gra_hpc.launch.round_end import finish_round

    worker.work(run, 1)
    finish_round(run, 1)
    assert release_of(run) == release_of(reference)
