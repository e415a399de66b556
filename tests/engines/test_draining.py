"""A node that drains: what is in flight is answered, what waits is not asked, nothing is started or swapped."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from gra_hpc.engines.node import Node
from gra_hpc.flows.calls import Answer, Draining
from gra_hpc.placement.placement import EnginePlace, Placement
from tests.engines.node_host import Host, engine_pid, request, run
from tests.waiting import until_it_is


def kinds(results: list[Answer | BaseException]) -> list[type]:
    return [type(r) for r in results]


async def until_in_flight(node: Node, count: int) -> None:
    await until_it_is(lambda: sum(p.in_flight for p in node._dispatchers.values()) == count)


def test_waiting_calls_are_not_asked(host: Host) -> None:
    gate = host.gate()

    async def work() -> None:
        async with host.node(gate.holds, max_running=4) as node:
            asked = [asyncio.create_task(node.ask(request(f"q{i}"))) for i in range(16)]
            await until_in_flight(node, 4)
            node.drain()
            gate.let_through(*(f"q{i}" for i in range(16)))
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert kinds(results) == [Answer] * 4 + [Draining] * 12
            with pytest.raises(Draining):
                await node.ask(request("later"))
            assert node.stats()["engines"]["m-0"]["calls"] == 4

    run(work())
    host.assert_clean()


def test_no_group_is_woken_any_more(host: Host) -> None:
    placement = Placement(tuple(EnginePlace(m, 0, (), turn=t) for t, m in enumerate("ab")), "cpu")
    gate = host.gate()

    async def work() -> None:
        async with host.node(gate.holds, placement=placement, max_running=4) as node:
            await node.start()
            asked = [asyncio.create_task(node.ask(request(f"q{i}", m))) for m in "ab" for i in range(4)]
            await until_in_flight(node, 4)
            node.drain()
            gate.let_through(*(f"q{i}" for i in range(4)))
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert kinds(results) == [Answer] * 4 + [Draining] * 4
            await asyncio.sleep(0.3)
            assert [r.stats.starts for r in node._replicas] == [1, 0]

    run(work())
    host.assert_clean()


def test_suspects_are_not_asked_either(host: Host) -> None:
    gate = host.gate()

    async def work() -> None:
        async with host.node(gate.holds) as node:
            await node.start()
            (engine,) = node._replicas
            asked = [asyncio.create_task(node.ask(request(f"q{i}"))) for i in range(8)]
            for death in (1, 2):
                await until_it_is(lambda: engine.ready and len(engine.inflight) == 8)
                os.kill(engine_pid(node), signal.SIGKILL)
                await until_it_is(lambda death=death: engine.stats.restarts == death)
            await until_in_flight(node, 4)
            node.drain()
            gate.let_through(*(f"q{i}" for i in range(8)))
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert sorted(t.__name__ for t in kinds(results)) == ["Answer"] * 4 + ["Draining"] * 4

    run(work())


def test_drain_before_the_engines_are_there_starts_none(host: Host) -> None:
    async def work() -> None:
        async with host.node() as node:
            asked = asyncio.create_task(node.ask(request()))
            await asyncio.sleep(0)
            node.drain()
            with pytest.raises(Draining):
                await asked
            assert [r.stats.starts for r in node._replicas] == [0]

    run(work())
    host.assert_clean()
