"""The simulated engine: made-up answers, for planning, for tests of scale, and wherever no model may run.

An answer is a pure function of the request (model name, messages, sampling with its seed, schema): the same on every
machine, in any order, however often asked. Texts are sentences drawn from small tables, JSON follows the given schema,
and scores vary so that some samples are accepted, some rejected and some adjudicated. Nothing in them means anything.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from gra_hpc.engines.planted import Planted
from gra_hpc.flows.calls import Answer, Request
from gra_hpc.flows.choices import written
from gra_hpc.models.thinking import Thinking
from gra_hpc.thoughts import apart

_ADJECTIVES = (
    "coastal", "early", "quiet", "modular", "rural", "binary", "seasonal", "linear", "urban", "historic", "portable",
    "circular", "hidden", "recursive", "northern", "simple", "woven", "acoustic", "thermal", "medieval", "public",
    "elastic", "double", "tropical", "nocturnal", "alpine", "sparse", "tidal", "formal", "ceramic", "magnetic", "solar",
)  # fmt: skip
_NOUNS = (
    "bridges", "gardens", "queues", "rivers", "letters", "engines", "markets", "matrices", "recipes", "glaciers",
    "festivals", "parsers", "lanterns", "budgets", "triangles", "sonnets", "orchards", "sensors", "maps", "violins",
    "harbours", "ledgers", "clocks", "vaccines", "comets", "fables", "pipelines", "tunnels", "proverbs", "turbines",
    "archives", "puzzles", "migrations", "contracts", "mosaics", "batteries", "choirs", "dunes", "kernels", "canals",
    "tapestries", "alphabets", "telescopes", "reefs", "ballads", "railways", "fractions", "theatres", "compilers",
    "volcanoes", "passports", "beehives", "graphs", "wetlands", "statues", "elections", "polymers", "riddles",
    "bakeries", "satellites", "dialects", "quilts", "windmills", "calendars",
)  # fmt: skip
_VERBS = (
    "Explain", "Compare", "Plan", "Measure", "Describe", "Repair", "Summarise", "Design", "Estimate", "Translate",
    "Classify", "Prove", "Sketch", "Debug", "Arrange", "Imagine",
)  # fmt: skip
_FRAMES = (
    ("how", "change when they meet"),
    ("the way in which", "depend on"),
    ("what", "have in common with"),
    ("three steps that lead from", "to"),
    ("why", "are kept apart from"),
    ("an example in which", "replace"),
    ("which", "a beginner should know before"),
    ("the cost of", "in the presence of"),
)
_QUALITY = (10, 10, 10, 10, 10, 10, 10, 9, 9, 9, 8, 7, 6, 6, 6, 4)
"""What an answer's scores from 1 to 10 lie around: about half of all means over three Reviewers reach 8."""


class _Draw:
    """Numbers that follow from a key, a byte each."""

    def __init__(self, key: bytes) -> None:
        self._key, self._block, self._left = key, 0, iter(key)

    def byte(self) -> int:
        """An integer from 0 to 255."""
        for value in self._left:
            return value
        self._block += 1
        self._left = iter(hashlib.blake2b(self._key, digest_size=64, salt=self._block.to_bytes(8, "big")).digest())
        return self.byte()

    def sentence(self) -> str:
        byte = self.byte
        first, second = _FRAMES[byte() % 8]
        left = f"{_ADJECTIVES[byte() % 32]} {_NOUNS[byte() % 64]}"
        return f"{_VERBS[byte() % 16]} {first} {left} {second} {_ADJECTIVES[byte() % 32]} {_NOUNS[byte() % 64]}."

    def keyword(self) -> str:
        return f"{_ADJECTIVES[self.byte() % 32]} {_NOUNS[self.byte() % 64]}"


def _free_text(draw: _Draw, request: Request) -> str:
    end = request.messages[-1]["content"][-200:].lower()
    if "keywords" in end and "instruction" not in end:
        found = dict.fromkeys(draw.keyword() for _ in range(8))
        return ", ".join(list(found)[:3])
    if "sentence" in end:
        return draw.sentence()
    return " ".join([draw.sentence() for _ in range(1 + draw.byte() % 5)])


