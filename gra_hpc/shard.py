"""One shard: its slice of the seeds through the whole method on one node, and its result published once, whole.

A shard may be killed at any moment and run again: calls that a journal of an earlier attempt holds return at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from gra_hpc import attempt as attempts
from gra_hpc import presets, publish
from gra_hpc.attempt import Heartbeat
from gra_hpc.config import Flow, RunConfig
from gra_hpc.engines.door import Answer, Engine, Request
from gra_hpc.engines.hosting import open_engine
from gra_hpc.errors import GraError, IncompleteError
from gra_hpc.flows.ask import Asker
from gra_hpc.flows.prepare import prepare
from gra_hpc.flows.refine import refine
from gra_hpc.flows.synthesize import fail, synthesize
from gra_hpc.journal import Journal
from gra_hpc.ledger import Ledger
from gra_hpc.plan import Plan, RoundPlan
from gra_hpc.records import ACCEPTED, Call, Sample
from gra_hpc.rundir import AttemptDir, RunDir, ShardDir
from gra_hpc.slices import Pool, Unit, slice_of

log = logging.getLogger(__name__)

DRAIN_ON_TERM_S = 3.0
"""After SIGTERM (cancelled, or preempted without warning) calls in flight get this long: Slurm has sent it to the
engines too."""


class End(Enum):
    """How an attempt ended without an error."""

    published = "published"
    already = "published already, by another attempt"
    drained = "drained ahead of its time limit or preemption; its answers are kept for the next attempt"
    stopped = "stopped by SIGTERM; its answers are kept for the next attempt"


class Draining(Exception):
    """A call that is not asked any more, because the attempt is about to end."""


@dataclass
class Attempt:
    """The state of one attempt at one shard."""

    run: RunDir
    config: RunConfig
    plan: Plan
    round_plan: RoundPlan
    shard: ShardDir
    dir: AttemptDir
    journal: Journal
    beat: Heartbeat
    samples: list[Sample] = field(default_factory=list)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    """By `role model`: calls, prompt tokens, completion tokens, of all calls the samples rest on."""
    signal: int = 0

    def answered(self, role: str, call: Call, fresh: bool) -> None:
        """Count a call."""
        total = self.tokens.setdefault(f"{role} {call.model}", [0, 0, 0])
        for i, n in enumerate((1, call.prompt_tokens, call.completion_tokens)):
            total[i] += n
        if fresh:
            self.beat.calls += 1
            self.beat.slowest_call_s = max(self.beat.slowest_call_s, round(call.seconds, 2))
            mine = self.beat.tokens.setdefault(role, [0, 0])
            mine[0] += call.prompt_tokens
            mine[1] += call.completion_tokens
        else:
            self.beat.replayed += 1

    def finished(self, sample: Sample) -> None:
        """Count a sample."""
        self.samples.append(sample)
        setattr(self.beat, sample.status, getattr(self.beat, sample.status) + 1)


@dataclass(frozen=True)
class Gate:
    """The engine, behind a gate that closes when the attempt drains."""

    engine: Engine
    draining: asyncio.Event

    async def ask(self, request: Request) -> Answer:
        if self.draining.is_set():
            raise Draining
        return await self.engine.ask(request)


def run_shard(run: RunDir, round_: int, number: int) -> End:
    """Run one attempt at a shard to its end.

    On SIGUSR2 (time limit ahead, preemption) it admits no more calls, waits for those in flight and returns
    `End.drained`; the caller requeues. On SIGTERM it does the same, only faster, and returns `End.stopped`.

    Raises:
        GraError: what stops the shard, in one line; the journal keeps what was answered.
    """
    config = presets.load(run.config)
    plan = Plan.load(run)
    plan.verify(config, run)
    round_plan = RoundPlan.load(run.round(round_))
    shard = run.round(round_).shard(number)
    if not 0 <= number < round_plan.shards:
        raise GraError(f"shard {number}: round {round_} has shards 0 to {round_plan.shards - 1}")
    if publish.is_published(shard):
        publish.sweep(shard)
        return End.already
    pool = Pool.of_round(run, plan, round_)
    units = list(slice_of(config, round_plan, pool, number))
    del pool
    here = attempts.begin(shard)
    if attempts.restart_count() >= 2 and attempts.stuck(shard, here):
        raise IncompleteError(
            f"{shard.path}: two attempts in a row ended without an answered call; not tried again",
            f"read {run.logs}, raise site.time_minutes, then gra resume {run.path}",
        )
    journal = Journal(
        [a.journal for a in attempts.earlier(shard, here)],
        here.journal,
        config.launch.journal_fsync_s,
        config.launch.journal_fsync_calls,
    )
    beat = Heartbeat(here.id, number, round_, planned=len(units))
    state = Attempt(run, config, plan, round_plan, shard, here, journal, beat)
    try:
        beat.write(here)
        end = asyncio.run(_attempt(state, units))
        beat.phase, beat.message = end.name, end.value
        return end
    except BaseException as e:
        beat.phase, beat.message = "failed", str(e) or type(e).__name__
        raise
    finally:
        journal.close()
        beat.write(here)


async def _attempt(state: Attempt, units: list[Unit]) -> End:
    began = time.time()
    loop = asyncio.get_running_loop()
    lead = max(5.0, state.config.site.signal_lead_s - 20.0)
    beating = loop.create_task(_beat(state))
    stats: dict[str, Any] = {}
    try:
        with _on_signals(state, loop):
            async with open_engine(state.config, state.plan, state.run.logs / state.dir.id) as engine:
                state.beat.phase = "running"
                await _drive(state, units, Gate(engine, state.draining), lead)
                stats = engine.stats()
            if len(state.samples) < len(units):
                return _unfinished(state)
            state.beat.phase = "embedding"
            embeddings = await asyncio.to_thread(_embed, state)
            state.beat.phase = "publishing"
            state.journal.flush()
            return await asyncio.to_thread(_publish, state, units, embeddings, stats, began)
    finally:
        beating.cancel()


def _unfinished(state: Attempt) -> End:
    """Why an attempt that admits no more calls ends; an error if nothing is gained by another one."""
    if publish.is_published(state.shard):
        return End.already
    if state.signal == signal.SIGTERM:
        return End.stopped
    last = attempts.earlier(state.shard, state.dir)[-1:]
    if state.beat.calls == 0 and last and last[0].journal.stat().st_size == 0:
        raise IncompleteError(
            f"{state.shard.path}: two attempts in a row ended without an answered call; not requeued",
            f"raise site.time_minutes or read {state.run.logs / state.dir.id}, then gra resume {state.run.path}",
        )
    return End.drained


async def _drive(state: Attempt, units: list[Unit], engine: Gate, lead: float) -> None:
    """Keep a bounded window of samples in flight until all are done, or until the attempt drains."""
    asker = Asker(
        state.config.committee,
        {name: pin.identity for name, pin in state.plan.models.items()},
        state.config.method,
        engine,
        state.journal,
        state.answered,
    )
    waiting = iter(units)

    async def worker() -> None:
        for unit in waiting:
            if state.draining.is_set():
                return
            try:
                state.finished(await _make(state.config, unit, asker))
            except Draining:
                return

    workers = [asyncio.create_task(worker()) for _ in range(min(state.config.launch.window, len(units)))]
    drain = asyncio.create_task(state.draining.wait())
    try:
        pending: set[asyncio.Task[Any]] = {*workers}
        while pending:
            done, rest = await asyncio.wait({*pending, drain}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {drain}:
                task.result()  # an engine that cannot be kept running ends the attempt
            pending = rest - {drain}
            if drain in done and pending:
                state.beat.phase = "draining"
                grace = DRAIN_ON_TERM_S if state.signal == signal.SIGTERM else lead
                log.info("draining: %d samples in flight, %.0f s for their calls", len(pending), grace)
                done, _ = await asyncio.wait(pending, timeout=grace)
                for task in done:
                    task.result()
                return
    finally:
        for task in (*workers, drain):
            task.cancel()
        await asyncio.gather(*workers, drain, return_exceptions=True)


async def _make(config: RunConfig, unit: Unit, asker: Asker) -> Sample:
    """One candidate through the method."""
    sample, ask, method = unit.sample, asker.for_sample(unit.sample), config.method
    if sample.round == 0:
        return await prepare(sample, unit.anchor, ask, method)
    if method.flow is Flow.refine:
        return await refine(sample, unit.anchor, ask, method)
    if not unit.examples:
        fail(sample, "prepare", "the seed could not be described")
        return sample
    return await synthesize(sample, unit.examples, ask, method)


def _embed(state: Attempt) -> list[bytes | None]:
    """Embeddings of the accepted instructions, so that the merge needs no GPU; None for the others."""
    out: list[bytes | None] = [None] * len(state.samples)
    accepted = [i for i, s in enumerate(state.samples) if s.status == ACCEPTED]
    if state.plan.embed and accepted and state.round_plan.round:
        from gra_hpc.merge.embed import encode

        vectors = encode([state.samples[i].instruction for i in accepted], Path(state.plan.embed.directory))
        for i, v in zip(accepted, vectors, strict=True):
            out[i] = v.tobytes()
    return out


def _publish(
    state: Attempt, units: list[Unit], embeddings: list[bytes | None], stats: dict[str, Any], began: float
) -> End:
    order = {u.sample.id: i for i, u in enumerate(units)}
    rows = sorted(zip(state.samples, embeddings, strict=True), key=lambda pair: order[pair[0].id])
    ledger = Ledger.of(len(units), ((s.status, s.stage, s.reason) for s in state.samples))
    won = publish.publish(
        state.shard,
        state.dir,
        fingerprint=state.plan.fingerprint,
        round_=state.round_plan.round,
        ledger=ledger,
        samples=[s for s, _ in rows],
        embeddings=[e for _, e in rows],
        calls=state.journal.used(),
        details={
            "tokens": {k: state.tokens[k] for k in sorted(state.tokens)},
            "timings": {"started": began, "ended": time.time()},
            "host": state.beat.host,
            "engines": stats,
            "corrupt_journal_lines": sum(len(s.corrupt) for s in state.journal.scans),
        },
        attempts=[*attempts.earlier(state.shard, state.dir), state.dir],
    )
    return End.published if won else End.already


async def _beat(state: Attempt) -> None:
    while True:
        state.beat.write(state.dir)
        if publish.is_published(state.shard) and state.beat.phase == "running":
            log.info("another attempt has published this shard")
            state.draining.set()
        await asyncio.sleep(state.config.launch.heartbeat_s)


@contextlib.contextmanager
def _on_signals(state: Attempt, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Drain on SIGUSR2 and SIGTERM; the handlers that were there (submitit's) come back afterwards."""
    handled = (signal.SIGUSR2, signal.SIGTERM)

    def drain(signum: int) -> None:
        log.warning("%s: no more calls are asked", signal.Signals(signum).name)
        state.signal = state.signal or signum
        state.draining.set()

    before = {s: signal.signal(s, lambda n, _: loop.call_soon_threadsafe(drain, n)) for s in handled}
    try:
        yield
    finally:
        for s in handled:
            signal.signal(s, before[s])
