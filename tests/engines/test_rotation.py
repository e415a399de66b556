"""Turns: who is woken, that nobody starves, and rotations of real processes: the same answers as without."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra_hpc.config.settings import EngineConfig, ModelConfig
from gra_hpc.engines.node import Node
from gra_hpc.engines.rotation import Load, choose
from gra_hpc.engines.rotation_costs import LostTime, sentence
from gra_hpc.engines.simulated import SimulatedEngine
from gra_hpc.engines.vllm_server import EngineSpec, Launch
from gra_hpc.errors import EngineError
from gra_hpc.flows.calls import Request, Sampling
from gra_hpc.placement.placement import EnginePlace, Placement
from tests.waiting import until_it_is
from tools.simulated.server import Faults, launcher

PATIENCE = 60.0


@pytest.mark.parametrize(
    ("loads", "awake", "gate", "expected", "why"),
    [
        ({0: Load(), 1: Load()}, None, True, None, "nobody has work"),
        ({0: Load(2), 1: Load(5)}, None, True, 1, "the most waiting work"),
        ({0: Load(5, 0, 1.0), 1: Load(5, 0, 2.0)}, None, True, 1, "as much work, waiting longer"),
        ({0: Load(3, 4), 1: Load(90)}, 0, True, 0, "it still has work"),
        ({0: Load(0, 4), 1: Load(90)}, 0, True, 0, "it still computes"),
        ({0: Load(), 1: Load(1), 2: Load(2)}, 0, True, 2, "it is done"),
        ({0: Load(9, 4), 1: Load(1, 0, 61.0), 2: Load(50)}, 0, True, 1, "a call has waited too long"),
        ({0: Load(9, 4), 1: Load(1, 0, 61.0)}, 0, False, 0, "first those that waited when it was woken"),
        ({0: Load(0, 4), 1: Load(1, 0, 61.0)}, 0, False, 1, "it has no more of those"),
        ({0: Load(), 1: Load()}, 0, True, 0, "stay awake"),
    ],
)
def test_choice(loads: dict[int, Load], awake: int | None, gate: bool, expected: int | None, why: str) -> None:
    assert choose(loads, awake, gate, PATIENCE) == expected, why


LOADS = st.dictionaries(
    st.integers(0, 4), st.builds(Load, st.integers(0, 9), st.integers(0, 9), st.floats(0, 200)), min_size=1
)


@given(LOADS, st.none() | st.integers(0, 4), st.booleans())
def test_choice_is_never_idle_and_never_for_nothing(loads: dict[int, Load], awake: int | None, gate: bool) -> None:
    chosen = choose(loads, awake, gate, PATIENCE)
    if chosen is not None and chosen != awake:
        assert loads[chosen].waiting
    mine = loads.get(awake, Load()) if awake is not None else Load()
    if not mine.waiting and not mine.running and any(x.waiting for t, x in loads.items() if t != awake):
        assert chosen not in (None, awake)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5)), min_size=1, max_size=60), st.integers(1, 20))
def test_nobody_starves(arrivals: list[tuple[int, int]], patience: int) -> None:
    """A model of the rotation, one call per tick and three ticks per swap: every call is served within a bound."""
    waiting: dict[int, list[int]] = {0: [], 1: [], 2: []}
    awake: int | None = None
    now, worst, gate = 0, 0, 0
    pending = list(arrivals)
    total = sum(n for _, n in arrivals)
    while pending or any(waiting.values()):
        if pending and now % 2 == 0:
            turn, count = pending.pop(0)
            waiting[turn] += [now] * count
        loads = {t: Load(len(w), 0, now - min(w, default=now)) for t, w in waiting.items()}
        target = choose(loads, awake, gate <= 0, patience)
        if target is not None and target != awake:
            awake, gate = target, len(waiting[target])
            now += 3
            continue
        if awake is not None and waiting[awake]:
            worst = max(worst, now - waiting[awake].pop(0))
            gate -= 1
        now += 1
    assert worst <= patience + 3 * total + 3 * 3 * (total + 1)


def groups(
    base: Path,
    *turns: str,
    by_model: dict[str, Faults] | None = None,
    command: Callable[[EngineSpec], Launch] | None = None,
    patience: float = 60.0,
    **config: int,
) -> Node:
    """A node whose first group are the models (one letter each) of the first word, and so on."""
    engines = tuple(EnginePlace(m, 0, (), turn=t) for t, models in enumerate(turns) for m in models)
    models = {e.model: ModelConfig(path=e.model) for e in engines}
    settings = EngineConfig(start_timeout_s=60, **config)  # type: ignore[arg-type]
    launch = command or launcher(by_model=by_model)
    return Node(models, Placement(engines, "cpu"), settings, base, base / "logs", launch, patience)


def node(base: Path, kind: str = "cpu", faults: Faults = Faults(), patience: float = 60.0, **config: int) -> Node:
    turns = {"a": 0, "b": 1, "c": 2}
    placement = Placement(tuple(EnginePlace(m, 0, (), turn=t) for m, t in turns.items()), kind)
    models = {m: ModelConfig(path=m) for m in turns}
    settings = EngineConfig(start_timeout_s=60, **config)  # type: ignore[arg-type]
    return Node(models, placement, settings, base, base / "logs", launcher(faults), patience)


def request(model: str, text: str) -> Request:
    return Request(model, "", ({"role": "user", "content": text},), Sampling(0.2, 0.9, 64, 0))


async def chain(engine: Node | SimulatedEngine, sample: int) -> list[str]:
    """A sample's way through three models: each question holds the answer before."""
    texts = [f"sample {sample}"]
    for model in ("a", "a", "b", "c", "b"):
        texts.append((await engine.ask(request(model, texts[-1]))).text)
    return texts


