"""The calls of a published run, asked again: through the flow, or as a list in the order they were asked."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from gra_hpc import signals
from gra_hpc.config.settings import RunConfig
from gra_hpc.flows.ask import Asker
from gra_hpc.flows.calls import Answer, Engine, Request
from gra_hpc.flows.registry import flow_of
from gra_hpc.flows.tools import Toolbox, Unkept
from gra_hpc.flows.units import Unit
from gra_hpc.records import Call
from gra_hpc.run import attempt_state, window, worker
from gra_hpc.run.attempts import Heartbeat
from gra_hpc.run.directory import AttemptDir, RunDir
from gra_hpc.run.engines import Hosted
from gra_hpc.run.journal import Journal
from gra_hpc.run.merged import pool_of
from gra_hpc.run.pins import special_pattern
from gra_hpc.run.plan import Plan, RoundPlan
from gra_hpc.run.run import Run
from gra_hpc.run.slices import read_pool, slice_of
from gra_hpc.storage import read_json

PARALLEL = ("review_instruction", "review_response")
"""Steps whose calls are asked at once."""


@dataclass
class Replayed:
    """An engine that asks another one, and gives the recorded answer."""

    known: dict[str, Call]
    """Recorded calls by the digest of their request."""
    engine: Hosted | None = None
    """None: the recorded answers alone."""
    asked: list[Request] | None = None
    calls: int = 0
    tokens: int = 0
    same: int = 0
    began: float = 0.0
    ended: float = 0.0
    """When the first call was asked and the last one answered, on the clock of `time.perf_counter`."""

    async def ask(self, request: Request) -> Answer:
        call = self.known[request.digest]
        if self.asked is not None:
            self.asked.append(request)
        answer = Answer(call.text, call.finish, call.prompt_tokens, call.completion_tokens, 0.0)
        if self.engine is not None:
            self.began = self.began or time.perf_counter()
            real = await self.engine.ask(request)
            self.ended = time.perf_counter()
            self.calls += 1
            self.tokens += real.completion_tokens
            self.same += real.text == call.text
        return answer

    def drain(self) -> None:
        if self.engine is not None:
            self.engine.drain()

    def stats(self) -> dict[str, Any]:
        return self.engine.stats() if self.engine is not None else {"engines": {}, "given_up": 0}


@dataclass
class Captured:
    """A published round: what makes its calls happen again."""

    run: RunDir
    config: RunConfig
    plan: Plan
    round_plan: RoundPlan
    known: dict[str, Call]
    samples: int

    @classmethod
    def of(cls, path: Path, samples: int) -> Captured:
        """Round 1 of a run, or its first samples."""
        run = Run.to_look_at(path)
        round_plan = RoundPlan.load(run.round(1))
        known = {}
        for n in range(round_plan.shards):
            here = run.round(1).shard(n)
            table = pq.read_table(here.calls(read_json(here.manifest)["attempt"]))
            known |= {row["digest"]: Call(**row) for row in table.to_pylist()}
        captured = cls(run, run.config, run.plan, round_plan, known, samples)
        captured.samples = len(captured.units())
        return captured

    def units(self) -> list[Unit]:
        """The samples to make, all shards as one slice; new at every call, since a flow fills them in."""
        pool = read_pool(pool_of(self.run, self.plan, 1))
        found = [u for n in range(self.round_plan.shards) for u in slice_of(self.config, self.round_plan, pool, n)]
        return found[: self.samples or len(found)]

    def by_sample(self) -> list[list[dict[str, Any]]]:
        """Every sample's calls in the order they are asked, with what an engine needs to answer them."""

        async def capture(unit: Unit) -> list[dict[str, Any]]:
            replayed = Replayed(self.known, asked=[])
            asker = Asker(
                self.config.committee,
                {name: pin.identity for name, pin in self.plan.models.items()},
                self.config.method,
                replayed,
                Forgetful(),
                lambda *_: None,
                special_pattern(self.plan.models),
                {name: pin.thinking for name, pin in self.plan.models.items()},
            )
            ask, use = asker.for_sample(unit.sample), Toolbox(Unkept()).for_sample(unit.sample.id)
            await window.make_sample(flow_of(self.config), self.config, unit, ask, use)
            out: list[dict[str, Any]] = []
            assert replayed.asked is not None
            for request in replayed.asked:
                call = self.known[request.digest]
                _, step, seat, attempt = call.key.split("/")
                beside = out and step in PARALLEL and out[-1]["step"] == step and attempt == "0"
                s = request.sampling
                out.append(
                    {
                        "wave": out[-1]["wave"] if beside else len(out),
                        "step": step,
                        "role": seat.split("-")[0],
                        "model": request.model,
                        "messages": list(request.messages),
                        "schema": request.schema,
                        "sampling": {
                            "temperature": s.temperature,
                            "top_p": s.top_p,
                            "max_tokens": s.max_tokens,
                            "seed": s.seed,
                            "repetition_penalty": s.repetition_penalty,
                        },
                        "text": call.text,
                        "completion_tokens": call.completion_tokens,
                    }
                )
            return out

        async def all_of_them() -> list[list[dict[str, Any]]]:
            return [await capture(u) for u in self.units()]

        return asyncio.run(all_of_them())


