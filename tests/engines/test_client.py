"""The client against real HTTP over Unix sockets: answers, refusals, broken servers, metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from gra_hpc.engines.client import Client, EngineGone, EngineTrouble, body, decoded, parse_metrics, words
from gra_hpc.flows.calls import Answer, Request, Sampling
from gra_hpc.models.thinking import Thinking
from gra_hpc.records import digest
from tests.waiting import until_it_is

REQUEST = Request("m", "", ({"role": "user", "content": "hello"},), Sampling(0.2, 0.9, 64, 7))


def reply(finish: str = "stop", text: str | None = "hi") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage}


def ask(
    short_dir: Path,
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    act: Callable[[Client], Awaitable[Any]],
) -> Any:
    """What a client gets from a server that answers everything with `handler`."""

    async def work() -> Any:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, str(short_dir / "s")).start()
        client = Client(str(short_dir / "s"), "m", 512)
        try:
            return await act(client)
        finally:
            await client.close()
            await runner.cleanup()

    return asyncio.run(work())


def fixed(data: Any, status: int = 200) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handler(_: web.Request) -> web.StreamResponse:
        raw = data if isinstance(data, bytes) else orjson.dumps(data)
        return web.Response(body=raw, status=status, content_type="application/json")

    return handler


def chat(client: Client) -> Awaitable[Answer]:
    return client.chat(REQUEST, REQUEST.messages)


def test_body_is_what_the_protocol_wants() -> None:
    assert orjson.loads(body("m", REQUEST, REQUEST.messages, 512)) == {
        "model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": 0.2, "top_p": 0.9,
        "max_tokens": 64, "seed": 7,
    }  # fmt: skip
    schema = {"type": "object"}
    full = Request("m", "", REQUEST.messages, Sampling(0.0, 1.0, 4096, 7, 1.1), schema)
    found = orjson.loads(body("m", full, REQUEST.messages, 512))
    assert (found["max_tokens"], found["repetition_penalty"]) == (512, 1.1)
    assert found["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }


def test_top_k_and_stop_are_asked_for_and_change_no_other_digest() -> None:
    plain = Sampling(0.2, 0.9, 64, 7)
    digests = {REQUEST.digest}
    for more in (replace(plain, top_k=20), replace(plain, stop=("###", "END")), replace(plain, stop=("###",))):
        asked = replace(REQUEST, sampling=more)
        found = orjson.loads(body("m", asked, REQUEST.messages, 512))
        assert (found.get("top_k", 0), tuple(found.get("stop", ()))) == (more.top_k, more.stop)
        digests.add(asked.digest)
    assert len(digests) == 4
    assert REQUEST.digest == digest("", REQUEST.messages, [0.2, 0.9, 64, 7, 1.0], None), "as before there were any"


@pytest.mark.parametrize(("said", "finish"), [("stop", "stop"), ("length", "length"), ("repetition", "length")])
def test_answer(short_dir: Path, said: str, finish: str) -> None:
    answer = ask(short_dir, fixed(reply(said)), chat)
    assert (answer.text, answer.finish, answer.prompt_tokens, answer.completion_tokens) == ("hi", finish, 3, 2)
    assert answer.seconds > 0


THINKING = Thinking(True, "<think>", False, "qwen3", {"enable_thinking": True})
ASKED = Request("m", "", REQUEST.messages, Sampling(0.2, 0.9, 64, 7, 1.0, 100), thinking=THINKING)


def test_body_for_a_model_that_thinks() -> None:
    """Its answer has a budget of its own; the template's switch is set, and a model that does not think says so too."""
    found = orjson.loads(body("m", ASKED, REQUEST.messages, 512))
    assert (found["max_tokens"], found["thinking_token_budget"]) == (164, 100)
    assert found["chat_template_kwargs"] == {"enable_thinking": True}
    assert "thinking_token_budget" not in orjson.loads(body("m", ASKED, REQUEST.messages, 512, budget=False))
    off = replace(REQUEST, thinking=Thinking(False, switches={"enable_thinking": False}))
    found = orjson.loads(body("m", off, REQUEST.messages, 512))
    assert found["chat_template_kwargs"] == {"enable_thinking": False} and found["max_tokens"] == 64
    assert len({REQUEST.digest, off.digest, ASKED.digest}) == 3
    assert replace(ASKED, thinking=None).digest == REQUEST.digest, (
        "to a model that has no thoughts their budget is nothing"
    )


