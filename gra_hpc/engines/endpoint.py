"""A model that a server of the user's own answers for: asked over the network, within bounds, again where it fails.

What an OpenAI-compatible server does not take of a call (a JSON schema, a seed, a penalty) is left out from then on:
the answer is parsed as any unguided one. 429, 5xx, dropped connections and silence are met by waiting, longer each
time, or as long as the server says; a call is given up (`error`) where the server answers others but never this one.
Where it answers nothing for `patience_s`, or refuses the key, the attempt ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import logging
import os
import random
import re
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import orjson

from gra_hpc.config.endpoint import versioned
from gra_hpc.config.settings import ModelConfig, SystemRole
from gra_hpc.engines.client import EngineTrouble, answer_share, body, completion, words
from gra_hpc.engines.key import Key
from gra_hpc.engines.pace import Pace
from gra_hpc.errors import EngineError
from gra_hpc.flows.calls import Answer, Request
from gra_hpc.models.files import fold_system
from gra_hpc.records import digest

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger(__name__)

TROUBLES = 6
"""Times that a call may fail while the server answers others; then it is given up."""
MOST_BYTES = 64 << 20
"""Longest body of a server's answer."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 60.0
_NOT_NOW = (408, 409, 425, 429, 502, 503, 504, 520, 522, 524, 529)
"""Statuses that say nothing against a call: the server, or what stands before it, has too much to do."""
_OPTIONAL = (
    "chat_template_kwargs", "thinking_token_budget", "response_format", "repetition_penalty", "seed", "top_k",
    "top_p", "temperature",
)  # fmt: skip
"""Of a call's body, what may be left out where a server does not take it."""
_REFUSED = re.compile(
    r"not support|unsupported|not permitted|not allowed|forbidden|unrecogni[sz]ed|unknown|unexpected|invalid|extra",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Served:
    """What a server says that it serves."""

    name: str
    root: str = ""
    """What the name stands for, where it says so (vLLM: the model's own name or directory)."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Its numbers, where it says them (llama.cpp: of weights, of words, of layers' width)."""
    length: int = 0
    """Context, in tokens. 0: not said."""

    @property
    def identity(self) -> str:
        """What takes the place of a digest of files: nothing else is known of them."""
        return digest("endpoint", self.name, self.root, dict(sorted(self.facts.items())))


@dataclass
class EndpointStats:
    """What was asked of one endpoint, for reports: as of an engine."""

    model: str
    endpoint: str
    calls: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    answer_seconds: float = 0.0
    """Sum over its answers."""
    again: dict[str, int] = field(default_factory=dict)
    """Times that a call was asked again, by the reason."""
    left_out: list[str] = field(default_factory=list)
    """What of a call it does not take."""


class Later(Exception):
    """The call is to be asked again."""

    def __init__(self, why: str, kind: str, wait_s: float = 0.0, busy: bool = False) -> None:
        super().__init__(why)
        self.kind, self.wait_s, self.busy = kind, wait_s, busy


class Endpoint:
    """One model's server.

    Args:
        name: the model's, in the configuration.
        model: its entry, with an endpoint.

    Raises:
        EngineError: its key is not there, or others may read it.
    """

    def __init__(self, name: str, model: ModelConfig) -> None:
        self.name, self.config = name, model.endpoint
        self.key = Key(name, model.endpoint)
        self.pace = Pace(self.config.concurrency, self.config.requests_per_minute)
        self.stats = EndpointStats(name, self.config.url)
        self.given_up = 0
        self._model = model
        self._served = model.endpoint.model
        self._session: aiohttp.ClientSession | None = None
        self._failing_since: float | None = None
        self._told = False

    # ---- what it serves ----------------------------------------------------------------------------------------------

    async def served(self) -> Served:
        """Ask it what it serves, once.

        Raises:
            EngineError: not reached, the key refused, or the model not among what it serves.
        """
        try:
            status, _, data = await self._fetch("GET", "/models")
        except Later as e:
            raise self._error(str(e)) from None
        wanted = self.config.model
        if status in (404, 405, 501) and wanted:
            lacks = f" -> {self._lacks_version(status)}" if self._lacks_version(status) else ""
            log.warning("%s does not list what it serves; %s is taken at its word%s", self._where, wanted, lacks)
            return Served(wanted)
        if status != 200:
            raise self._error(f"HTTP {status}: {words(data)}", status)
        try:
            listed = {str(m["id"]): m for m in orjson.loads(data)["data"]}
        except (ValueError, LookupError, TypeError) as e:
            raise self._error(f"no list of models ({type(e).__name__}: {e})") from None
        names = ", ".join(list(listed)[:10]) or "nothing"
        if not wanted and len(listed) != 1:
            raise EngineError(f"{self._where} serves {names}", f"models.{self.name}.endpoint.model=one of them")
        name = wanted or next(iter(listed))
        if name not in listed:
            raise EngineError(
                f"{self._where} does not serve {name}, but {names}", f"models.{self.name}.endpoint.model=one of them"
            )
        entry = listed[name]
        meta, length = entry.get("meta"), entry.get("max_model_len") or entry.get("context_length")
        facts = {k: v for k, v in meta.items() if isinstance(v, (int, str))} if isinstance(meta, dict) else {}
        facts.pop("n_ctx", None)  # of the server, not of the model
        self._served = name
        return Served(name, str(entry.get("root") or ""), facts, max(0, length) if isinstance(length, int) else 0)

    # ---- calls -------------------------------------------------------------------------------------------------------

    async def ask(self, request: Request) -> Answer:
        """Answer a request, however often it has to be asked.

        Raises:
            EngineError: it answers nothing for too long, or never will.
            Draining: it drains, and this call is not in flight.
        """
        messages = fold_system(request.messages) if self._model.system_role is SystemRole.no else request.messages
        tries = troubles = 0
        answered_before = self.stats.calls
        while True:
            await self.pace.enter(again=tries > 0)
            try:
                answer = await self._once(request, messages)
            except Later as e:
                later = e
            else:
                return self._count(answer)
            finally:
                self.pace.leave()
            tries += 1
            troubles += not later.busy
            self.stats.again[later.kind] = self.stats.again.get(later.kind, 0) + 1
            if troubles >= TROUBLES and self.stats.calls > answered_before:
                self.given_up += 1
                return self._count(Answer(f"{self._where}: {later}", "error", 0, 0, 0.0))
            await self._wait(later, tries)

    async def _once(self, request: Request, messages: tuple[dict[str, str], ...]) -> Answer:
        """One try.

        Raises:
            Later: it is to be asked again.
            EngineError: nothing is gained by that.
        """
        fields = self._fields(request, messages)
        began = time.perf_counter()
        status, headers, data = await self._fetch("POST", "/chat/completions", orjson.dumps(fields))
        seconds = time.perf_counter() - began
        if status == 200:
            try:
                answer = completion(request, data, seconds)
            except EngineTrouble as e:
                if "content_filter" in str(e):
                    return Answer(str(e), "error", 0, 0, seconds)
                raise Later(str(e), "no answer") from None
            if answer.finish == "stop" and answer.thoughts and answer_share(answer) > request.sampling.max_tokens:
                answer = replace(answer, finish="length")  # both were bounded together
            if request.thinking is None and not self._told and b'"reasoning' in data and _thought(data):
                self._told = True
                log.warning(
                    "%s thinks first: models.%s.thinking=on keeps thoughts and gives them room", self._where, self.name
                )
            return answer
        said = words(data)
        if status in (400, 422) and self._leave_out(fields, data):
            raise Later(said, "left out", wait_s=-1, busy=True)
        if status in (401, 402, 404) or (status == 403 and not self.stats.calls):
            if status == 401 and self.key.read():  # it was renewed
                raise Later(said, "key renewed", busy=True)
            raise self._error(f"HTTP {status}: {said}", status)
        if 300 <= status < 400:
            raise self._error(f"HTTP {status}: moved to {_elsewhere(headers)}")
        if status == 429 and "insufficient_quota" in data.decode("utf-8", "replace"):
            raise self._error(f"HTTP 429: {said}")
        if status in _NOT_NOW:
            raise Later(f"HTTP {status}: {said}", f"HTTP {status}", retry_after(headers), busy=True)
        if status >= 500:
            raise Later(f"HTTP {status}: {said}", f"HTTP {status}", retry_after(headers))
        return Answer(said, "error", 0, 0, seconds)

    def _fields(self, request: Request, messages: tuple[dict[str, str], ...]) -> dict[str, Any]:
        """A call's body as this server takes it."""
        sent = body(self._served, request, messages, self._model.max_model_len, budget=False)
        fields: dict[str, Any] = orjson.loads(sent)
        out = self.stats.left_out
        for name in out:
            if name == "json_schema":
                if "response_format" in fields:
                    fields["response_format"] = {"type": "json_object"}
            elif name == "max_tokens":
                fields["max_completion_tokens"] = fields.pop("max_tokens")
        for name in out:
            fields.pop(name, None)
        return fields

    def _leave_out(self, fields: Mapping[str, Any], data: bytes) -> bool:
        """Whether a refusal names a part of the call that it can do without; it is left out from now on.

        A call that was on its way when another one learnt this is simply asked again.
        """
        said = data.decode("utf-8", "replace")[:4000]
        if "max_completion_tokens" in said and "max_tokens" in fields and re.search(r"instead|not support", said):
            return self._without("max_tokens", said)
        if not _REFUSED.search(said):
            return False
        named = next((n for n in _OPTIONAL if n in fields and re.search(rf"\b{n}\b", said)), "")
        if not named and "response_format" in fields and re.search(r"json_schema|json schema|grammar|guided", said):
            named = "response_format"
        if named == "response_format" and fields["response_format"]["type"] == "json_schema":
            named = "json_schema"
        return bool(named) and self._without(named, said)

    def _without(self, name: str, said: str) -> bool:
        if name not in self.stats.left_out:
            self.stats.left_out.append(name)
            log.warning("%s does not take %s, which is left out from now on: %s", self._where, name, said[:200])
        return True

    def _count(self, answer: Answer) -> Answer:
        stats = self.stats
        stats.errors += answer.finish == "error"
        stats.calls += 1
        stats.prompt_tokens += answer.prompt_tokens
        stats.completion_tokens += answer.completion_tokens
        stats.answer_seconds += answer.seconds
        self._failing_since = None
        self.pace.answered()
        return answer

    async def _wait(self, later: Later, tries: int) -> None:
        """Wait until a call may be asked again.

        Raises:
            EngineError: the server's time is up.
            Draining: it will not be asked.
        """
        if later.wait_s < 0:  # what was wrong is known, and mended
            return
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        patience = self.config.patience_s
        if now - self._failing_since > patience:
            raise self._error(f"no answer for {patience} s, the last time: {later}")
        if later.wait_s > max(patience, 60):
            raise self._error(f"asks to wait for {later.wait_s:.0f} s: {later}")
        pause = later.wait_s or min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(tries - 1, 20)) * random.uniform(
            0.5, 1.0
        )
        log.debug("%s: %s; asked again in %.1f s", self._where, later, pause)
        if later.busy:
            self.pace.too_much(pause)
        else:
            await self.pace.sleep(pause)

    # ---- the wire ----------------------------------------------------------------------------------------------------

    async def _fetch(self, method: str, path: str, data: bytes | None = None) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of one request; the body without the key, should the server repeat it.

        Raises:
            Later: no whole answer came.
        """
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
                timeout=aiohttp.ClientTimeout(total=self.config.timeout_s, sock_connect=30),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        try:
            async with self._session.request(
                method,
                f"{self.config.url.rstrip('/')}{path}",
                data=data,
                headers={"Content-Type": "application/json", **self.key.headers},
                proxy=self.config.proxy or None,
                allow_redirects=False,  # the key is for this server alone
            ) as response:
                return response.status, response.headers, self.key.without(await _whole(response))
        except TimeoutError:
            raise Later(f"no answer within {self.config.timeout_s} s", "timeout") from None
        except (aiohttp.ClientError, OSError, RuntimeError) as e:
            raise Later(self.key.without(_said(e).encode()).decode(), "connection lost") from None

    async def close(self) -> None:
        """Drop its connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def report(self) -> dict[str, Any]:
        """Its statistics, JSON-able, with what reports ask of an engine: it holds nothing of ours."""
        held = {"gpus": 0, "busy_seconds": 0.0, "starts": 0, "start_seconds": 0.0, "restarts": 0}
        return asdict(self.stats) | {"answer_seconds": round(self.stats.answer_seconds, 3)} | held

    @property
    def _where(self) -> str:
        return f"endpoint {self.name} ({self.config.url})"

    def _lacks_version(self, status: int) -> str:
        """What may mend a 404: its address says no version."""
        better = versioned(self.config.url) if status == 404 else ""
        return better and f"the address lacks /v1? models.{self.name}.endpoint.url={better}"

    def _error(self, why: str, status: int = 0) -> EngineError:
        look = f"look at the server, models.{self.name}.endpoint and its key"
        return EngineError(
            f"{self._where}: {why}",
            f"{self._lacks_version(status) or look}; gra doctor asks it once, gra resume goes on",
        )


