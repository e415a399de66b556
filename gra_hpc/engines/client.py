"""A lean client of one engine: the OpenAI-compatible HTTP protocol over a Unix socket.

Only what the method needs: chat completions (not streamed), health, metrics, sleep. Everything that is not an answer is
an exception for `node.Node`, which decides what becomes of the call.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from gra_hpc.flows.calls import Answer, Request
from gra_hpc.flows.choices import LISTED, scores, written
from gra_hpc.thoughts import apart

if TYPE_CHECKING:
    import aiohttp


class EngineGone(Exception):
    """The engine closed the connection, or cannot be reached: it is dead, or dying."""


class EngineTrouble(Exception):
    """The engine answered with an internal error: it may be dying, or the call may be at fault."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a server says about its load (vLLM's metric names)."""

    running: int
    """Calls being computed."""
    waiting: int
    """Calls in the server's own queue."""
    kv_use: float
    """Share of the KV cache in use, 0 to 1."""
    tokens: int
    """Tokens computed since the start, prompts and answers: grows while the engine lives. -1: it does not say."""


_METRIC = re.compile(
    rb"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc|gpu_cache_usage_perc"
    rb"|prompt_tokens_total|generation_tokens_total)(?:\{[^}]*\})? ([0-9.eE+-]+)$",
    re.MULTILINE,
)


def parse_metrics(text: bytes) -> Metrics:
    """The few of vLLM's Prometheus metrics that we use; several engine cores are summed."""
    sums: dict[bytes, float] = {}
    for name, value in _METRIC.findall(text):
        sums[name] = sums.get(name, 0.0) + float(value)
    return Metrics(
        running=int(sums.get(b"num_requests_running", 0)),
        waiting=int(sums.get(b"num_requests_waiting", 0)),
        kv_use=sums.get(b"kv_cache_usage_perc", sums.get(b"gpu_cache_usage_perc", 0.0)),
        tokens=int(sums.get(b"prompt_tokens_total", 0) + sums.get(b"generation_tokens_total", 0))
        if sums.keys() & {b"prompt_tokens_total", b"generation_tokens_total"}
        else -1,
    )


def body(
    model: str, request: Request, messages: tuple[dict[str, str], ...], max_tokens: int, budget: bool = True
) -> bytes:
    """The JSON body of a chat completion.

    Args:
        budget: the server takes a budget for thoughts.
    """
    s = request.sampling
    fields: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "temperature": s.temperature,
        "top_p": s.top_p,
        "max_tokens": min(s.max_tokens + s.thinking_tokens, max_tokens),
        "seed": s.seed,
    }
    if s.repetition_penalty != 1.0:
        fields["repetition_penalty"] = s.repetition_penalty
    if s.top_k:
        fields["top_k"] = s.top_k
    if s.stop:
        fields["stop"] = s.stop
    if request.schema is not None:
        fields["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": request.schema, "strict": True},
        }
    if request.choices:
        fields["structured_outputs"] = {"choice": request.choices}
        fields |= {"logprobs": True, "top_logprobs": LISTED}
    thinking = request.thinking
    if thinking is not None and thinking.switches:
        fields["chat_template_kwargs"] = thinking.switches
        if (effort := thinking.switches.get("reasoning_effort")) in ("low", "medium", "high"):
            fields["reasoning_effort"] = effort  # vLLM asks gpt-oss without its template
    if thinking is not None and thinking.on and thinking.parser and budget:
        fields["thinking_token_budget"] = s.thinking_tokens
    return orjson.dumps(fields)


def told_apart(request: Request, text: str, thoughts: str, finish: str) -> tuple[str, str, str]:
    """Answer, thoughts and finish reason of what a server gave: where it left thoughts in the text, they are taken out.

    Args:
        thoughts: what it gave apart.
    """
    thinking = request.thinking
    if thinking is None or not thinking.on:
        return text, "", finish
    if thoughts:
        return (text, thoughts, finish) if text.strip() else ("", thoughts, "thoughts")
    found = apart(text, thinking.opened and not thinking.parser and request.schema is None)
    return (found.answer, found.thoughts, finish) if found.ended else ("", found.thoughts, "thoughts")


