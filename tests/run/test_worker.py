"""A worker: engines that start once, shards one after the other, and what becomes of those that cannot be made."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gra_hpc.engines.simulated import SimulatedEngine
from gra_hpc.errors import EngineError, GraError, IncompleteError
from gra_hpc.flows.calls import Answer, Request
from gra_hpc.launch.legs import legs_of
from gra_hpc.launch.log_files import Finder
from gra_hpc.launch.round_end import finish_round, merge_beside
from gra_hpc.launch.tasks import MergeTask
from gra_hpc.log_tail import tail
from gra_hpc.owner import Owner
from gra_hpc.run import attempts, worker
from gra_hpc.run.attempt_state import Shared, Turn
from gra_hpc.run.attempts import Heartbeat, attempt_names
from gra_hpc.run.choice import Chooser
from gra_hpc.run.directory import ShardDir
from gra_hpc.run.engines import did_since
from gra_hpc.run.publish import is_published
from gra_hpc.run.rounds import remaining
from gra_hpc.run.run import Run
from gra_hpc.run.shard import End
from gra_hpc.run.unneeded import Unneeded
from gra_hpc.signals import Signals
from gra_hpc.storage import read_json
from tools.faults.faults import check_shard, make_run, release_of, undisturbed

SHARDS, SEEDS = 3, 6
SETTINGS = [f"launch.shards={SHARDS}", "engine.simulated_failures=0"]


def answered(shard: ShardDir) -> bool:
    """Whether a journal holds answers; what has been published meanwhile has none."""
    try:
        return any(j.stat().st_size for j in shard.path.glob("attempts/*/*.log"))
    except FileNotFoundError:
        return True


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
    did = 0
    for shard, manifest in zip(shards(run), manifests, strict=True):
        check_shard(shard, reference.round(1).shard(shard.number))
        (engine,) = manifest["engines"]["engines"].values()
        assert engine["replica"] == 0
        did += engine["calls"]
    assert did == sum(m["calls"]["rows"] for m in manifests) > 0
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
    assert phases(run, bad).count("failed") == 3
    assert 3 <= len(starts) <= 5
    opened()
    assert worker.work(run, 1) == worker.Outcome(End.published, 1, 1, 1)
    for shard in shards(run):
        check_shard(shard, reference.round(1).shard(shard.number))


def test_a_node_whose_engines_answer_nothing_ends_its_worker(run: Run, opened: Callable[..., list[Any]]) -> None:
    starts = opened("")
    with pytest.raises(EngineError, match="the engines died"):
        worker.work(run, 1)
    assert len(starts) == 2
    assert all(set(phases(run, n)) <= {"failed", "drained"} for n in range(SHARDS))


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
    worker.work(run, 1)
    finish_round(run, 1)
    assert release_of(run) == release_of(reference)


@pytest.fixture
def two(tmp_path: Path) -> Run:
    """A run of two rounds."""
    return make_run(tmp_path / "two", SEEDS, [*SETTINGS, "method.rounds=2", "launch.linger_s=0.3"])


async def nobody(*_: Any) -> None:
    raise AssertionError("another worker merges, or nobody does")


def merging(run: Run, phase: str, **more: Any) -> Any:
    """Leaves what a worker leaves that merges the first round, or did."""
    shard = run.round(1).merging
    here = attempts.begin(shard)
    Heartbeat(here.id, -1, 1, phase=phase, **more).write(here)
    return here


def test_a_worker_merges_small_rounds_and_goes_on_with_warm_engines(
    tmp_path: Path, two: Run, opened: Callable[..., list[Any]]
) -> None:
    """One round is merged in a process beside the engines; the last, and the release, are whoever ends the run's."""
    starts = opened()
    outcome = worker.work(two, 1, last=2, merge=merge_beside)
    (log,) = Finder(two).merge(1).job
    assert "round 1: " in tail(log, 1)[0] and "accepted samples kept" in tail(log, 1)[0], "it has a log of its own"
    assert outcome == worker.Outcome(End.published, 2 * SHARDS, 2, 1)
    assert outcome.rounds == "rounds 1 to 2", "whose shards it counts"
    assert len(starts) == 1
    assert two.round(1).manifest.is_file() and not two.round(2).manifest.exists()
    apart = make_run(tmp_path / "apart", SEEDS, [*SETTINGS, "method.rounds=2"])
    undisturbed(apart)
    finish_round(two, 2)
    assert release_of(two) == release_of(apart)
    assert not two.round(1).merging.path.exists()