def _chosen(draw: _Draw, choices: Sequence[str]) -> str:
    """One of the choices, and how likely each is: the one chosen is the likeliest."""
    weights = [1 + draw.byte() ** 2 for _ in choices]
    scores = {code: math.log(weight / sum(weights)) for code, weight in zip(choices, weights, strict=True)}
    return written(max(scores, key=lambda code: scores[code]), scores)


_Maker = Callable[[_Draw, int], Any]
"""Makes a value of one part of a schema; the integer is the quality that the answer's scores lie around."""
_compiled: dict[int, tuple[dict[str, Any], _Maker]] = {}


def _maker(schema: dict[str, Any]) -> _Maker:
    """The compiled schema; few schemas are asked for many times, always as the same object."""
    known = _compiled.get(id(schema))
    if known is None or known[0] is not schema:
        if len(_compiled) > 1000:
            _compiled.clear()
        known = _compiled[id(schema)] = schema, _compile(schema, schema)
    return known[1]


def _compile(schema: dict[str, Any], root: dict[str, Any]) -> _Maker:
    """From a JSON schema (the keywords that guided decoding knows) to values that it allows."""
    while "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        schema = target
    for key in ("anyOf", "oneOf"):
        if key in schema:
            makers = [_compile(s, root) for s in schema[key]]
            return lambda draw, quality: makers[draw.byte() % len(makers)](draw, quality)
    if "allOf" in schema:
        merged: dict[str, Any] = {}
        for part in schema["allOf"]:
            merged |= part
        return _compile(merged, root)
    if "const" in schema:
        return lambda *_: schema["const"]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0]
    if "enum" in schema:
        return _enumerated(schema["enum"])
    if kind == "object":
        parts = [(name, _compile(s, root)) for name, s in schema.get("properties", {}).items()]
        return lambda draw, quality: {name: make(draw, quality) for name, make in parts}
    if kind == "array":
        least = schema.get("minItems", 1)
        count = min(max(least, 3), schema.get("maxItems", max(least, 3)))
        item = _compile(schema.get("items", {"type": "string", "maxLength": 40}), root)
        return lambda draw, quality: [item(draw, quality) for _ in range(count)]
    if kind in ("integer", "number"):
        return _numeric(schema, kind)
    if kind == "boolean":
        return lambda draw, _: draw.byte() % 2 == 1
    if kind == "null":
        return lambda *_: None
    return _textual(schema.get("minLength", 0), schema.get("maxLength", 200))


def _enumerated(options: list[Any]) -> _Maker:
    if not all(isinstance(o, int) and not isinstance(o, bool) for o in options):
        return lambda draw, _: options[draw.byte() % len(options)]
    low, high, allowed = min(options), max(options), set(options)
    if len(allowed) == high - low + 1:
        return lambda draw, quality: _score(draw, low, high, quality)

    def nearest(draw: _Draw, quality: int) -> int:
        wanted = _score(draw, low, high, quality)
        return min(allowed, key=lambda o: (abs(o - wanted), o))

    return nearest


def _numeric(schema: dict[str, Any], kind: str) -> _Maker:
    low = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
    high = schema.get("maximum", schema.get("exclusiveMaximum", low + 11) - 1)
    if kind == "integer":
        return lambda draw, quality: _score(draw, math.ceil(low), math.floor(high), quality)
    return lambda draw, _: low + (high - low) * draw.byte() / 255


def _textual(shortest: int, longest: int) -> _Maker:
    def make(draw: _Draw, _: int) -> str:
        text = draw.keyword() if longest <= 40 else draw.sentence()
        while len(text) < shortest:
            text += " " + draw.sentence()
        cut = text[:longest].rstrip()
        return cut if len(cut) >= shortest else text[:longest]

    return make


def _score(draw: _Draw, low: int, high: int, quality: int) -> int:
    """Scores of one answer agree more or less with each other; a yes-or-no is nearly always yes."""
    if high - low == 1:
        return low if draw.byte() < 5 else high
    middle = low + round((quality - 1) / 9 * (high - low))
    return min(high, max(low, middle + (-1, 0, 0, 0, 1)[draw.byte() % 5]))