def completion(request: Request, data: bytes, seconds: float) -> Answer:
    """The answer in a server's chat completion.

    Raises:
        EngineTrouble: it is none, or was broken off.
    """
    try:
        reply = decoded(data)
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        message = choice["message"]
        finish, text = choice["finish_reason"], message["content"] or ""
        thoughts = message.get("reasoning") or message.get("reasoning_content") or ""
        tokens = _counted(usage.get("prompt_tokens")), _counted(usage.get("completion_tokens"))
        if not isinstance(text, str) or not isinstance(thoughts, str):
            raise TypeError("its text is no text")
    except (ValueError, LookupError, TypeError, AttributeError) as e:
        raise EngineTrouble(f"not a chat completion ({type(e).__name__}: {e}): {words(data)}") from None
    if finish == "repetition":  # vLLM cut a loop short: as useless as one that ran to the end
        finish = "length"
    if finish in ("stop", "length"):
        text, thoughts, finish = told_apart(request, text, thoughts, finish)
        if request.choices:
            thinks = bool(request.thinking and request.thinking.on)  # its first tokens are thoughts
            text = written(text.strip(), scores([] if thinks else _listed(choice), request.choices))
        return Answer(text, finish, *tokens, seconds, thoughts)
    raise EngineTrouble(f"answer broken off: finish_reason={finish}")


def _listed(choice: Any) -> Iterator[tuple[str, float]]:
    """The likeliest tokens at the answer's first place, with log-probabilities; none where a server tells none."""
    try:
        for entry in choice["logprobs"]["content"][0]["top_logprobs"]:
            yield str(entry["token"]), float(entry["logprob"])
    except (LookupError, TypeError, ValueError):
        return


def _counted(value: Any) -> int:
    """A number of tokens, for the books alone: 0 where a server says none that could be written down."""
    return int(value) if isinstance(value, (int, float)) and 0 <= value < 1 << 31 else 0


def answer_share(answer: Answer) -> int:
    """Tokens of an answer without its thoughts, by its share of the characters."""
    text, thoughts = len(answer.text), len(answer.thoughts)
    return answer.completion_tokens * text // max(1, text + thoughts)