def test_rounds_that_are_large_or_long_are_left_to_a_job_of_their_own(two: Run) -> None:
    def legs(*words: str) -> list[tuple[int, int, int]]:
        run = Run.open(two.path, words)
        return [(leg.first, leg.last, leg.workers) for leg in legs_of(run, remaining(run))]

    assert legs() == [(1, 2, 1)], "here one worker does all"
    slurm = ("site.executor=slurm", "site.gpus_per_node=1", "site.gpu_memory_gb=80")
    assert legs(*slurm) == [(1, 2, SHARDS)]
    for words in (["launch.inline_merge_rows=0"], ["launch.inline_merge_rows=5"], ["merge.allow_partial=true"]):
        assert legs(*slurm, *words) == [(1, 1, SHARDS), (2, 2, SHARDS)]
    assert worker.work(two, 1, merge=nobody).round == 1
    assert legs(*slurm) == [(1, 1, 0), (2, 2, SHARDS)], "what is only to be merged waits for no worker"
    run = Run.open(two.path, slurm)
    (leg,) = legs_of(run, remaining(run), through=2)
    assert (leg.first, leg.last, leg.shards) == (1, 2, tuple(range(SHARDS))), "but for those who run, and will merge it"
    assert len(legs_of(run, remaining(run), through=1)) == 2


def test_a_merge_that_fails_is_left_to_a_job_of_its_own(two: Run) -> None:
    tries = []
    two.submissions.mkdir(exist_ok=True)
    (two.submissions / "s00001-1-beef.json").write_text("{}")

    async def fails(*_: Any) -> None:
        tries.append(1)
        raise GraError("no room")

    for published in (SHARDS, 0):
        assert worker.work(two, 1, last=2, merge=fails) == worker.Outcome(End.published, published, 1, 1)
    assert len(tries) == 1, "one that has failed is not tried by one worker after the other"
    (two.submissions / "s00001-1-beef.json").unlink()
    assert "round 1" in MergeTask(str(two.path), 1)()


def test_another_worker_s_merge_is_waited_for_but_not_for_ever(two: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "LOOK_S", 0.01)
    worker.work(two, 1)  # another worker, which has published all
    merging(two, "merging", owner=replace(Owner.me(), host="elsewhere").to_dict())
    assert worker.work(two, 1, last=2, merge=nobody) == worker.Outcome(End.published, 0, 1, 1)


def test_the_merge_of_a_worker_that_was_killed_is_made_by_one_that_waits(two: Run) -> None:
    worker.work(two, 1)
    gone = subprocess.Popen(["true"])
    gone.wait()
    me = Owner.me()
    merging(two, "merging", owner=replace(me, pid=gone.pid).to_dict())
    assert worker.work(two, 1, last=2, merge=merge_beside) == worker.Outcome(End.published, SHARDS, 2, 1)


def test_a_merge_that_made_nothing_is_not_tried_for_ever(two: Run) -> None:
    tried: list[int] = []

    async def idle(run: Run, number: int) -> None:
        tried.append(number)

    assert worker.work(two, 1, last=2, merge=idle) == worker.Outcome(End.published, SHARDS, 1, 1)
    assert tried == [1]


