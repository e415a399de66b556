"""Engines that share one device: two that generate and one that embeds, asked at once, measured, one of them killed."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from gra_hpc.config.settings import ModelConfig, Residency
from gra_hpc.doctor.prove.bench import Bench, asked
from gra_hpc.doctor.prove.measured import Speed, modelled
from gra_hpc.doctor.prove.outcome import NotHereError
from gra_hpc.doctor.prove.proof import Proof, write_lines
from gra_hpc.doctor.prove.subject import thinker
from gra_hpc.engines import guard, start_phases
from gra_hpc.engines.node import Node
from gra_hpc.errors import EngineError, GraError
from gra_hpc.models.thinking import Thinking
from gra_hpc.placement.placement import Solution
from gra_hpc.placement.report import render
from gra_hpc.run.engines import EMBEDDER, embed

log = logging.getLogger(__name__)

PIECES = ("shares", "speed", "thoughts", "embedder", "death")
THINKER = "thinker"
_VERDICT: dict[str, object] = {
    "type": "object",
    "properties": {
        "comment": {"type": "string", "maxLength": 40},
        "clarity": {"type": "integer", "enum": list(range(1, 11))},
    },
    "required": ["comment", "clarity"],
    "additionalProperties": False,
}
_TEXTS = ("Name a river in Asia.", "Which river flows through Asia?", "Prove that the square root of 2 is irrational.")


class Together:
    """The engines of one device, and what is asked of them.

    Args:
        solution: where they run.
    """

    def __init__(self, proof: Proof, bench: Bench, node: Node, solution: Solution, cast: Cast) -> None:
        self.proof, self.bench, self.node, self.solution, self.cast = proof, bench, node, solution, cast
        self.second = THINKER if cast.thinking else f"{bench.name}-2"
        self.silent = ""
        """Why the first engine is not asked any more."""

    async def pieces(self) -> None:
        """All of them, one after another."""
        await self.proof.piece("shares", self.shares)
        await self.proof.piece("speed", self.speed, self.silent)
        await self.proof.piece("thoughts", self.thoughts)
        await self.proof.piece("embedder", self.embedder)
        await self.proof.piece("death", self.death, self.silent)
        self._note_starts()

    async def shares(self) -> str:
        """Both engines that generate start on the device and answer at once."""
        self.silent = "the engine did not answer (see shares)"
        write_lines("placed", render(self.solution).splitlines())
        names = (self.bench.name, self.second)
        began = time.monotonic()
        first = await asked(self.node, names[0], "Say hello.", 8)
        self.silent = ""
        await asked(self.node, names[1], "Say hello.", 8)
        up = time.monotonic() - began
        answers = await asyncio.gather(
            *(asked(self.node, name, f"Describe the number {i}.", 24) for i in range(8) for name in names)
        )
        if not all(a.completion_tokens for a in (first, *answers)):
            raise EngineError("answers without a token", f"read the engines' logs in {self.proof.engines}")
        places = {e.model: e for e in self.solution.placement.engines}
        if self.bench.on_cpu:
            told = "; ".join(f"{n} on core {','.join(map(str, places[n].devices))}" for n in names)
        else:
            told = " and ".join(f"{places[n].memory_fraction:.1%}" for n in names) + " of device 0"
        return f"{told}; up in {up:.0f} s{self._starts()}, {len(answers)} answers at once"

    def _starts(self) -> str:
        """Where the time of an engine's start went, the longest first."""
        total: Counter[str] = Counter()
        engines = [e for e in self.node.stats()["engines"].values() if e["start_phases"]]
        for engine in engines:
            total.update({phase: seconds / len(engines) for phase, seconds in engine["start_phases"].items()})
        return f" (each: {told})" if (told := start_phases.told(total)) else ""

    def _note_starts(self) -> None:
        engines = [e for e in self.node.stats()["engines"].values() if e["starts"] and e["model"] != EMBEDDER]
        starts, seconds = sum(e["starts"] for e in engines), sum(e["start_seconds"] for e in engines)
        if starts:
            self.proof.measured["start_s"] = round(seconds / starts, 1)

    async def speed(self) -> str:
        """One engine alone: tokens a second with one call, and with many, beside the performance model's."""
        name, tokens = self.bench.name, 32 if self.bench.on_cpu else 128
        many = 16 if self.bench.on_cpu else min(256, self.bench.engine.max_running)
        await asked(self.node, name, "Say hello.", 4)  # whatever is compiled, or looked up, when it is first used
        place = next(e for e in self.solution.placement.engines if e.model == name)
        told = []
        for calls in (1, many):
            began = time.monotonic()
            answers = await asyncio.gather(
                *(asked(self.node, name, f"Tell a long story about the number {i}.", tokens, 1.0) for i in range(calls))
            )
            seconds = time.monotonic() - began
            speed = Speed.of(answers, seconds)
            model = modelled(self.bench, place, speed)
            told.append(f"{speed.tokens_per_s:.0f} with {calls} call{'s' * (calls > 1)} (modelled {model:.0f})")
            self.proof.measured.setdefault("speeds", {})[str(calls)] = {
                "tokens_per_s": round(speed.tokens_per_s, 1),
                "modelled": round(model, 1),
                "batch": round(speed.batch, 1),
            }
        self.proof.measured["speed"] = {name: round(speed.tokens_per_s / model, 3)}
        return ", ".join(told)

    async def thoughts(self) -> str:
        """What is guided begins behind the thoughts, which come apart and end where their budget does."""
        if self.cast.no_thinker:
            raise self.cast.no_thinker
        budget = 24 if self.bench.on_cpu else 128
        answer = await asked(
            self.node, THINKER, "Judge this: 2 + 2 = 4.", 96, 1.0, _VERDICT, self.cast.thinking, thoughts=budget
        )
        then = (
            f"models.NAME.engine_args.reasoning_parser=..., or another vLLM; the engine's log in {self.proof.engines}"
        )
        if answer.finish == "thoughts" or not answer.text:
            raise EngineError(
                f"no answer behind {answer.completion_tokens} tokens of thoughts: is there no budget of {budget}?",
                then,
            )
        if not answer.thoughts:
            raise EngineError("no thoughts were told apart: the parser did not see their marks", then)
        try:
            verdict = json.loads(answer.text)
            fits = set(verdict) == {"comment", "clarity"} and verdict["clarity"] in range(1, 11)
        except (ValueError, TypeError, KeyError):
            fits = False
        if not fits:
            raise EngineError(f"the answer is not the JSON that was asked for: {answer.text[:80]!r}", then)
        return f"{len(answer.thoughts)} characters of thoughts apart, then {answer.text[:60]}"

    async def embedder(self) -> str:
        """The hosted embedding model answers beside the others; near texts have near vectors."""
        import numpy as np

        if self.cast.no_embedder:
            raise self.cast.no_embedder
        found = await asyncio.gather(*(embed(self.node, text) for text in (*_TEXTS, "river " * 2000)))
        if None in found:
            raise EngineError("the embedding engine refused a text", f"read its log in {self.proof.engines}")
        vectors = [np.frombuffer(v, "<f2").astype(np.float32) for v in found if v]
        near, far = float(vectors[0] @ vectors[1]), float(vectors[0] @ vectors[2])
        if not near > far + 0.1:
            raise EngineError(
                f"near texts have no nearer vectors: cosine {near:.2f}, of others {far:.2f}",
                "engine.host_embedder=false, and report it",
            )
        return f"{len(vectors[0])} numbers a text; cosine of near texts {near:.2f}, of others {far:.2f}"

    async def death(self) -> str:
        """kill -9 of an engine's core in the middle of its calls: it starts again, and no call is lost."""
        name, tokens = self.bench.name, 400
        await asked(self.node, name, "Say hello.", 4)
        place = f"{name}-0"
        restarts = self.node.stats()["engines"][place]["restarts"]
        tasks = [asyncio.create_task(asked(self.node, name, f"Count to {i}.", tokens, 1.0)) for i in range(4)]
        try:
            await asyncio.sleep(0.5)
            core = _core(self.node.guards()[place])
            log.info("killing process %d; %d of 4 calls were answered already", core, sum(t.done() for t in tasks))
            began = time.monotonic()
            os.kill(core, signal.SIGKILL)
            await asyncio.gather(*tasks)
            await asked(self.node, name, "Say hello again.", 4)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        stats = self.node.stats()["engines"][place]
        if stats["restarts"] != restarts + 1:
            raise EngineError(
                f"started {stats['restarts'] - restarts} times again after its core was killed: {stats['causes']}",
                f"read the engines' logs in {self.proof.engines}",
            )
        return f"its core killed with 4 calls in flight: all answered, {time.monotonic() - began:.0f} s later"