@pytest.mark.parametrize(
    ("message", "finish", "expected"),
    [
        ({"content": "4", "reasoning": "2+2"}, "stop", ("4", "stop", "2+2")),
        ({"content": "4", "reasoning_content": "2+2"}, "length", ("4", "length", "2+2")),
        ({"content": None, "reasoning": "2+"}, "length", ("", "thoughts", "2+")),
        ({"content": None, "reasoning": "2+2"}, "stop", ("", "thoughts", "2+2")),
        ({"content": "<think>2+2</think>4", "reasoning": None}, "stop", ("4", "stop", "2+2")),
        ({"content": "<think>2+"}, "length", ("", "thoughts", "2+")),
        ({"content": "4"}, "stop", ("4", "stop", "")),
    ],
)
def test_thoughts_come_apart(
    short_dir: Path, message: dict[str, Any], finish: str, expected: tuple[str, str, str]
) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    given = {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}
    answer = ask(short_dir, fixed(given), lambda client: client.chat(ASKED, ASKED.messages))
    assert (answer.text, answer.finish, answer.thoughts) == expected


@pytest.mark.parametrize(
    ("tokens", "thought", "counted", "finish", "asked"),
    [
        (64, None, 65, "stop", 0),  # both together are within the bound: nothing to be counted
        (150, 100, 65, "stop", 0),
        (150, None, 64, "stop", 1),
        (150, None, 65, "length", 1),
        (150, 80, 65, "length", 1),
        (150, 0, None, "stop", 1),  # a server that does not count: 50 of 150 characters are the answer
        (164, 0, None, "stop", 1),
        (300, 0, None, "length", 1),
    ],
)
def test_the_answer_alone_is_bounded(
    short_dir: Path, tokens: int, thought: int | None, counted: int | None, finish: str, asked: int
) -> None:
    """What thoughts leave of their budget is not the answer's."""
    bodies: list[dict[str, Any]] = []

    async def handler(request: web.Request) -> web.Response:
        if request.path == "/tokenize":
            bodies.append(orjson.loads(await request.read()))
            if counted is None:
                return web.json_response({"error": "not found"}, status=404)
            return web.json_response({"count": counted, "tokens": []})
        usage: dict[str, Any] = {"prompt_tokens": 3, "completion_tokens": tokens}
        if thought is not None:
            usage["completion_tokens_details"] = {"reasoning_tokens": thought}
        message = {"content": "4" * 50, "reasoning": "2" * 100}
        return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})

    answer = ask(short_dir, handler, lambda client: client.chat(ASKED, ASKED.messages))
    assert (answer.finish, answer.text, len(bodies)) == (finish, "4" * 50, asked)
    assert all(b == {"model": "m", "prompt": "4" * 50, "add_special_tokens": False} for b in bodies)


def test_effort_is_said_to_the_template_and_to_the_server() -> None:
    """vLLM renders gpt-oss without a template, by a field of the protocol, which takes three levels."""
    for level, field in (("low", "low"), ("high", "high"), ("max", None)):
        thinking = Thinking(True, "<|channel|>", False, "openai_gptoss", {"reasoning_effort": level})
        found = orjson.loads(body("m", replace(ASKED, thinking=thinking), REQUEST.messages, 512))
        assert (found["chat_template_kwargs"], found.get("reasoning_effort")) == ({"reasoning_effort": level}, field)


def test_a_server_without_a_budget_for_thoughts_is_asked_without_one(short_dir: Path) -> None:
    bodies: list[dict[str, Any]] = []

    async def handler(request: web.Request) -> web.Response:
        bodies.append(orjson.loads(await request.read()))
        if "thinking_token_budget" in bodies[-1]:
            return web.json_response({"error": {"message": "thinking_token_budget is set but ..."}}, status=400)
        return web.json_response(reply("stop"))

    async def twice(client: Client) -> list[Answer]:
        return [await client.chat(ASKED, ASKED.messages) for _ in range(2)]

    assert [a.text for a in ask(short_dir, handler, twice)] == ["hi", "hi"]
    assert ["thinking_token_budget" in b for b in bodies] == [True, False, False]


