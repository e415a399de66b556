"""Simulated time and the simulated node: clocks that jump, batches that share steps, engines that share devices."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from placement_models import LLAMA_8B, need

from gra_hpc.config.settings import EngineConfig
from gra_hpc.flows.calls import Request, Sampling
from gra_hpc.flows.gra import questions
from gra_hpc.flows.render import render
from gra_hpc.placement.hosts import Host, Space, place
from gra_hpc.placement.performance import GB, constants_for
from gra_hpc.placement.turns import Rota, Turn, combine
from gra_hpc.placement.workload import sizes
from tools.simulated.clock import SimulatedTimeLoop
from tools.simulated.node import Lengths, SimulatedNode, step_of

CONSTANTS = constants_for("a100", 80)
NEEDS = tuple(need(n, LLAMA_8B) for n in ("a", "b"))


def run(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=SimulatedTimeLoop) as runner:
        return runner.run(work)


def rota(*turns: list[tuple[str, int]], devices: int = 2) -> Rota:
    """Turns of engines as `(model, device)`."""
    at = Space(NEEDS, devices, 70 * GB, CONSTANTS)
    by_name = {n.name: n for n in NEEDS}
    made = []
    for turn in turns:
        hosts: tuple[Host, ...] = place(at, [(by_name[m], 1, d) for m, d in turn])
        made.append(Turn(hosts, 1.0, swap_s=8.0 if len(turns) > 1 else 0.0, ideal=1.0))
    return combine(made, CONSTANTS)


def request(model: str, number: int, tokens: int = 4096) -> Request:
    return Request(model, "", ({"role": "user", "content": f"{number}"},), Sampling(0.2, 0.9, tokens, number))


def test_waiting_takes_no_time_and_threads_are_done_at_once() -> None:
    async def work() -> tuple[float, float, str]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(7200))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 50)
        before = loop.time()
        said = await asyncio.to_thread(lambda: "done")
        return before - began, loop.time() - before, said

    waited, thread, said = run(work())
    assert waited == pytest.approx(7250)
    assert (thread, said) == (0.0, "done")


def test_errors_of_threads_come_back() -> None:
    with pytest.raises(ZeroDivisionError):
        run(asyncio.to_thread(lambda: 1 // 0))


def test_every_question_is_known_by_its_request() -> None:
    variables: dict[str, Any] = {
        "instruction": "Add.", "response": "5", "summary_words": 30, "keywords": 3, "examples": [], "reviews": [],
        "domain_name": "Math",
    }  # fmt: skip
    examples = [type("E", (), {"keywords": ("x",), "summary": "s"})()]
    for q in (questions.KEYWORDS, questions.INSTRUCTION, questions.RESPONSE, questions.REFINE, questions.SUMMARY):
        own = variables | {"keywords": 3 if q.step == "keywords" else ("a",), "examples": examples}
        messages = render(q.step, own, q.prompts)
        assert step_of(Request("m", "", messages, Sampling(0.2, 0.9, 9, 0))) == q.step
    for q in (questions.DESCRIBE, questions.REVIEW_INSTRUCTION, questions.REVIEW_RESPONSE, questions.ADJUDICATE):
        assert q.schema
        own = questions.trial(q.step)
        r = Request("m", "", render(q.step, own, q.prompts), Sampling(0.2, 0.9, 9, 0), q.schema(own))
        assert step_of(r) == q.step
        assert step_of(replace(r, messages=({"role": "user", "content": "x"},), step=q.step)) == q.step


def test_lengths_have_the_stated_mean_and_follow_the_request_alone() -> None:
    lengths = Lengths(sizes())
    drawn = [lengths(request("a", n)) for n in range(4000)]
    assert sum(drawn) / len(drawn) == pytest.approx(sizes()["response"].completion_tokens, rel=0.05)
    assert drawn[:50] == [lengths(request("a", n)) for n in range(50)]
    assert max(lengths(request("a", n, 64)) for n in range(50)) == 64


def test_one_call_takes_its_steps_and_a_batch_shares_them() -> None:
    async def seconds(count: int) -> float:
        node = SimulatedNode(rota([("a", 0), ("b", 1)]))
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)
        began = loop.time()
        await asyncio.gather(*(node.ask(request("a", n, 20)) for n in range(count)))
        assert node.stats()["engines"]["a-0"]["completion_tokens"] == 20 * count
        return loop.time() - began

    curve = rota([("a", 0), ("b", 1)]).turns[0].engines[0]
    assert isinstance(curve, Host)
    alone, many = run(seconds(1)), run(seconds(64))
    assert 20 * 0.01 < alone < 20 * 0.02  # reading 16 GB at 1.6 TB/s, and 3 ms a step
    assert alone < many < 3 * alone


def test_engines_share_a_device_only_while_both_work() -> None:
    async def seconds(where: Rota, models: str) -> float:
        node = SimulatedNode(where)
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)
        began = loop.time()
        await asyncio.gather(*(node.ask(request(m, n, 50)) for m in models for n in range(8)))
        return loop.time() - began

    apart, together = rota([("a", 0), ("b", 1)]), rota([("a", 0), ("b", 0)])
    assert run(seconds(together, "a")) == pytest.approx(run(seconds(apart, "a")))
    both = run(seconds(together, "ab")) / run(seconds(apart, "ab"))
    assert both == pytest.approx(2 / 0.95, rel=0.02)


def test_calls_go_to_the_replica_that_is_least_loaded() -> None:
    async def work() -> list[int]:
        node = SimulatedNode(rota([("a", 0), ("a", 1), ("b", 1)]), EngineConfig(max_running=8))
        await asyncio.gather(*(node.ask(request("a", n, 30)) for n in range(100)))
        return [e["calls"] for e in node.stats()["engines"].values()]

    first, second, other = run(work())
    assert (first + second, other) == (100, 0)
    assert abs(first - second) <= 10


def test_a_replica_that_shares_its_device_gets_its_part_of_the_calls() -> None:
    """In flight there are as many calls as its share of the time can answer, in the proportion that placement found."""

    async def work(where: Rota) -> list[int]:
        node = SimulatedNode(where)
        await asyncio.sleep(1)
        calls = [asyncio.create_task(node.ask(request("a", n, 500))) for n in range(80)]
        await asyncio.sleep(1)
        found = [len(r.inflight) for r in node.replicas]
        await asyncio.gather(*calls)
        return found

    where = rota([("a", 0), ("a", 1), ("b", 1)])
    even, (alone, beside, other) = run(work(where)), (60.0, 20.0, 10.0)
    hosts = where.turns[0].engines
    planned = tuple(replace(h, calls=c) for h, c in zip(hosts, (alone, beside, other), strict=True))
    weighted = run(work(replace(where, turns=(replace(where.turns[0], engines=planned),))))
    assert even[:2] == [40, 40]
    assert weighted[:2] == pytest.approx([60, 20], abs=2)


def test_models_take_turns() -> None:
    async def work() -> tuple[float, dict[str, Any]]:
        node = SimulatedNode(rota([("a", 0)], [("b", 0)], devices=1), start_s=100.0)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for n in range(3):
            for model in "ab":
                await asyncio.gather(*(node.ask(request(model, 10 * n + i, 20)) for i in range(4)))
        node.close()
        return loop.time() - began, node.stats()["rotation"]

    took, rotation = run(work())
    assert rotation["swaps"] == 5
    assert 100 + 5 * 8 < took < 100 + 100 + 5 * 8 + 10