def _core(pid: int) -> int:
    """The process of an engine that computes, below its guard.

    Raises:
        EngineError: there is none.
    """
    below = guard.descendants(pid)
    named = [p for p in below if b"EngineCore" in _command(p)]
    if not below:
        raise EngineError("the engine has no process", "report it")
    return (named or below)[-1]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@dataclass
class Cast:
    """Who shares the device: the model, and beside it what can be had."""

    models: dict[str, ModelConfig]
    thinking: Thinking | None = None
    no_thinker: GraError | None = None
    """Why there is no engine that thinks."""
    no_embedder: GraError | None = None
    """Why there is no embedding engine."""

    @classmethod
    def of(cls, proof: Proof, bench: Bench) -> Cast:
        """The engines that are wanted and could start; one that cannot would keep its neighbours from starting."""
        cast = cls({bench.name: bench.model})
        if proof.wants("shares", "thoughts"):
            cast._with_thinker(proof, bench)
        if proof.wants("embedder"):
            cast._with_embedder(bench)
        return cast

    def _with_thinker(self, proof: Proof, bench: Bench) -> None:
        """A second engine that generates; one that thinks, where that can be had."""
        try:
            model, thinking = thinker(bench.model, proof.directory / "models" / "thinks")
            bench.refuse(THINKER, model, thinking.parser)
            self.models[THINKER], self.thinking = model, thinking
        except GraError as e:
            self.no_thinker = e
            self.models[f"{bench.name}-2"] = bench.model

    def _with_embedder(self, bench: Bench) -> None:
        """The embedding model, where it is here."""
        try:
            model = bench.embedder()
        except GraError as e:
            self.no_embedder = NotHereError(e.what, e.then)
            return
        try:
            bench.refuse(EMBEDDER, model, embeds=True)
            self.models[EMBEDDER] = model
        except GraError as e:
            self.no_embedder = e

    def placed(self, bench: Bench) -> Solution:
        """Everybody on one device; without the embedding model where it has no room.

        Raises:
            GraError: the others have none.
        """
        try:
            return bench.placed(self.models, 1, Residency.together)
        except GraError as e:
            if EMBEDDER not in self.models:
                raise
            del self.models[EMBEDDER]
            self.no_embedder = e
        return bench.placed(self.models, 1, Residency.together)


async def together(proof: Proof, bench: Bench) -> None:
    """Place the engines on one device, host them, and ask."""
    if not proof.wants(*PIECES):
        return
    if bench.no_engines:
        for piece in PIECES:
            await proof.piece(piece, _nothing, bench.no_engines)
        return
    try:
        bench.refuse(bench.name, bench.model)
        cast = Cast.of(proof, bench)
        solution = cast.placed(bench)
    except GraError as e:
        await _no_place(proof, e)
        return
    except Exception as e:  # the other pieces must go on, whatever a strange machine does
        await _no_place(proof, GraError(f"{type(e).__name__}: {e}", "report it with this line"))
        return
    thinking = {THINKER: cast.thinking} if cast.thinking else {}
    async with bench.host(cast.models, solution.placement, thinking) as node:
        await Together(proof, bench, node, solution, cast).pieces()


async def _no_place(proof: Proof, error: GraError) -> None:
    """No engine can be started here: one piece says why, the others that they were not tried."""

    async def failed() -> str:
        raise error

    first, *others = [p for p in PIECES if proof.wants(p)]
    await proof.piece(first, failed)
    for piece in others:
        await proof.piece(piece, _nothing, f"its engines cannot be started (see {first})")


async def _nothing() -> str:
    return ""
