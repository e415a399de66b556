"""Engines of a node that die, hang, or are killed by a call: what was asked is answered, or given up alone."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from gra_hpc.engines.vllm_server import EngineSpec, Launch
from gra_hpc.errors import EngineError
from gra_hpc.flows.calls import Answer
from tests.engines.node_host import Host, engine_pid, places, request, run
from tests.waiting import until_it_is
from tools.simulated.server import Faults, launcher


@pytest.mark.parametrize("victim", ["engine", "guard"])
def test_killed_engine_is_restarted_and_the_calls_are_answered(host: Host, victim: str) -> None:
    gate = host.gate()

    async def work() -> None:
        async with host.node(gate.holds) as node:
            await node.start()
            asked = [asyncio.create_task(node.ask(request(f"q{i}"))) for i in range(8)]
            await until_it_is(lambda: len(node._replicas[0].inflight) == 8)
            assert node._replicas[0].process is not None
            pid = engine_pid(node) if victim == "engine" else node._replicas[0].process.pid
            os.kill(pid, signal.SIGKILL)
            await until_it_is(lambda: node._replicas[0].stats.restarts)
            gate.let_through(*(f"q{i}" for i in range(8)))
            answers = await asyncio.gather(*asked)
            assert {a.finish for a in answers} == {"stop"}
            mine = node.stats()["engines"]["m-0"]
            assert (mine["calls"], mine["starts"], mine["restarts"]) == (8, 2, 1)

    run(work())
    host.assert_clean()


def test_engine_that_dies_after_every_few_calls_still_answers_all(host: Host) -> None:
    async def work() -> None:
        async with host.node(Faults(die_after=10), max_running=4) as node:
            answers = await asyncio.gather(*(node.ask(request(f"q{i}")) for i in range(35)))
            assert {a.finish for a in answers} == {"stop"}
            assert node.stats()["engines"]["m-0"]["restarts"] >= 3
            assert node.stats()["given_up"] == 0

    run(work())


def test_calls_that_saw_two_deaths_are_not_asked_one_at_a_time(host: Host) -> None:
    """Nobody is at fault: sixteen together, then eight, four, two, one, one."""
    gate = host.gate()

    async def work() -> None:
        async with host.node(gate.holds) as node:
            await node.start()
            (engine,) = node._replicas
            asked = [asyncio.create_task(node.ask(request(f"q{i}"))) for i in range(32)]
            for death in (1, 2):
                await until_it_is(lambda: engine.ready and len(engine.inflight) == 32)
                os.kill(engine_pid(node), signal.SIGKILL)
                await until_it_is(lambda death=death: engine.stats.restarts == death)
            await until_it_is(lambda: engine.ready and engine.inflight)
            assert len(engine.inflight) == 16
            gate.let_through(*(f"q{i}" for i in range(32)))
            answers = await asyncio.gather(*asked)
            assert {a.finish for a in answers} == {"stop"}
            assert node.stats()["engines"]["m-0"]["restarts"] == 2

    run(work())


def test_no_call_is_given_up_for_what_its_engine_did_before(host: Host) -> None:
    """Every engine dies on its second call: also where that one is the only one in flight."""

    async def work() -> None:
        async with host.node(Faults(die_after=1), max_restarts=20) as node:
            answers = await asyncio.gather(*(node.ask(request(f"q{i}")) for i in range(5)))
            assert {a.finish for a in answers} == {"stop"}

    run(work())


def test_poisonous_call_is_given_up_and_only_it(host: Host) -> None:
    async def work() -> None:
        async with host.node(Faults(die_on="poison", latency_s=0.05)) as node:
            texts = [f"q{i}" for i in range(30)]
            texts[7] = "a poison call"
            answers: list[Answer] = await asyncio.gather(*(node.ask(request(t)) for t in texts))
            bad = [t for t, a in zip(texts, answers, strict=True) if a.finish == "error"]
            assert bad == ["a poison call"]
            said = r"its engine died (\d+) times while answering it, the last time this call alone: killed by signal 9"
            found = re.match(said, answers[7].text)
            assert found and 3 <= int(found[1]) <= 8  # two in company, then 15, 8, 4, 2, 1 or fewer
            assert node.stats()["given_up"] == 1
            assert (await node.ask(request("after"))).finish == "stop"

    run(work())
    host.assert_clean()


def test_several_poisonous_calls_on_two_replicas(host: Host) -> None:
    async def work() -> None:
        faults = Faults(die_on="poison", latency_s=0.05)
        async with host.node(faults, placement=places("m", replicas=2)) as node:
            texts = [f"poison {i}" if i in (3, 11) else f"q{i}" for i in range(24)]
            answers = await asyncio.gather(*(node.ask(request(t)) for t in texts))
            assert [t for t, a in zip(texts, answers, strict=True) if a.finish == "error"] == ["poison 3", "poison 11"]

    run(work())


def test_two_poisonous_calls_are_both_given_up(host: Host) -> None:
    """Nothing is answered in between: that one of them was found is no death that leads nowhere."""

    async def work() -> None:
        async with host.node(Faults(die_on="poison", latency_s=30), max_restarts=3) as node:
            answers = await asyncio.gather(*(node.ask(request(f"poison {i}")) for i in range(2)))
            assert [a.finish for a in answers] == ["error", "error"]
            assert node.stats()["given_up"] == 2

    run(work())


def test_engine_that_does_not_start_again_has_died(host: Host, short_dir: Path) -> None:
    """It was ready, though it has answered nothing: no engine that does not start."""
    launch, starts = launcher(Faults(die_on="q")), 0

    def refusing(spec: EngineSpec) -> Launch:
        nonlocal starts
        starts += 1  # the first is the check before any start
        return launch(spec) if starts < 3 else launcher(Faults(refuse="no room"))(spec)

    async def work() -> None:
        node = host.node(max_restarts=2)
        node._command = refusing
        async with node:
            with pytest.raises(EngineError, match=r"engine m-0 died 3 times in a row: exit code 1; .* no room"):
                await node.ask(request("q"))

    run(work())


def test_lone_poisonous_call_is_given_up_after_two_deaths(host: Host) -> None:
    async def work() -> None:
        async with host.node(Faults(die_on="poison")) as node:
            assert (await node.ask(request("poison"))).finish == "error"
            assert (await node.ask(request("harmless"))).finish == "stop"
            assert node.stats()["engines"]["m-0"]["causes"] == ["killed by signal 9 (out of memory?)"] * 2

    run(work())


@pytest.mark.parametrize("fault", [{"hang_after": 3}, {"hang_on": "q5"}])
def test_hung_engine_counts_as_dead(host: Host, fault: dict[str, Any], short_dir: Path) -> None:
    async def work() -> None:
        faults = Faults(once=str(short_dir / "once"), **fault)
        async with host.node(faults, call_timeout_s=1) as node:
            answers = await asyncio.gather(*(node.ask(request(f"q{i}")) for i in range(8)))
            assert {a.finish for a in answers} == {"stop"}
            (cause,) = node.stats()["engines"]["m-0"]["causes"]
            assert "calls in flight, no token for 1 s" in cause

    run(work())
    host.assert_clean()


def test_stopped_engine_counts_as_hung(host: Host) -> None:
    async def work() -> None:
        async with host.node(call_timeout_s=1) as node:
            await node.start()
            os.kill(engine_pid(node), signal.SIGSTOP)
            assert (await node.ask(request())).finish == "stop"
            assert node.stats()["engines"]["m-0"]["restarts"] == 1

    run(work())
    host.assert_clean()


def test_slow_calls_of_a_working_engine_are_no_hang(host: Host) -> None:
    async def work() -> None:
        async with host.node(Faults(latency_s=0.4, slots=1), call_timeout_s=1) as node:
            answers = await asyncio.gather(*(node.ask(request(f"q{i}")) for i in range(6)))
            assert {a.finish for a in answers} == {"stop"}
            assert node.stats()["engines"]["m-0"]["restarts"] == 0

    run(work())


def test_front_end_without_engine_core_is_dead(host: Host, short_dir: Path) -> None:
    async def work() -> None:
        faults = Faults(core_dies_on="now", once=str(short_dir / "once"))
        async with host.node(faults) as node:
            assert (await node.ask(request("now"))).finish == "stop"
            (cause,) = node.stats()["engines"]["m-0"]["causes"]
            assert cause.startswith("its engine core died")

    run(work())


def test_internal_errors_of_a_living_engine(host: Host, short_dir: Path) -> None:
    """Asked again; a call that always meets one is answered as an error, and the engine is left alone."""

    async def work() -> None:
        once = Faults(error_on="unlucky", once=str(short_dir / "once"))
        by_model = {"a": once, "b": Faults(error_on="always")}
        async with host.node(placement=places("a", "b"), by_model=by_model) as node:
            assert (await node.ask(request("unlucky", model="a"))).finish == "stop"
            answer = await node.ask(request("always", model="b"))
            assert (answer.finish, answer.text) == ("error", "engine b-0: HTTP 500: a mishap")
            assert [e["restarts"] for e in node.stats()["engines"].values()] == [0, 0]

    run(work())


def test_engine_that_keeps_dying_fails_the_node(host: Host) -> None:
    async def work() -> None:
        async with host.node(Faults(die_on="q"), max_restarts=2) as node:
            assert (await node.ask(request("first"))).finish == "stop"
            asked = [asyncio.create_task(node.ask(request(f"q{i}"))) for i in range(5)]
            await asyncio.wait(asked, return_when=asyncio.ALL_COMPLETED)
            errors = [str(e) for t in asked if (e := t.exception())]
            assert len(errors) == 4  # one seemed to be at fault
            assert len(set(errors)) == 1
            assert re.match(
                r"engine m-0 died \d times in a row: killed by signal 9 \(out of memory\?\) -> see its log", errors[0]
            )

    run(work())
    host.assert_clean()