def decoded(data: bytes) -> Any:
    """A server's JSON. Halves of surrogate pairs, which orjson refuses, are let through: that answer alone is bad.

    Raises:
        ValueError: no JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as e:
        try:
            return json.loads(data)
        except RecursionError:
            raise e from None


class Client:
    """Connections to one engine.

    Args:
        socket: path of the engine's Unix socket.
        model: name the engine serves the model under.
        max_tokens: longest answer the engine accepts to be asked for (its context length).
    """

    def __init__(self, socket: str, model: str, max_tokens: int) -> None:
        self._socket, self._model, self._max_tokens = socket, model, max_tokens
        self._session: aiohttp.ClientSession | None = None
        self._budget = True
        """The server has not refused a budget for thoughts."""

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None:
            # The server keeps idle connections for an hour (VLLM_HTTP_TIMEOUT_KEEP_ALIVE); we drop them long before,
            # so that no call is written into a connection that is being closed.
            connector = aiohttp.UnixConnector(path=self._socket, limit=0, keepalive_timeout=600)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Content-Type": "application/json"},
                auto_decompress=False,
                skip_auto_headers=("Accept-Encoding", "User-Agent"),
            )
        return self._session

    async def close(self) -> None:
        """Drop all connections; calls in flight end with `EngineGone`."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _fetch(self, method: str, path: str, data: bytes | None = None, timeout: float = 0) -> tuple[int, bytes]:
        import aiohttp

        limit = asyncio.timeout(timeout) if timeout else contextlib.nullcontext()  # calls have none
        try:
            async with limit, self._open().request(method, f"http://engine{path}", data=data) as response:
                return response.status, await response.read()
        except TimeoutError:
            raise EngineGone(f"no answer to {path} within {timeout:g} s") from None
        except (aiohttp.ClientError, OSError, RuntimeError) as e:  # RuntimeError: the session was closed under us
            raise EngineGone(f"{type(e).__name__}: {e}") from None

    async def chat(self, request: Request, messages: tuple[dict[str, str], ...]) -> Answer:
        """Answer one request.

        Raises:
            EngineGone: the connection was lost.
            EngineTrouble: the server failed (HTTP 5xx), or broke off the answer.
        """
        start = time.perf_counter()
        sent = body(self._model, request, messages, self._max_tokens, self._budget)
        status, data = await self._fetch("POST", "/v1/chat/completions", sent)
        if status == 400 and b"thinking_token_budget" in sent and b"thinking_token_budget" in data:
            self._budget = (
                False  # this version, or this parser, has none: max_tokens bounds thoughts and answer together
            )
            sent = body(self._model, request, messages, self._max_tokens, self._budget)
            status, data = await self._fetch("POST", "/v1/chat/completions", sent)
        seconds = time.perf_counter() - start
        if status == 200:
            answer = completion(request, data, seconds)
            thought = answer.finish == "stop" and answer.thoughts
            if thought and await self._too_long(request, answer, decoded(data).get("usage") or {}):
                return replace(answer, finish="length")
            return answer
        if status in (503, 529):
            raise EngineGone(f"HTTP {status}: {words(data)}")
        if status >= 500 or status == 429:
            raise EngineTrouble(f"HTTP {status}: {words(data)}")
        return Answer(words(data), "error", 0, 0, seconds)

    async def _too_long(self, request: Request, answer: Answer, usage: dict[str, Any]) -> bool:
        """Whether an answer alone, without its thoughts, is longer than it may be: the server bounds both together, and
        what the thoughts leave of their budget goes to the answer. Asks the server to count where it may be so.

        Raises:
            EngineGone: the connection was lost.
        """
        longest, both = request.sampling.max_tokens, answer.completion_tokens
        counted = usage.get("completion_tokens_details")
        thought = counted.get("reasoning_tokens") if isinstance(counted, dict) else 0
        if both - (thought if isinstance(thought, int) else 0) <= longest:
            return False
        sent = {"model": self._model, "prompt": answer.text, "add_special_tokens": False}
        status, data = await self._fetch("POST", "/tokenize", orjson.dumps(sent))
        try:
            tokens = int(decoded(data)["count"]) if status == 200 else None
        except (ValueError, LookupError, TypeError):
            tokens = None
        if tokens is None:  # a server that does not count: by its share of the characters
            tokens = answer_share(answer)
        return tokens > longest

    async def embed(self, _: Request, messages: tuple[dict[str, str], ...]) -> Answer:
        """The vector of one text, of a server that embeds; the answer's text is its float16 values in base64.

        Raises:
            EngineGone, EngineTrouble: as `chat`.
        """
        import numpy as np

        start = time.perf_counter()
        fields = {"model": self._model, "input": messages[-1]["content"], "truncate_prompt_tokens": -1}
        status, data = await self._fetch("POST", "/v1/embeddings", orjson.dumps(fields))
        seconds = time.perf_counter() - start
        if status == 200:
            try:
                reply = decoded(data)
                vector = np.array(reply["data"][0]["embedding"], np.float32)
                tokens = _counted(reply["usage"]["prompt_tokens"])
            except (ValueError, LookupError, TypeError) as e:
                raise EngineTrouble(f"not an embedding ({type(e).__name__}: {e}): {words(data)}") from None
            length = float(np.linalg.norm(vector))
            if not np.isfinite(length) or not length:
                raise EngineTrouble("the embedding model gives vectors that are not finite, or zero")
            return Answer(encode_vector(vector / length), "stop", tokens, 0, seconds)
        if status in (503, 529):
            raise EngineGone(f"HTTP {status}: {words(data)}")
        if status >= 500 or status == 429:
            raise EngineTrouble(f"HTTP {status}: {words(data)}")
        return Answer(words(data), "error", 0, 0, seconds)

    async def health(self, timeout: float = 5.0) -> int:
        """HTTP status of the health check: 200; 503 when the engine behind the server is dead; 0 without an answer."""
        try:
            return (await self._fetch("GET", "/health", timeout=timeout))[0]
        except EngineGone:
            return 0

    async def metrics(self, timeout: float = 5.0) -> Metrics:
        """The engine's load.

        Raises:
            EngineGone: when it does not answer.
        """
        return parse_metrics((await self._fetch("GET", "/metrics", timeout=timeout))[1])

    async def sleep(self, timeout: float = 300.0) -> None:
        """Move the weights to host memory and drop the KV cache (vLLM's sleep mode, level 1).

        Not run on a GPU by this project's tests: they check the calls against the documented endpoints.

        Raises:
            EngineGone, EngineTrouble: when the engine does not do it.
        """
        await self._command("/sleep?level=1", timeout)

    async def wake(self, timeout: float = 300.0) -> None:
        """Undo `sleep`. Not run on a GPU either."""
        await self._command("/wake_up", timeout)

    async def _command(self, path: str, timeout: float) -> None:
        status, data = await self._fetch("POST", path, b"", timeout)
        if status != 200:
            raise EngineTrouble(f"{path}: HTTP {status}: {words(data)}")


def encode_vector(vector: Any) -> str:
    """A vector as text: its float16 values, little endian, in base64."""
    return b64encode(vector.astype("<f2").tobytes()).decode()


def words(data: bytes) -> str:
    """The server's own words about an error, in one line of at most 500 characters."""
    try:
        reply = orjson.loads(data)
        error = reply.get("error", reply)
        text = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        text = data.decode("utf-8", "replace")
    return " ".join(str(text).split())[:500]