def test_a_worker_that_waits_takes_a_shard_whose_worker_has_ended(two: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another worker was at it when all others were done, and was cancelled a moment later."""
    shard = two.round(1).shard(1)
    here = attempts.begin(shard)
    elsewhere = replace(Owner.me(), host="elsewhere").to_dict()
    Heartbeat(here.id, 1, 1, phase="running", owner=elsewhere).write(here)
    left = worker._left

    def ended(run: Run, unneeded: Unneeded) -> Any:
        Heartbeat(here.id, 1, 1, phase="stopped", owner=elsewhere).write(here)
        return left(run, unneeded)

    monkeypatch.setattr(worker, "_left", ended)
    assert worker.work(two, 1, last=2, merge=merge_beside) == worker.Outcome(End.published, 2 * SHARDS, 2, 1)


def test_a_worker_that_is_told_to_drain_while_it_merges_comes_again(two: Run) -> None:
    worker.work(two, 1)

    async def drained(*_: Any) -> None:
        signal.raise_signal(signal.SIGUSR2)
        await asyncio.sleep(60)

    assert worker.work(two, 1, last=2, merge=drained).end is End.drained
    assert worker.work(two, 1, last=2, merge=merge_beside) == worker.Outcome(End.published, SHARDS, 2, 1)


def test_what_workers_have_not_merged_the_job_behind_them_merges(two: Run) -> None:
    worker.work(two, 1)
    with pytest.raises(IncompleteError, match="round 2: 3 of 3 shards are not published"):
        MergeTask(str(two.path), 2)()
    assert two.round(1).manifest.is_file()


def test_the_next_shard_begins_while_the_last_sample_of_this_one_is_under_way(
    run: Run, reference: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call is not answered before another shard has answers: one shard's tail is the next one's head."""

    class Slow(SimulatedEngine):
        first = True

        async def ask(self, request: Request) -> Answer:
            if self.first:
                self.first = False
                async with asyncio.timeout(60):
                    while len([s for s in shards(run) if answered(s)]) < 2:
                        await asyncio.sleep(0.01)
            return await super().ask(request)

    @contextlib.asynccontextmanager
    async def engines(*_: Any) -> AsyncIterator[SimulatedEngine]:
        yield Slow()

    monkeypatch.setattr(worker, "open_engine", engines)
    assert worker.work(run, 1) == worker.Outcome(End.published, SHARDS, 1, 1)
    lasted = 0.0
    for shard in shards(run):
        check_shard(shard, reference.round(1).shard(shard.number))
        timings = read_json(shard.manifest)["timings"]
        lasted += timings["seconds"]
    spans = [read_json(s.manifest)["timings"] for s in shards(run)]
    assert lasted < 1.1 * (max(t["ended"] for t in spans) - min(t["started"] for t in spans)) + 1


def test_open_attempts_share_their_worker_s_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(attempts.time, "monotonic", lambda: now[0])
    time = attempts.SharedTime()
    time.of("a")
    now[0] = 10
    assert (time.of("a"), time.of("b")) == (10, 0)
    now[0] = 14
    assert (time.of("a"), time.of("b")) == (12, 2)
    time.close("a")
    now[0] = 15
    assert time.of("b") == 3


def test_what_engines_did_in_a_worker_s_time_is_divided_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(attempts.time, "monotonic", lambda: now[0])
    time = attempts.SharedTime()
    time.of("a")
    time.doing("start")
    now[0] = 10
    time.doing("")
    now[0] = 15
    time.of("b")
    time.doing("tail")
    now[0] = 19
    assert (time.waited("a"), time.of("a")) == ({"start": 10, "tail": 2}, 17)
    assert (time.waited("b"), time.of("b")) == ({"tail": 2}, 2)
    time.close("a")
    time.close("b")
    time.doing("idle")
    now[0] = 22
    time.doing("")
    now[0] = 30
    assert time.waited("c") == {"idle": 3, "before": 11}, "while no attempt was open: told by the next one"
    assert time.of("c") == 0
    assert time.waited("d") == {}


def test_what_engines_did_between_two_looks() -> None:
    before = {"engines": {"a-0": {"replica": 3, "calls": 5, "seconds": 0.1, "restarts": ["x"]}}, "given_up": 1}
    now = {
        "engines": {"a-0": {"replica": 3, "calls": 9, "seconds": 0.3, "restarts": ["x", "y"]}, "b-0": {"calls": 2}},
        "given_up": 1,
    }
    assert did_since(before, now) == {
        "engines": {"a-0": {"replica": 3, "calls": 4, "seconds": 0.2, "restarts": ["y"]}, "b-0": {"calls": 2}},
        "given_up": 0,
    }
    assert did_since({}, now) == now
    turns = [{"turn": 1, "seconds": 1.0}, {"turn": 2, "seconds": 2.0}]
    assert did_since(turns[:1], [{"turn": 1, "seconds": 4.0}]) == [{"turn": 1, "seconds": 3.0}]
    assert did_since(turns[:1], turns) == turns, "other groups than before"


def test_engines_are_told_by_the_calls_and_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start until the first answer; idle without a call; tail where a place is free; else they work."""

    async def told() -> list[str]:
        shared, seen = Shared(asyncio.Semaphore(1)), []
        monkeypatch.setattr(shared.time, "doing", seen.append)
        shared.engines = "start"
        with pytest.raises(EngineError), shared.asking():
            raise EngineError("died", "nothing")
        with shared.asking():
            pass
        with shared.asking():
            async with shared.window:
                shared.look()
        shared.engines = ""
        shared.look()
        return seen

    assert asyncio.run(told()) == ["start", "start", "start", "idle", "tail", "", "idle", ""]


def test_a_shard_that_was_only_told_to_drain_proves_nothing(run: Run) -> None:
    """Engines that never answer end their worker at the second failure, also while a shard is open beside."""

    class Dead(worker._Worker):
        async def _attempt(self, number: int, here: Any, turn: Any) -> End:
            if number % 2:
                await asyncio.sleep(0)
                return End.drained
            raise EngineError("the engines died", "")

        async def _close_engines(self) -> None:
            pass

    async def both() -> None:
        with Signals().caught() as signals:
            dead = Dead(run, 1, 0, signals)
            for number in (0, 1, 2):
                await dead._take(number, attempts.begin(run.round(1).shard(0)), Turn(None))

    with pytest.raises(EngineError, match="the engines died"):
        asyncio.run(both())


def test_a_shard_that_is_published_while_an_attempt_begins_is_left(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(shard: Any, beat: Heartbeat) -> Any:
        shard.manifest.parent.mkdir(parents=True, exist_ok=True)
        shard.manifest.write_text("{}")
        raise FileNotFoundError(shard.attempts)  # who published it clears the attempts away

    monkeypatch.setattr(attempts, "begin", begin)
    chooser = Chooser(run.round(1), 1, 0, 1.0, run.submissions)
    with Signals().caught() as signals:
        assert worker._Worker(run, 1, 0, signals)._begun(chooser, run.round(1).shard(0)) is None
