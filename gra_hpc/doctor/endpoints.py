"""Checks of endpoints, from where they will be asked: reached, the key taken, the model served, one call answered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from urllib.parse import urlsplit

from gra_hpc.config.settings import ModelConfig, Thinks
from gra_hpc.doctor.finding import Finding, failure, ok, warning
from gra_hpc.engines.endpoint import Endpoint, Served
from gra_hpc.errors import GraError
from gra_hpc.flows.calls import Answer, Request, Sampling

PATIENCE_S = 60
"""Longest wait for an answer: of a server that has too much to do, a run waits longer."""
_SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
_QUESTION = ({"role": "user", "content": 'What colour is a clear sky? Answer as JSON: {"colour": "..."}'},)
_NEAR = ("localhost", "127.0.0.1", "::1")


def answers(name: str, model: ModelConfig) -> Iterable[Finding]:
    """Ask an endpoint what it serves, and one short question."""
    then = f"look at the server, models.{name}.endpoint and its key"
    try:
        served, answer, left_out = asyncio.run(_asked(name, model))
    except GraError as e:
        yield failure(e.what, e.then)
        return
    where = f"endpoint {name}: {model.endpoint.url}"
    if answer.finish == "error":
        yield failure(f"{where}: refuses a call: {answer.text}", then)
        return
    yield ok(f"{where} serves {served.name}, answers in {answer.seconds:.1f} s")
    if left_out:
        what = ", ".join("guided JSON" if n in ("json_schema", "response_format") else n for n in left_out)
        yield warning(
            f"{where}: does not take {what}", "fine, answers are parsed as they come; more of them may be asked again"
        )
    if served.length and served.length < model.max_model_len:
        yield warning(
            f"{where}: takes {served.length} tokens, models.{name}.max_model_len={model.max_model_len}",
            f"models.{name}.max_model_len={served.length}",
        )
    if (answer.thoughts or "<think>" in answer.text) and model.thinking is Thinks.auto:
        yield warning(f"{where}: thinks before it answers", f"models.{name}.thinking=on, or off if it has that switch")
    host = urlsplit(model.endpoint.url).hostname or ""
    if model.endpoint.url.startswith("http://") and host not in _NEAR:
        key = " and its key" if model.endpoint.key_env or model.endpoint.key_file else ""
        yield warning(
            f"{where}: without TLS, anybody on the way reads the texts{key}", "https://, or a tunnel (ssh -L)"
        )


async def _asked(name: str, model: ModelConfig) -> tuple[Served, Answer, list[str]]:
    brief = replace(model.endpoint, patience_s=PATIENCE_S, timeout_s=min(model.endpoint.timeout_s, 2 * PATIENCE_S))
    endpoint = Endpoint(name, replace(model, endpoint=brief))
    try:
        served = await endpoint.served()
        request = Request(name, served.identity, _QUESTION, Sampling(0.2, 0.9, 64, 7), _SCHEMA)
        return served, await endpoint.ask(request), endpoint.stats.left_out
    finally:
        await endpoint.close()
