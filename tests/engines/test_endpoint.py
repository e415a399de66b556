"""Endpoints against real HTTP: what is asked again, what is left out, what ends the attempt, and where a key is."""

from __future__ import annotations

import asyncio
import copy
import itertools
import pickle
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gra_hpc.config import presets
from gra_hpc.config.endpoint import EndpointConfig, versioned
from gra_hpc.config.settings import ModelConfig, SystemRole
from gra_hpc.doctor.endpoints import answers
from gra_hpc.engines import endpoint as module
from gra_hpc.engines.client import completion, words
from gra_hpc.engines.endpoint import Endpoint, _elsewhere, retry_after, what_it_serves
from gra_hpc.engines.key import Key
from gra_hpc.engines.pace import Pace
from gra_hpc.errors import ConfigError, EngineError, FingerprintError
from gra_hpc.flows.calls import Draining, Request, Sampling
from gra_hpc.models.thinking import Thinking
from gra_hpc.run import planning
from gra_hpc.run.engines import verified_endpoint
from gra_hpc.run.run import Run
from gra_hpc.views.plan import preview

MESSAGES = ({"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"})
REQUEST = Request("m", "", MESSAGES, Sampling(0.2, 0.9, 64, 7))
GUIDED = Request("m", "", MESSAGES, Sampling(0.2, 0.9, 64, 8, 1.1), {"type": "object"})
Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]


def said(text: str = "hi", finish: str = "stop", **more: Any) -> Reply:
    return 200, {"choices": [{"message": {"content": text, **more}, "finish_reason": finish}]}


def refused(text: str, status: int = 400, **headers: str) -> Reply:
    return status, {"error": {"message": text}}, {k.replace("_", "-"): v for k, v in headers.items()}


def on(
    handle: Callable[[dict[str, Any]], Reply],
    act: Callable[[Endpoint], Awaitable[Any]],
    listed: Iterable[dict[str, Any]] = ({"id": "big", "created": 1},),
    system_role: SystemRole = SystemRole.auto,
    **config: Any,
) -> tuple[Any, list[dict[str, Any]], Endpoint]:
    """What an endpoint makes of a server, the bodies that the server got, and the endpoint."""
    bodies: list[dict[str, Any]] = []

    async def chat(http: web.Request) -> web.Response:
        bodies.append(await http.json() | {"key": http.headers.get("Authorization")})
        status, data, *headers = handle(bodies[-1])
        return web.json_response(data, status=status, headers=headers[0] if headers else {})

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": list(listed)})

    async def work() -> Any:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", chat)
        app.router.add_get("/v1/models", models)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        settings = EndpointConfig(url=f"http://127.0.0.1:{runner.addresses[0][1]}/v1/", **config)
        endpoint = Endpoint("m", ModelConfig(endpoint=settings, system_role=system_role))
        try:
            return await act(endpoint), endpoint
        finally:
            await endpoint.close()
            await runner.cleanup()

    result, endpoint = asyncio.run(work())
    return result, bodies, endpoint


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.002)


def test_an_answer_and_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    key = secrets.token_hex(8)
    monkeypatch.setenv("CAMPUS", key)
    answer, (asked,), endpoint = on(lambda _: said(), lambda e: e.ask(REQUEST), model="big", key_env="CAMPUS")
    assert (answer.text, answer.finish, answer.prompt_tokens) == ("hi", "stop", 0)
    assert (asked["model"], asked["seed"], asked["key"]) == ("big", 7, f"Bearer {key}")
    assert asked["messages"] == list(MESSAGES)
    assert endpoint.report()["calls"] == 1 and key not in str(endpoint.report())
    _, (asked,), _ = on(lambda _: said(), lambda e: e.ask(REQUEST), system_role=SystemRole.no)
    assert asked["messages"] == [{"role": "user", "content": "be brief\n\nhello"}] and asked["key"] is None


@pytest.mark.parametrize(
    "first",
    [refused("busy", 429), refused("busy", 429, Retry_After="0.01"), refused("oh", 500), refused("", 503), (200, {})],
)
def test_what_fails_is_asked_again(first: Reply) -> None:
    turns = iter([first, first, said("at last")])
    answer, asked, endpoint = on(lambda _: next(turns), lambda e: e.ask(REQUEST))
    assert (answer.text, len(asked), sum(endpoint.stats.again.values())) == ("at last", 3, 2)