def awake_at_once(events: str) -> int:
    """Most engines awake at the same time, from the servers' own notes."""
    awake: set[str] = set()
    most = 0
    for line in events.splitlines():
        event, model = line.split()
        (awake.discard if event == "sleep" else awake.add)(model)
        most = max(most, len(awake))
    return most


def test_rotation_by_stop_and_start_gives_the_same_answers(short_dir: Path) -> None:
    async def work() -> None:
        async with node(short_dir) as turning:
            found = await asyncio.gather(*(chain(turning, i) for i in range(12)))
            stats = turning.stats()
        expected = await asyncio.gather(*(chain(SimulatedEngine(), i) for i in range(12)))
        assert found == expected
        assert 3 <= stats["rotation"]["swaps"] <= 6
        assert stats["rotation"]["swap_seconds"] > 0
        assert sum(e["calls"] for e in stats["engines"].values()) == 60
        assert sum(e["restarts"] for e in stats["engines"].values()) == 0
        starts = {name: e["starts"] for name, e in stats["engines"].items()}
        assert sum(starts.values()) == stats["rotation"]["swaps"] + 1

    asyncio.run(work())


def test_only_one_group_runs_at_a_time(short_dir: Path) -> None:
    async def work() -> None:
        async with node(short_dir) as turning:
            await turning.start()
            assert [r.ready for r in turning._replicas] == [True, False, False]
            most = 0

            async def watch() -> None:
                nonlocal most
                while True:
                    most = max(most, sum(not r.down.is_set() for r in turning._replicas))
                    await asyncio.sleep(0.005)

            watching = asyncio.create_task(watch())
            await asyncio.gather(*(chain(turning, i) for i in range(3)))
            watching.cancel()
            assert most == 1

    asyncio.run(work())


def test_sleep_mode_as_vllm_documents_it(short_dir: Path) -> None:
    """Not run on a GPU: the calls are held against a server that implements the documented endpoints."""
    events = short_dir / "events"

    async def work() -> None:
        async with node(short_dir, "gpu", Faults(events=str(events))) as turning:
            found = await asyncio.gather(*(chain(turning, i) for i in range(8)))
            stats = turning.stats()
        assert found == await asyncio.gather(*(chain(SimulatedEngine(), i) for i in range(8)))
        assert {e["starts"] for e in stats["engines"].values()} == {1}
        assert stats["rotation"]["swaps"] >= 3
        notes = events.read_text()
        assert notes.count("sleep") == stats["rotation"]["swaps"]
        assert notes.count("wake") == stats["rotation"]["swaps"] - 2  # two of the swaps were first starts
        assert awake_at_once(notes) == 1

    asyncio.run(work())