def test_empty_content_is_an_empty_text(short_dir: Path) -> None:
    assert ask(short_dir, fixed(reply(text=None)), chat).text == ""


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_refusal_is_an_answer_in_the_servers_words(short_dir: Path, status: int) -> None:
    error = {"error": {"message": "maximum context length\nis 512", "type": "BadRequestError", "code": 400}}
    answer = ask(short_dir, fixed(error, status), chat)
    assert (answer.finish, answer.text, answer.completion_tokens) == ("error", "maximum context length is 512", 0)


@pytest.mark.parametrize(
    ("data", "status", "kind"),
    [
        ({"error": {"message": "EngineCore died"}}, 500, EngineTrouble),
        ({"error": "busy"}, 429, EngineTrouble),
        ({"error": "shutting down"}, 503, EngineGone),
        (reply("abort"), 200, EngineTrouble),
        (b"<html>", 200, EngineTrouble),
        ({"choices": []}, 200, EngineTrouble),
    ],
)
def test_everything_else_is_trouble(short_dir: Path, data: Any, status: int, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        ask(short_dir, fixed(data, status), chat)


def test_lost_connections(short_dir: Path) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    with pytest.raises(EngineGone):
        ask(short_dir, cut, chat)
    with pytest.raises(EngineGone):
        asyncio.run(Client(str(short_dir / "nobody"), "m", 512).chat(REQUEST, REQUEST.messages))


def test_closing_ends_calls_in_flight(short_dir: Path) -> None:
    asked: list[web.Request] = []

    async def never(http: web.Request) -> web.StreamResponse:
        asked.append(http)
        await asyncio.Event().wait()
        return web.Response()

    async def act(client: Client) -> bool:
        task = asyncio.ensure_future(chat(client))
        await until_it_is(lambda: asked)
        await client.close()
        with pytest.raises(EngineGone):
            await task
        return True

    assert ask(short_dir, never, act)


def test_health(short_dir: Path) -> None:
    assert ask(short_dir, fixed(b""), Client.health) == 200
    assert ask(short_dir, fixed(b"", 503), Client.health) == 503
    assert asyncio.run(Client(str(short_dir / "nobody"), "m", 512).health()) == 0

    async def slow(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    assert ask(short_dir, slow, lambda c: c.health(timeout=0.1)) == 0


def test_sleep_and_wake_are_the_documented_calls(short_dir: Path) -> None:
    seen: list[str] = []

    async def note(request: web.Request) -> web.StreamResponse:
        seen.append(f"{request.method} {request.path_qs}")
        return web.json_response({})

    async def act(client: Client) -> None:
        await client.sleep()
        await client.wake()

    ask(short_dir, note, act)
    assert seen == ["POST /sleep?level=1", "POST /wake_up"]
    with pytest.raises(EngineTrouble, match=r"/sleep\?level=1: HTTP 404"):
        ask(short_dir, fixed(b"", 404), Client.sleep)


METRICS = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 12.0
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 9.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.875
vllm:prompt_tokens_total{engine="0",model_name="m"} 1.2e+06
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.7e+09
vllm:generation_tokens_total{engine="0",model_name="m"} 20.0
"""


def test_metrics_of_vllm() -> None:
    m = parse_metrics(METRICS)
    assert (m.running, m.waiting, m.kv_use, m.tokens) == (12, 3, 0.875, 1_200_020)
    assert parse_metrics(b"").tokens == -1  # it does not say


def test_words_of_a_server() -> None:
    assert words(b'{"error": {"message": "no"}}') == "no"
    assert words(b'{"error": "no"}') == "no"
    assert words(b'{"detail": "no"}') == "{'detail': 'no'}"
    assert words(b"[1]") == "[1]"
    assert words(b"plain\n text") == "plain text"
    assert len(words(b"x" * 10_000)) == 500


def test_half_a_surrogate_pair_in_a_reply_spoils_that_answer_alone() -> None:
    assert decoded(b'{"text": "\\ud83d"}') == {"text": "\ud83d"}
    for broken in (b'{"text": ', b"[" * 100_000):
        with pytest.raises(ValueError):
            decoded(broken)