def test_a_call_that_a_server_always_fails_on_is_given_up() -> None:
    async def both(e: Endpoint) -> Any:
        return await asyncio.gather(e.ask(GUIDED), *(e.ask(REQUEST) for _ in range(3)))

    (bad, *good), asked, _ = on(lambda b: refused("oh", 500) if b["seed"] == 8 else said(), both)
    assert bad.finish == "error" and "HTTP 500" in bad.text and {a.finish for a in good} == {"stop"}
    assert sum(b["seed"] == 8 for b in asked) == module.TROUBLES


@pytest.mark.parametrize(
    ("reply", "config", "what"),
    [
        (refused("no such key", 401), {}, "HTTP 401: no such key"),
        (refused("who are you", 403), {}, "HTTP 403"),
        (refused("no model big", 404), {}, "HTTP 404"),
        (refused("", 302, Location="http://other/"), {}, "moved to http://other"),
        ((429, {"error": {"message": "pay", "code": "insufficient_quota"}}), {}, "HTTP 429: pay"),
        (refused("", 429, Retry_After="7200"), {}, "asks to wait for 7200 s"),
        (refused("down", 500), {"patience_s": 0}, "no answer for 0 s, the last time: HTTP 500: down"),
    ],
)
def test_what_ends_the_attempt(reply: Reply, config: dict[str, Any], what: str) -> None:
    with pytest.raises(EngineError, match=what) as e:
        on(lambda _: reply, lambda e: e.ask(REQUEST), **config)
    assert "models.m.endpoint" in e.value.then


def test_nobody_there() -> None:
    model = ModelConfig(endpoint=EndpointConfig(url="http://127.0.0.1:1/v1"))
    with pytest.raises(EngineError, match="connection refused") as e:
        what_it_serves("m", model)
    assert not re.search(r"[a-z][A-Z]\w*(Error|Exception)", e.value.what), "no class names"


def test_guided_answers_are_asked_for_as_far_as_they_are_taken() -> None:
    """json_schema, then json_object, then nothing; later calls begin where the last one ended."""

    def picky(body: dict[str, Any]) -> Reply:
        if "response_format" in body:
            return refused(f"response_format of type {body['response_format']['type']} is not supported")
        if "repetition_penalty" in body:
            return refused("Unrecognized request argument supplied: repetition_penalty", 422)
        return said("{}")

    async def twice(e: Endpoint) -> Any:
        return [await e.ask(GUIDED), await e.ask(GUIDED)]

    (first, second), asked, endpoint = on(picky, twice)
    assert first.text == second.text == "{}"
    assert [b.get("response_format", {}).get("type") for b in asked] == ["json_schema", "json_object", None, None, None]
    assert endpoint.stats.left_out == ["json_schema", "response_format", "repetition_penalty"]


def test_a_refused_call_is_an_error_and_nothing_is_left_out_for_it() -> None:
    answer, asked, endpoint = on(lambda _: refused("too long: 9000 tokens"), lambda e: e.ask(GUIDED))
    assert (answer.finish, answer.text, len(asked)) == ("error", "too long: 9000 tokens", 1)
    assert not endpoint.stats.left_out
    answer, asked, _ = on(lambda _: said("", "content_filter"), lambda e: e.ask(REQUEST))
    assert (answer.finish, len(asked)) == ("error", 1)


def test_newer_servers_name_the_bound_otherwise() -> None:
    said_so = refused("'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.")
    answer, asked, _ = on(lambda b: said_so if "max_tokens" in b else said(), lambda e: e.ask(REQUEST))
    assert answer.text == "hi" and asked[1]["max_completion_tokens"] == 64


def test_thoughts_that_come_apart() -> None:
    thinking = Request("m", "", MESSAGES, Sampling(0.2, 0.9, 64, 7, thinking_tokens=100), thinking=Thinking(True))
    answer, (asked,), _ = on(lambda _: said("yes", reasoning_content="hm"), lambda e: e.ask(thinking))
    assert (answer.text, answer.thoughts, asked["max_tokens"]) == ("yes", "hm", 164)
    assert "thinking_token_budget" not in asked
    answer, _, _ = on(lambda _: said("<think>hm</think>yes"), lambda e: e.ask(thinking))
    assert (answer.text, answer.thoughts) == ("yes", "hm")