def simulate(request: Request, failures: float = 0.0) -> Answer:
    """The answer to a request: deterministic, instantaneous.

    Args:
        failures: share of answers that are cut off (finish `length`), chosen by the request.
    """
    s = request.sampling
    sampling = (s.temperature, s.top_p, s.max_tokens, s.seed, s.repetition_penalty)
    asked = tuple(what for what in (request.choices, s.top_k, s.stop) if what)
    payload = orjson.dumps((request.model, request.messages, sampling, request.schema, *asked))
    draw = _Draw(hashlib.blake2b(payload, digest_size=64).digest())
    cut = draw.byte() + 256 * draw.byte() < failures * 65536
    quality = _QUALITY[draw.byte() % 16]
    if request.choices:
        text = _chosen(draw, request.choices)
    elif request.schema is None:
        text = _free_text(draw, request)
        text = text[: min((at for word in s.stop if (at := text.find(word)) >= 0), default=len(text))]
    else:
        text = orjson.dumps(_maker(request.schema)(draw, quality)).decode()
    thinking = request.thinking
    if thinking and thinking.on:
        text = _thought_out(thinking, " ".join(draw.sentence() for _ in range(1 + draw.byte() % 3)), text)
    if cut:
        text = text[: len(text) // 2]
    prompt = sum(len(m["content"]) for m in request.messages) // 4 + 8
    tokens, finish = max(1, len(text) // 4), "length" if cut else "stop"
    if thinking and thinking.on:
        found = apart(text, thinking.opened)
        if len(found.answer) // 4 > s.max_tokens:
            finish = "length"
        return Answer(found.answer, finish if found.ended else "thoughts", prompt, tokens, 0.0, found.thoughts)
    return Answer(text, finish, prompt, tokens, 0.0)


def _thought_out(thinking: Thinking, thoughts: str, answer: str) -> str:
    """Thoughts and answer in one text, as the model's family writes them."""
    opening = thinking.opening
    if opening.startswith("<|channel|>"):
        opening = "<|channel|>analysis<|message|>"
        closing = "<|end|><|start|>assistant<|channel|>final<|message|>"
    else:
        closing = opening.replace("begin_of", "end_of").replace("START_", "END_")
        closing = closing if closing != opening else f"{opening[0]}/{opening[1:]}"
    return f"{'' if thinking.opened else opening}\n{thoughts}\n{closing}\n\n{answer}"


class SimulatedEngine:
    """An engine in this process that makes answers up.

    Args:
        latency_s: seconds every call takes, however many are in flight.
        failures: share of answers that are cut off.
        planted: puts right and wrong answers in; none: nobody knows anything.
    """

    def __init__(self, latency_s: float = 0.0, failures: float = 0.0, planted: Planted | None = None) -> None:
        self.latency_s, self.failures, self.planted = latency_s, failures, planted
        self._stats: dict[str, dict[str, Any]] = {}

    async def ask(self, request: Request) -> Answer:
        """Answer a request (`flows.calls.Engine`)."""
        await asyncio.sleep(self.latency_s)
        answer = simulate(request, self.failures)
        if self.planted:
            answer = self.planted.answered(request, answer)
        stats = self._stats.get(request.model)
        if stats is None:
            stats = self._stats[request.model] = {
                "model": request.model, "replica": 0, "calls": 0, "errors": 0, "prompt_tokens": 0,
                "completion_tokens": 0, "simulated": True,
            }  # fmt: skip
        stats["calls"] += 1
        stats["prompt_tokens"] += answer.prompt_tokens
        stats["completion_tokens"] += answer.completion_tokens
        return answer

    def drain(self) -> None:
        """Nothing waits: every call is in flight at once."""

    def stats(self) -> dict[str, Any]:
        """What was answered so far, as `node.Node.stats` says it."""
        return {
            "engines": {f"{model}-simulated": dict(s) for model, s in self._stats.items()},
            "rotation": {"swaps": 0, "lost_seconds": 0.0, "groups": []},
            "given_up": 0,
        }
