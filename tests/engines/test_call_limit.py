"""How many calls an engine is given: what its cache should hold at first, then by its own queue."""

from __future__ import annotations

import asyncio

import pytest

from gra_hpc.engines.call_limit import Admission
from gra_hpc.engines.client import Metrics
from gra_hpc.placement.placement import EnginePlace, Placement
from tests.engines.node_host import Host, request, run
from tools.simulated.server import Faults


def test_admission_follows_the_engines_own_queue() -> None:
    admission = Admission(256)
    assert not admission.follow(Metrics(running=40, waiting=100, kv_use=0.5, tokens=0))
    assert admission.limit == 256  # a burst of prompts: no reason to hold calls back
    assert not admission.follow(Metrics(running=40, waiting=100, kv_use=0.99, tokens=0))
    assert admission.limit == 50  # no room in its KV cache: what it runs, and a little more
    admission.follow(Metrics(running=2, waiting=100, kv_use=0.99, tokens=0))
    assert admission.limit == 8
    for limit in (16, 32, 64, 128, 256):
        assert admission.follow(Metrics(running=8, waiting=0, kv_use=0.4, tokens=0))
        assert admission.limit == limit
    assert not admission.follow(Metrics(running=8, waiting=0, kv_use=0.4, tokens=0))


@pytest.mark.parametrize(("batch", "limit"), [(0, 256), (1, 2), (12, 15), (31, 39), (205, 256), (256, 256)])
def test_it_begins_with_what_the_cache_should_hold(batch: int, limit: int) -> None:
    admission = Admission(256, batch)
    assert admission.limit == limit
    while admission.follow(Metrics(running=1, waiting=0, kv_use=0.1, tokens=0)):
        pass
    assert admission.limit == 256
    admission.begin()
    assert admission.limit == limit


def test_an_engine_that_has_just_started_is_not_given_all_that_waits(host: Host) -> None:
    async def work() -> None:
        placement = Placement((EnginePlace("m", 0, (), batch=12),), "cpu")
        async with host.node(Faults(latency_s=0.3), placement=placement, max_running=64) as node:
            asked = [asyncio.create_task(node.ask(request(f"q{i}"))) for i in range(40)]
            while not (in_flight := sum(p.in_flight for p in node._dispatchers.values())):
                await asyncio.sleep(0)
            assert in_flight == 15
            assert {a.finish for a in await asyncio.gather(*asked)} == {"stop"}

    run(work())