def test_what_it_serves_is_its_identity() -> None:
    served, _, _ = on(lambda _: said(), lambda e: e.served())
    again, _, _ = on(lambda _: said(), lambda e: e.served(), [{"id": "big", "created": 2, "owned_by": "me"}])
    other, _, _ = on(lambda _: said(), lambda e: e.served(), [{"id": "big", "root": "/models/other"}])
    assert served.name == "big" and served.identity == again.identity != other.identity
    two = [{"id": "big"}, {"id": "small", "max_model_len": 2048, "meta": {"n_params": 7, "n_ctx": 1}}]
    small, _, _ = on(lambda _: said(), lambda e: e.served(), two, model="small")
    assert (small.length, small.facts) == (2048, {"n_params": 7})
    for model, what in (("", "serves big, small"), ("huge", "does not serve huge, but big, small")):
        with pytest.raises(EngineError, match=what):
            on(lambda _: said(), lambda e: e.served(), two, model=model)


def test_a_key_that_a_server_repeats_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    key = secrets.token_hex(8)
    monkeypatch.setenv("CAMPUS", key)
    with pytest.raises(EngineError) as e:
        on(lambda b: refused(f"{b['key']} is wrong", 401), lambda e: e.ask(REQUEST), key_env="CAMPUS")
    assert key not in str(e.value) and "Bearer [key] is wrong" in str(e.value)
    held = Key("m", EndpointConfig(key_env="CAMPUS"))
    assert key not in f"{held!r} {held}"
    for away in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="not pickled"):
            away(held)