def test_impatient_calls_force_a_swap(short_dir: Path) -> None:
    """Model a never runs out of work; b is served nevertheless."""

    async def work() -> None:
        faults = Faults(latency_s=0.02)
        async with node(short_dir, faults=faults, patience=0.5, max_running=2) as turning:
            await turning.start()
            stop = False

            async def busy(i: int) -> None:
                n = 0
                while not stop:
                    await turning.ask(request("a", f"{i} {n}"))
                    n += 1

            tasks = [asyncio.create_task(busy(i)) for i in range(6)]
            assert (await turning.ask(request("b", "at last"))).finish == "stop"
            assert turning.stats()["rotation"]["drain_seconds"] > 0
            stop = True
            await asyncio.gather(*tasks)

    asyncio.run(work())


def test_death_during_a_turn_does_not_end_the_rotation(short_dir: Path) -> None:
    async def work() -> None:
        async with node(short_dir, faults=Faults(die_after=7)) as turning:
            found = await asyncio.gather(*(chain(turning, i) for i in range(10)))
            assert found == await asyncio.gather(*(chain(SimulatedEngine(), i) for i in range(10)))
            assert sum(e["restarts"] for e in turning.stats()["engines"].values()) >= 1

    asyncio.run(work())


@pytest.mark.parametrize("error", [EngineError("no such file"), PermissionError(13, "Permission denied", "x")])
def test_refused_start_of_one_engine_does_not_stop_the_rotation(short_dir: Path, error: Exception) -> None:
    """The others of its group go on, and the next group has its turn."""
    engines = (EnginePlace("a", 0, ()), EnginePlace("a", 1, ()), EnginePlace("b", 0, (), turn=1))
    launch, seen = launcher(), 0

    def refuse(spec: EngineSpec) -> Launch:
        nonlocal seen
        seen += spec.place.name == "a-1"
        if spec.place.name == "a-1" and seen > 1:  # the first is the check before any start
            raise error
        return launch(spec)

    async def work() -> None:
        models = {m: ModelConfig(path=m) for m in "ab"}
        logs = short_dir / "logs"
        settings = EngineConfig(start_timeout_s=60)
        async with Node(models, Placement(engines, "cpu"), settings, short_dir, logs, refuse) as turning:
            for model in "aba":
                assert (await turning.ask(request(model, "hello"))).finish == "stop"

    asyncio.run(work())


@pytest.mark.parametrize("ticks", range(5))
def test_closing_in_the_middle_of_a_swap_ends(short_dir: Path, ticks: int) -> None:
    async def work() -> None:
        turning = node(short_dir)
        await turning.start()
        turning._replicas[0].want(False)
        for _ in range(ticks):
            await asyncio.sleep(0)
        await turning.close()


def test_swap_lasts_until_all_engines_are_ready_and_the_first_has_calls_meanwhile(short_dir: Path) -> None:
    async def work() -> None:
        go = short_dir / "go"
        by_model = {"c": Faults(start_when=str(go))}
        async with groups(short_dir, "a", "bc", by_model=by_model) as turning:
            await turning.ask(request("a", "hello"))
            late = asyncio.create_task(turning.ask(request("c", "hello")))
            assert (await turning.ask(request("b", "hello"))).finish == "stop"
            assert not late.done()
            loop = asyncio.get_running_loop()
            answered = loop.time()
            await asyncio.sleep(0.3)
            before = loop.time() - answered
            go.touch()
            assert (await late).finish == "stop"
            stats = turning.stats()["rotation"]
            assert stats["swaps"] == 1
            assert stats["swap_seconds"] > before
            first, second = stats["groups"]
            assert (first["models"], first["swaps"], second["models"], second["swaps"]) == (["a"], 0, ["b", "c"], 1)
            assert second["swap_seconds"] == stats["swap_seconds"]
            await asyncio.sleep(0.3)
            assert turning.stats()["rotation"]["swap_seconds"] == stats["swap_seconds"]

    asyncio.run(work())


