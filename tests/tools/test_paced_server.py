"""The paced server: steps as the performance model says, a KV cache that is full, what prompts share, sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from placement_models import LLAMA_8B, need

from gra_hpc.engines.simulated import simulate
from gra_hpc.placement.performance import constants_for, rate_curve
from tools.simulated.clock import SimulatedTimeLoop
from tools.simulated.pace import BLOCK_CHARACTERS, STEP_TOKENS, Figures, Neighbours, PacedEngine, blocks_of
from tools.simulated.paced_server import Described, PacedServer, alone, request_of
from tools.simulated.paced_time import stages

CONSTANTS = constants_for("a100", 80)
NEED = need("a", LLAMA_8B)
FIGURES = alone(NEED, CONSTANTS, 80)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=SimulatedTimeLoop) as runner:
        return runner.run(work)


def took(calls: Sequence[tuple[int, int]], figures: Figures = FIGURES, **how: Any) -> tuple[float, PacedEngine]:
    """Seconds of the clock that an engine takes for calls (prompt, answer) that come at once."""

    async def work() -> tuple[float, PacedEngine]:
        engine = PacedEngine(figures, **how)
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(engine.compute(*c) for c in calls))
        return asyncio.get_running_loop().time() - began, engine

    seconds, engine = run(work())
    assert (engine.running, engine.waiting, engine.kv_use) == (0, 0, 0.0), "all have left"
    return seconds, engine


@pytest.mark.parametrize("tensor_parallel", [1, 2])
@pytest.mark.parametrize("batch", [1.0, 40.0, 256.0])
def test_a_paced_step_lasts_as_long_as_placement_believes(tensor_parallel: int, batch: float) -> None:
    curve = rate_curve(NEED, tensor_parallel, CONSTANTS)
    figures = Figures.of(NEED, tensor_parallel, 10e9, CONSTANTS)
    prompts = batch * curve.prompt_tokens / curve.answer_tokens
    assert figures.step(batch, batch * NEED.context_tokens, prompts) == pytest.approx(curve.step(batch), rel=1e-6)


def test_a_paced_batch_shares_its_steps() -> None:
    one, engine = took([(10, 100)])
    assert engine.counted.steps == 100
    assert one == pytest.approx(100 * FIGURES.step(1, 60), rel=0.05)
    many, engine = took([(10, 100)] * 64)
    assert engine.counted.steps == 100 and engine.counted.answer_tokens == 6400
    assert many == pytest.approx(100 * FIGURES.step(64, 64 * 60), rel=0.05) and many < 2 * one
    _, engine = took([(10, 100)] * 64, replace(FIGURES, max_running=32))
    assert engine.counted.steps == 200, "no more run than max_running"
    assert took([(10, 100)], speed=0.25)[0] == pytest.approx(4 * one)


def test_a_paced_prompt_is_taken_in_beside_answers_within_a_budget() -> None:
    short, _ = took([(100, 10)])
    long, engine = took([(100 + 3 * STEP_TOKENS, 10)])
    assert engine.counted.steps == 13, "three more steps until its first token"
    computing = 3 * STEP_TOKENS * FIGURES.token_s
    assert computing < long - short < computing + 4 * FIGURES.step(1, 7000)


def test_a_paced_call_waits_where_the_cache_has_no_room() -> None:
    figures = replace(FIGURES, kv_tokens=1000)
    two, engine = took([(400, 50)] * 2, figures)
    assert engine.counted.steps == 50
    three, engine = took([(400, 50)] * 3, figures)
    assert engine.counted.steps == 100 and not engine.counted.preempted
    assert three == pytest.approx(two + took([(400, 50)], figures)[0])
    alone_, _ = took([(5000, 50)], figures)
    assert alone_, "one that never fits is computed by itself"


def test_paced_answers_that_outgrow_the_cache_are_begun_anew() -> None:
    calls = [(200, 300)] * 4
    _, engine = took(calls, replace(FIGURES, kv_tokens=1000))
    assert engine.counted.preempted and engine.counted.calls == 4
    assert engine.counted.answer_tokens == 1200, "what was written stays written"


def test_what_paced_prompts_share_is_taken_in_once() -> None:
    rubric = "r" * 40 * BLOCK_CHARACTERS

    async def work() -> list[int]:
        engine = PacedEngine(FIGURES)
        asked = [("a", "x"), ("a", "y"), ("b", "x"), ("a", "x" * BLOCK_CHARACTERS)]
        found = [await engine.compute(700, 5, blocks_of(model, rubric + text)) for model, text in asked]
        engine.prefixes.clear()
        return [*found, await engine.compute(700, 5, blocks_of("a", rubric))]

    assert run(work()) == [0, 640, 0, 640, 0]


def test_paced_engines_on_one_device_share_its_time(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    Neighbours.create(shared, 3)
    first, second = Neighbours(shared, (0,), 0, 0.05), Neighbours(shared, (0, 1), 1, 0.05)
    by_itself, _ = took([(10, 50)])
    assert took([(10, 50)], neighbours=first)[0] == pytest.approx(by_itself)
    second.at_work(True)
    assert took([(10, 50)], neighbours=first)[0] == pytest.approx(by_itself / 0.475)
    second.at_work(False)
    assert took([(10, 50)], neighbours=first)[0] == pytest.approx(by_itself)


def test_a_full_batch_is_what_an_engine_reaches_with_calls_enough() -> None:
    seconds, engine = took([(300, 60)] * 3000)
    assert engine.counted.full_s / seconds == pytest.approx(1.0, abs=0.02)
    assert sum(engine.counted.by_second.values()) == pytest.approx(engine.counted.full_s)


def test_the_paced_server_answers_as_the_simulated_engine() -> None:
    schema = {"type": "object", "properties": {"score": {"type": "integer", "enum": [1, 2, 3]}}}
    messages = [{"role": "user", "content": "Score it."}]
    asked = {
        "model": "a", "messages": messages, "temperature": 0.2, "top_p": 0.9, "max_tokens": 300, "seed": 5,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    }  # fmt: skip

    async def work() -> None:
        server = PacedServer(["a"], [PacedEngine(FIGURES, 1000.0), PacedEngine(FIGURES, 1000.0)])
        async with TestClient(TestServer(server.app())) as client:
            replies = [await (await client.post("/v1/chat/completions", json=asked)).json() for _ in range(2)]
            expected = simulate(request_of(asked, messages))
            for reply in replies:
                assert reply["choices"][0]["message"]["content"] == expected.text
                assert reply["simulated"] and reply["usage"]["completion_tokens"] > 1
            assert replies[0]["usage"] == replies[1]["usage"], "as long each time"
            free = await client.post("/v1/completions", json={"model": "a", "prompt": "Go on.", "max_tokens": 7})
            assert (await free.json())["usage"]["completion_tokens"] <= 7
            assert (await (await client.get("/v1/models")).json())["data"][0]["id"] == "a"
            assert (await client.get("/health")).status == 200
            assert 'vllm:num_requests_running{engine="1"' in await (await client.get("/metrics")).text()
            assert (await client.post("/v1/completions", json={"model": "b", "prompt": "x"})).status == 404
            assert (await client.post("/v1/completions", json={"prompt": "x"})).status == 400

    asyncio.run(work())


def test_a_peers_stages_wait_for_each_other() -> None:
    sampling = {"temperature": 0.2, "top_p": 0.9, "max_tokens": 50}

    def call(role: str, model: str, wave: int, seed: int) -> dict[str, Any]:
        messages = [{"role": "user", "content": role}]
        return {
            "role": role, "model": model, "wave": wave, "schema": None, "messages": messages,
            "sampling": sampling | {"seed": seed},
        }  # fmt: skip

    samples = [
        [call("generator", "a", 0, 1), call("reviewer", "b", 1, 2), call("summarizer", "a", 2, 3)],
        [call("generator", "b", 0, 4), call("reviewer", "a", 1, 5)],
    ]
    engines = {m: [Described(FIGURES, FIGURES, (d,), d)] for d, m in enumerate("ab")}
    in_turns, passes, told = stages(samples, engines, 0.05, True, 10)
    assert passes == 5 and sum(e["calls"] for e in told) == 5
    assert in_turns == pytest.approx(sum(e["busy_s"] for e in told)), "one after another"
    together, _, _ = stages(samples, engines, 0.05, False, 10)
    assert 0.5 * in_turns < together < 0.7 * in_turns, "two stages of two, and one of one"