def test_key_files_are_the_users_alone(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(secrets.token_hex(8))
    for mode, what in ((0o644, "others may read"), (0o620, "others may read")):
        file.chmod(mode)
        with pytest.raises(EngineError, match=what):
            Key("m", EndpointConfig(key_file=str(file)))
    file.chmod(0o600)
    assert Key("m", EndpointConfig(key_file=str(file))).headers
    file.write_text("two words\n")
    with pytest.raises(EngineError, match="one word"):
        Key("m", EndpointConfig(key_file=str(file)))
    for endpoint in (EndpointConfig(key_file=str(tmp_path / "none")), EndpointConfig(key_env="GRA_NOT_SET")):
        with pytest.raises(EngineError, match=r"models\.m\.endpoint\.key_"):
            Key("m", endpoint)


def test_a_renewed_key_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.touch(mode=0o600)
    file.write_text("old")

    def server(body: dict[str, Any]) -> Reply:
        file.write_text("new")
        return said() if body["key"] == "Bearer new" else refused("expired", 401)

    answer, asked, _ = on(server, lambda e: e.ask(REQUEST), key_file=str(file))
    assert (answer.text, len(asked)) == ("hi", 2)


def test_pace_bounds_calls_in_flight_and_a_minute() -> None:
    async def work() -> None:
        pace, loop = Pace(2, per_minute=6000), asyncio.get_running_loop()
        most, begun, start = 0, [], loop.time()

        async def call() -> None:
            nonlocal most
            await pace.enter()
            begun.append(loop.time())
            most = max(most, pace.in_flight)
            await asyncio.sleep(0.001)
            pace.leave()

        await asyncio.gather(*(call() for _ in range(10)))
        assert most <= 2 and pace.in_flight == 0
        assert begun[-1] - start >= 0.08  # ten calls, 10 ms apart, but for the timer's grain

    asyncio.run(work())


def test_pace_is_halved_once_and_grows_back() -> None:
    async def work() -> None:
        pace = Pace(8)
        for _ in range(8):
            pace.too_much(0.01)
        assert pace.limit == 4
        for _ in range(4 + 5):
            pace.answered()
        assert pace.limit == 6

    asyncio.run(work())


def test_draining_lets_nothing_more_through() -> None:
    async def work() -> None:
        pace = Pace(1)
        await pace.enter()
        waiting = [asyncio.create_task(pace.enter()), asyncio.create_task(pace.sleep(60))]
        await asyncio.sleep(0)
        pace.drain()
        assert [type(e) for e in await asyncio.gather(*waiting, return_exceptions=True)] == [Draining, Draining]
        with pytest.raises(Draining):
            await pace.enter()

    asyncio.run(work())


def test_cancelled_calls_give_their_turn_back() -> None:
    async def work() -> None:
        pace = Pace(1)
        await pace.enter()
        tasks = [asyncio.create_task(pace.enter()) for _ in range(2)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        pace.leave()
        tasks[1].cancel()  # its turn has come, and it is not there to take it
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(5):
            await pace.enter()

    asyncio.run(work())


@pytest.mark.parametrize(("said_", "seconds"), [("3", 3), ("nan", 0), ("soon", 0), ("", 0), ("-4", 0), ("1e9", 86_400)])
def test_retry_after(said_: str, seconds: float) -> None:
    assert retry_after({"Retry-After": said_}) == seconds
    assert retry_after({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (
            ["models.x.path=org/name", "models.x.endpoint.url=https://h/v1"],
            r"models\.x\.path=org/name: expected nothing",
        ),
        (["models.x.endpoint.url=https://me:word@h/v1"], r"url=\(with a name or a password\)"),
        (["models.x.endpoint.url=https://h/v1?key=abc"], r"url=https://h/v1: expected http"),
        (["models.x.endpoint.url=h/v1"], "url=h/v1: expected http"),
        (["models.x.endpoint.url=https://h/v1", "models.x.endpoint.key_env=sk-abc"], r"key_env=\(no name"),
        (["models.x.endpoint.key_env=A"], r"endpoint\.url=: expected an address"),
        (["models.x.endpoint.url=https://h/v1", "models.x.engine_args={seed: 1}"], r"engine_args=\(given\)"),
        (["models.x.licence=mit"], r"models\.x\.path=: expected a Hub id"),
    ],
)
def test_settings_that_cannot_be(words: list[str], what: str) -> None:
    with pytest.raises(ConfigError, match=what) as e:
        presets.compose("demo", [*words, "committee.x.model=x"])
    assert "abc" not in str(e.value) and "word@" not in str(e.value)


def test_the_doctor_asks_once() -> None:
    def found(handle: Callable[[dict[str, Any]], Reply], listed: dict[str, Any]) -> list[str]:
        async def act(e: Endpoint) -> list[str]:
            model = ModelConfig(endpoint=e.config, max_model_len=8192)
            return await asyncio.to_thread(lambda: [str(f) for f in answers("m", model)])

        return list(on(handle, act, [listed])[0])

    assert "serves big, answers in" in found(lambda _: said('{"colour": "blue"}'), {"id": "big"})[0]
    lines = found(
        lambda b: refused("response_format: json_schema is not supported") if "response_format" in b else
        said("blue", reasoning="hm"), {"id": "big", "max_model_len": 4096},
    )  # fmt: skip
    assert "does not take guided JSON" in lines[1] and "models.m.max_model_len=4096" in lines[2]
    assert found(lambda _: refused("wrong", 401), {"id": "big"})[0].startswith("failure")


@pytest.mark.parametrize(
    "counts", ["1e999", "-1e999", "1e308", "-5", "9" * 30, "null", '"x"', "[]", "true", "2147483648", "0.5"]
)
def test_what_a_server_counts_is_written_down_only_if_it_can_be(counts: str) -> None:
    """A journal holds no number of tokens but these: the line would be lost, or the attempt end in a traceback."""
    usage = f'"usage": {{"prompt_tokens": {counts}, "completion_tokens": {counts}}}'
    data = f'{{"choices": [{{"message": {{"content": "hi"}}, "finish_reason": "stop"}}], {usage}}}'.encode()
    answer = completion(REQUEST, data, 0.1)
    assert answer.text == "hi" and (answer.prompt_tokens, answer.completion_tokens) in ((0, 0), (1, 1))


def test_an_answer_without_an_end_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1 << 16)
    endless = said("x" * (1 << 18))
    replies = itertools.chain([endless] * 2, itertools.repeat(said()))
    answer, _, endpoint = on(lambda _: next(replies), lambda e: e.ask(REQUEST), model="big")
    assert answer.text == "hi" and endpoint.stats.again == {"endless": 2}


@pytest.mark.parametrize("listed", [[{"id": "\ud800"}], [{"id": "a", "meta": [1]}, 1], [["id"]], ["id"], [{}]])
def test_lists_of_models_that_are_none(listed: list[Any]) -> None:
    with pytest.raises(EngineError, match="no list of models"):
        on(lambda _: said(), lambda e: e.served(), listed)


def test_an_address_without_a_version(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A 404 says that it may lack one; with the address mended, a plan and an attempt say what is another than before,
    in words."""
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text('{"instruction": "Say hello.", "response": "Hello."}\n')

    def plan(url: str) -> Run:
        words = [f"committee.{seat}.model=qwen3-4b" for seat in ("ben", "dee")]
        words += [f"models.qwen3-4b.endpoint.{key}" for key in (f"url={url}", "model=big")]
        return planning.make(tmp_path / "run", presets.compose("laptop", [f"seeds.path={seeds}", *words]))

    async def act(e: Endpoint) -> str:
        url = e.config.url.rstrip("/")
        bare = Endpoint("m", ModelConfig(endpoint=replace(e.config, url=url.removesuffix("/v1"), model="big")))
        try:
            with pytest.raises(EngineError, match="HTTP 404") as refusal:
                await bare.ask(REQUEST)
        finally:
            await bare.close()
        assert refusal.value.then.startswith(f"the address lacks /v1? models.m.endpoint.url={url};")
        made = await asyncio.to_thread(plan, url.removesuffix("/v1"))
        assert f"taken at its word -> the address lacks /v1? models.qwen3-4b.endpoint.url={url}" in caplog.text
        with pytest.raises(FingerprintError, match=r"models\.qwen3-4b: says what big is") as other:
            await asyncio.to_thread(plan, url)
        assert f"another address of its server: planned {url.removesuffix('/v1')}, now {url}" in other.value.what
        mended = ModelConfig(endpoint=replace(e.config, url=url, model="big"))
        with pytest.raises(EngineError, match="taken at its word when the run was planned") as resumed:
            async with verified_endpoint("qwen3-4b", mended, made.plan):
                pass
        return resumed.value.then

    then, *_ = on(lambda _: said(), act, [{"id": "big", "root": "/models/big"}])
    assert "gra plan RUN-2" in then and "models.qwen3-4b.endpoint.url=http://" in then


@pytest.mark.parametrize(("url", "better"), [("http://h", "http://h/v1"), ("http://h/api/", "http://h/api/v1")])
def test_versions_of_addresses(url: str, better: str) -> None:
    assert versioned(url) == better
    assert versioned(better) == versioned(f"{url}/openai/v1beta") == versioned("http://h/v4/") == ""


def test_the_plan_says_who_answers_and_how(tmp_path: Path) -> None:
    """Address, name, bounds, and where the key is kept, never the key; no time, since it is not known."""
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text('{"instruction": "Say hello.", "response": "Hello."}\n')
    config = presets.compose("laptop", [f"seeds.path={seeds}", "engine.kind=simulated"])
    made = planning.make(tmp_path / "run", config)
    told = "\n".join(preview(made, None))
    assert "hosted elsewhere as qwen3:4b; at most 2 calls at once from each job; key: none" in told
    assert "thinks, as its server does it" in told and "parser" not in told
    assert made.plan.models["qwen3-4b"].directory == "http://127.0.0.1:11434/v1"


@pytest.mark.parametrize("escaped", ["a\\/b+c", "\\u0061/b+c", "a/b+c"])
def test_a_key_is_masked_however_json_writes_it(escaped: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMPUS", "a/b+c")
    held = Key("m", EndpointConfig(key_env="CAMPUS"))
    monkeypatch.setenv("CAMPUS", "renewed")
    assert held.read()
    for key in (escaped, "renewed"):
        shown = held.without(f'{{"error": {{"message": "{key} is wrong"}}}}'.encode())
        assert words(shown) == "[key] is wrong"


def test_where_a_server_sends_to_is_named_without_what_the_address_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _elsewhere({"Location": "https://me:pass@login.example/x?token=secret"}) == "https://login.example"
    assert _elsewhere({"Location": "/x?token=secret"}) == _elsewhere({}) == "another address"