class Forgetful:
    """Calls that are not kept."""

    def get(self, key: str, digest: str) -> Call | None:  # noqa: ARG002
        return None

    def append(self, call: Call) -> None:
        pass


async def drive(
    run: RunDir, config: RunConfig, plan: Plan, round_plan: RoundPlan, units: list[Unit], engine: Engine, work: Path
) -> dict[str, float]:
    """A shard's own work on these units, with a journal on the disk: all but starting engines and publishing."""
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        here = AttemptDir(Path(temporary), "bench")
        with contextlib.closing(Journal([], here.journal)) as journal:
            beat = Heartbeat(here.id, 0, 1, planned=len(units))
            state = attempt_state.Attempt(
                run, config, plan, round_plan, run.round(1).shard(0), here, journal, beat, signals.Signals(),
                attempt_state.Shared.of(config),
            )  # fmt: skip
            began, cpu = time.perf_counter(), time.process_time()
            await window.drive(state, units, window.Gate(engine, state.draining), 0.0)
            seconds, spent = time.perf_counter() - began, time.process_time() - cpu
            assert len(state.samples) == len(units)
            return {"seconds": seconds, "cpu_seconds": spent, "calls": journal.appended}


async def work(path: Path, asked: Replayed, directory: Path) -> dict[str, float]:
    """A worker's own work on a copy of a run, of which no shard of its first round is published: all of them, several
    open at a time, to their publication. Only the engines are those that are there already.

    Args:
        path: the run, planned with this code.
    """
    copy = Path(tempfile.mkdtemp(dir=directory)) / "run"
    shutil.copytree(path, copy, ignore=shutil.ignore_patterns("release", "logs", "submissions"))
    first = RunDir(copy).round(1)
    for made in (first.shards, first.merged, first.merging.path):
        shutil.rmtree(made, ignore_errors=True)

    @contextlib.asynccontextmanager
    async def ready(*_: object) -> AsyncIterator[Replayed]:
        yield asked

    usual = worker.open_engine
    worker.open_engine = ready  # type: ignore[assignment]
    try:
        began, cpu = time.perf_counter(), time.process_time()
        outcome = await worker._Worker(Run.open(copy), 1, 0, signals.Signals()).work(0)
        whole, spent = time.perf_counter() - began, time.process_time() - cpu
    finally:
        worker.open_engine = usual
    assert outcome.shards == RoundPlan.load(first).shards, outcome
    shutil.rmtree(copy.parent)
    seconds = asked.ended - asked.began
    return {"seconds": seconds, "cpu_seconds": spent, "calls": asked.calls, "whole_seconds": whole}