def _said(error: Exception) -> str:
    """Why no answer came, in words: Python's names of errors say nothing to whoever looks at a server."""
    cause = getattr(error, "os_error", error)  # of a connection that was never there
    if isinstance(cause, OSError) and cause.errno:
        return (os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)).lower()
    return str(error).lower() or "the connection was lost"


def _elsewhere(headers: Mapping[str, str]) -> str:
    """Where an answer leads, without what an address may hold beside the server's name."""
    found = urllib.parse.urlsplit(headers.get("Location", ""))
    return f"{found.scheme}://{found.hostname}" if found.hostname else "another address"


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    """A body, if it ends.

    Raises:
        Later: it is longer than any answer.
    """
    parts, size = [], 0
    async for part in response.content.iter_chunked(1 << 16):
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            raise Later(f"an answer of more than {MOST_BYTES >> 20} MiB", "endless")
    return b"".join(parts)


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait; 0: it does not say."""
    said = headers.get("Retry-After", "").strip()
    with contextlib.suppress(ValueError):
        return min(86_400.0, max(0.0, float(said)))
    with contextlib.suppress(ValueError, TypeError, OverflowError, OSError):
        return min(86_400.0, max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time()))
    return 0.0


def _thought(data: bytes) -> bool:
    try:
        message = json.loads(data)["choices"][0]["message"]
    except (ValueError, LookupError, TypeError):
        return False
    return bool(message.get("reasoning") or message.get("reasoning_content"))


async def asked_once(name: str, model: ModelConfig) -> Served:
    """What an endpoint says that it serves.

    Raises:
        EngineError: as `Endpoint.served`.
    """
    endpoint = Endpoint(name, model)
    try:
        return await endpoint.served()
    finally:
        await endpoint.close()


def what_it_serves(name: str, model: ModelConfig) -> Served:
    """The same, where no event loop runs."""
    return asyncio.run(asked_once(name, model))