def test_a_group_that_runs_dry_while_others_wait_loses_time(short_dir: Path) -> None:
    """Two calls are in flight, the first is answered before the second: half of the group has nothing to do."""
    gate = short_dir / "gate"
    gate.mkdir()

    async def work() -> None:
        loop = asyncio.get_running_loop()
        by_model = {"a": Faults(answer_when=str(gate))}
        async with groups(short_dir, "a", "b", by_model=by_model) as turning:
            await turning.start()
            first, second = (asyncio.create_task(turning.ask(request("a", text))) for text in "12")
            await until_it_is(lambda: len(turning._replicas[0].inflight) == 2)
            assert turning.stats()["rotation"]["dry_seconds"] == 0  # nobody else waits
            other = asyncio.create_task(turning.ask(request("b", "3")))
            (gate / "1").touch()
            await first
            began = loop.time()
            await asyncio.sleep(0.5)
            (gate / "2").touch()
            await second
            alone = loop.time() - began
            await other
            stats = turning.stats()["rotation"]
            assert stats["dry_seconds"] == pytest.approx(alone / 2, rel=0.3)
            assert stats["groups"][0]["dry_seconds"] == stats["dry_seconds"]
            parts = stats["swap_seconds"] + stats["drain_seconds"] + stats["dry_seconds"]
            assert stats["lost_seconds"] == pytest.approx(parts)

    asyncio.run(work())


def test_lost_time_is_one_line_for_a_log() -> None:
    async def work() -> None:
        lost = LostTime({0: ["a"], 1: ["b", "c"]})
        assert (
            sentence(lost.report()) == "engines took turns: 0 swaps, 0 s lost (0 swapping, 0 draining, 0 running dry); "
            "a: 0 swaps, 0 s; b, c: 0 swaps, 0 s"
        )
        assert sentence(LostTime({}).report()) == sentence({}) == ""

    asyncio.run(work())


def test_impatient_calls_wait_for_an_engine_that_is_still_starting(short_dir: Path) -> None:
    """Else it would be stopped each time before it has answered anything."""

    async def work() -> None:
        by_model = {"c": Faults(start_s=2.0)}
        async with groups(short_dir, "a", "bc", by_model=by_model, patience=0.5) as turning:
            await turning.ask(request("a", "hello"))
            slow = asyncio.create_task(turning.ask(request("c", "hello")))
            await turning.ask(request("b", "hello"))
            await turning.ask(request("a", "again"))
            assert slow.done()

    asyncio.run(work())


def test_nobody_starves_while_an_engine_of_the_awake_group_keeps_dying(short_dir: Path) -> None:
    """It was ready once, has restarts left, and its calls wait: they do not hold the others' turn up."""
    good, bad, starts = launcher(), launcher(Faults(refuse="no")), 0

    def command(spec: EngineSpec) -> Launch:
        nonlocal starts
        starts += spec.place.name == "a-0"  # the first is the check before any start
        return bad(spec) if spec.place.name == "a-0" and starts > 2 else good(spec)

    async def work() -> None:
        turning = groups(short_dir, "ax", "b", command=command, patience=0.5, max_restarts=10_000)
        async with turning:
            await turning.start()
            process = turning._replicas[0].process
            assert process is not None
            await process.kill("for the test")
            stuck = [asyncio.create_task(turning.ask(request("a", str(i)))) for i in range(3)]
            for model in ("b", "x", "b"):
                assert (await turning.ask(request(model, "hello"))).finish == "stop"
            assert not any(task.done() for task in stuck)
            for task in stuck:
                task.cancel()
            await asyncio.gather(*stuck, return_exceptions=True)

    asyncio.run(work())
