"""One attempt at a shard: its slice of the seeds through the whole method, and its result published once, whole.

A shard may be killed at any moment and run again: calls that a journal of an earlier attempt holds return at once.
Samples that were cut off and samples not begun come first, so that the engines have work at once; those that seem to be
finished are replayed beside them. Engines and places in the window belong to the worker (`worker.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from gra_hpc.config.settings import RunConfig
from gra_hpc.errors import EndedError, EngineError, GraError, IncompleteError
from gra_hpc.flows.ask import Ask, Asker, together
from gra_hpc.flows.calls import Answer, Draining, Request
from gra_hpc.flows.registry import Flow, flow_of
from gra_hpc.flows.units import Context, Embed, Unit
from gra_hpc.records import ACCEPTED, Call, Candidate
from gra_hpc.run import attempts, gold, publish
from gra_hpc.run.attempts import Heartbeat, SharedTime
from gra_hpc.run.directory import AttemptDir, RunDir, ShardDir, round_name
from gra_hpc.run.engines import Hosted, embed, hosted_embedder
from gra_hpc.run.gold import GoldQuestions
from gra_hpc.run.journal import Journal
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.merged import basis_of, pool_of
from gra_hpc.run.pins import special_pattern
from gra_hpc.run.plan import Plan, RoundPlan
from gra_hpc.run.run import Run
from gra_hpc.run.signal_lead import grace_s
from gra_hpc.run.slices import read_pool, slice_of
from gra_hpc.signals import Signals
from gra_hpc.storage import read_json

if TYPE_CHECKING:
    from gra_hpc.signatures.signer import Signer

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
    overtaken = "the round before was merged anew, with more shards; its answers are kept for the next attempt"


@dataclass
class Shared:
    """What the attempts of one worker share, beside its engines."""

    window: asyncio.Semaphore
    """Places for samples in flight: the next shard takes those that the last one leaves free."""
    time: SharedTime = field(default_factory=SharedTime)
    calls: int = 0
    """Calls that engines have answered to this worker."""
    _signer: Signer | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, config: RunConfig) -> Shared:
        """Of a worker that begins."""
        return cls(asyncio.Semaphore(config.launch.window))

    def signer(self, config: RunConfig, plan: Plan) -> Signer:
        """Signs what they publish; the benchmarks are read once for all of them."""
        from gra_hpc.run.signing import signer_of

        with self._lock:
            self._signer = self._signer or signer_of(config, plan)
            return self._signer


@dataclass
class Turn:
    """When the shards of one worker follow each other."""

    before: asyncio.Event | None = None
    """`given` of the shard before: its samples come first."""
    near: asyncio.Event = field(default_factory=asyncio.Event)
    """Few samples are left to begin, or none, and a place is free: time to open the next shard."""
    given: asyncio.Event = field(default_factory=asyncio.Event)
    """None is left: the next shard's may begin."""


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
    signals: Signals
    shared: Shared
    turn: Turn = field(default_factory=Turn)
    samples: list[Candidate] = field(default_factory=list)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    basis: str = ""
    """What its candidates rest on (`merged.basis_of`)."""
    vectors: dict[str, bytes | None] = field(default_factory=dict)
    """Embeddings by sample, where the embedding model is an engine beside the others."""
    tokens: dict[str, list[int]] = field(default_factory=dict)
    """By `role model`: calls, prompt tokens, completion tokens, of all calls the samples rest on."""
    gold: GoldQuestions | None = None
    """Asked beside some of its candidates."""
    golden: list[tuple[str, str, int | None]] = field(default_factory=list)
    """What was answered: question, member, points."""
    endless: Counter[str] = field(default_factory=Counter)
    """By model: calls whose thoughts did not end, so that there was no answer."""

    def answered(self, role: str, call: Call, fresh: bool) -> None:
        """Count a call."""
        total = self.tokens.setdefault(f"{role} {call.model}", [0, 0, 0])
        for i, n in enumerate((1, call.prompt_tokens, call.completion_tokens)):
            total[i] += n
        if call.finish == "thoughts":
            self.endless[call.model] += 1
        if fresh:
            self.beat.calls += 1
            self.shared.calls += 1
            self.beat.slowest_call_s = max(self.beat.slowest_call_s, round(call.seconds, 2))
            mine = self.beat.tokens.setdefault(role, [0, 0])
            mine[0] += call.prompt_tokens
            mine[1] += call.completion_tokens
        else:
            self.beat.replayed += 1

    def finished(self, sample: Candidate) -> None:
        """Count a sample."""
        self.samples.append(sample)
        setattr(self.beat, sample.status, getattr(self.beat, sample.status) + 1)


@dataclass(frozen=True)
class Gate:
    """The engine, behind a gate that closes when the attempt drains."""

    engine: Hosted
    draining: asyncio.Event

    async def ask(self, request: Request) -> Answer:
        if self.draining.is_set():
            raise Draining
        return await self.engine.ask(request)


class Host(Protocol):
    """What an attempt needs of its worker."""

    run: Run
    config: RunConfig
    signals: Signals
    shared: Shared
    name: str
    """Of the directory of its engines' logs."""

    async def engine(self) -> Hosted:
        """The node's engines; they are opened when they are first asked for."""

    def engines_did(self) -> dict[str, Any]:
        """What the engines did since this was last asked: of a worker's shards each has its part."""

    def joined(self, state: Attempt) -> None:
        """An attempt is under way: it is to drain when the worker does."""


async def attempt(host: Host, round_: int, number: int, here: AttemptDir, turn: Turn | None = None) -> End:
    """Run an attempt to its end.

    Args:
        number: the shard.
        here: its directory.
        turn: between other shards of the worker.

    When the worker drains (time limit ahead, preemption) it gives no more calls to engines, waits for those in flight
    and returns `End.drained`, or after SIGTERM `End.stopped`.

    Raises:
        GraError: what stops the shard, in one line; the journal keeps what was answered.
    """
    run = host.run
    shard = run.round(round_).shard(number)
    beat = Heartbeat(here.id, number, round_, gpus=host.config.site.gpus_per_node, worker=host.name)
    beat.time = host.shared.time
    beating = asyncio.create_task(_beats(beat, here, host.config.launch.heartbeat_s))
    try:
        beat.write(here)
        state, units = await asyncio.to_thread(_prepared, host, round_, shard, here, beat)
        state.turn = turn or state.turn
        with contextlib.closing(state.journal):
            end = await _run(host, state, units)
        beat.phase, beat.message = end.name, end.value
        return end
    except BaseException as e:
        if isinstance(e, Exception) and publish.is_published(shard):
            # whoever published has removed the journals, and any tables that this attempt was writing
            log.info("%s shard %d is published; this attempt ended with: %s", round_name(round_), number, e)
            publish.sweep(shard)
            mine = read_json(shard.manifest)["attempt"] == here.id
            return End.published if mine else End.already
        beat.phase = "stopped" if isinstance(e, EndedError) else "failed"
        beat.message = str(e) or type(e).__name__
        raise
    finally:
        beating.cancel()
        beat.write(here)
        host.shared.time.close(here.id)


def _prepared(
    host: Host, round_: int, shard: ShardDir, here: AttemptDir, beat: Heartbeat
) -> tuple[Attempt, list[Unit]]:
    """The state of an attempt that has read all it needs: beside the event loop, which has others' calls to answer."""
    run, config = host.run, host.config
    if attempts.restart_count() >= 2 and attempts.stuck(shard, here):
        raise IncompleteError(
            f"{shard.path}: two attempts in a row ended without an answered call; not tried again",
            f"read {run.logs}, raise site.time_minutes, then gra resume {run.path}",
        )
    basis, round_plan, units = _drawn(run, round_, shard.number)
    beat.planned = len(units)
    journal = Journal(
        [a.journal for a in attempts.earlier(shard, here)],
        here.journal,
        config.launch.journal_fsync_s,
        config.launch.journal_fsync_calls,
    )
    beat.corrupt = journal.corrupt + journal.unread
    state = Attempt(
        run, config, run.plan, round_plan, shard, here, journal, beat, host.signals, host.shared, basis=basis
    )
    state.gold = GoldQuestions.of(run, run.plan) if round_ else None
    return state, units


def _drawn(run: Run, round_: int, number: int) -> tuple[str, RoundPlan, list[Unit]]:
    """The candidates of a shard, and what they rest on. A partial merge of the round before may be replaced while it is
    read: then it is read again."""
    while True:
        basis = basis_of(run, round_)
        try:
            round_plan = RoundPlan.load(run.round(round_))
            pool = read_pool(pool_of(run, run.plan, round_))
            units = list(slice_of(run.config, round_plan, pool, number, _embedding(run.plan)))
        except GraError:
            if basis_of(run, round_) == basis:
                raise
            continue
        if basis_of(run, round_) == basis:
            return basis, round_plan, units


def _embedding(plan: Plan) -> Embed | None:
    """Vectors of texts, by the run's embedding model; none without one."""
    if plan.embed is None:
        return None
    from gra_hpc.models.embedder import encode

    directory = Path(plan.embed.directory)
    return lambda texts: encode(texts, directory)


def _is_overtaken(state: Attempt) -> bool:
    """Whether what the candidates rest on has been replaced; a merge that is away for a moment is asked for again."""
    try:
        return basis_of(state.run, state.round_plan.round) != state.basis
    except (GraError, OSError):
        return False


async def _run(host: Host, state: Attempt, units: list[Unit]) -> End:
    began = time.time()
    host.joined(state)
    watching = asyncio.create_task(_watch(state))
    try:
        if state.turn.before:
            await _either(state.turn.before, state.draining)
        if state.draining.is_set():
            return _unfinished(state)
        engine = await host.engine()
        state.beat.phase = "running"
        await _drive(state, units, Gate(engine, state.draining), grace_s(state.config.site.signal_lead_s))
        if len(state.samples) < len(units):
            return _unfinished(state)
        stats = host.engines_did()
        state.beat.phase = "embedding"
        try:
            embeddings = await asyncio.to_thread(_embed, state)
        except EndedError:
            if state.signals.first:  # meant for the whole step
                return _unfinished(state)
            raise
        state.beat.phase = "publishing"
        state.beat.write(state.dir)
        state.journal.flush()
        return await asyncio.to_thread(_publish, state, units, embeddings, stats, began)
    finally:
        watching.cancel()


async def _either(*events: asyncio.Event) -> None:
    """Wait for one of several."""
    waits = [asyncio.create_task(e.wait()) for e in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def _unfinished(state: Attempt) -> End:
    """Why an attempt that admits no more calls ends; an error if nothing is gained by another one."""
    if publish.is_published(state.shard):
        return End.already
    if _is_overtaken(state):
        return End.overtaken
    if state.signals.first == signal.SIGTERM:
        return End.stopped
    if state.signals.first and state.shared.calls == 0 and attempts.stuck(state.shard, state.dir, 1):
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
        special_pattern(state.plan.models),
        {name: pin.thinking for name, pin in state.plan.models.items()},
        state.plan.own_templates,
        state.plan.language_of(),
    )
    flow = flow_of(state.config)
    keys = flow.keys if hosted_embedder(state.config, state.plan) and state.round_plan.round > 0 else None
    window = min(state.config.launch.window, len(units))
    first, known = _in_order(units, state.journal.touched(), window)
    first_units, known_units = iter(first), iter(known)

    left, few = len(units), state.config.launch.window // 8

    async def lane(waiting: Iterator[Unit], place: AbstractAsyncContextManager[object]) -> None:
        nonlocal left
        while True:
            async with place:
                unit = next(waiting, None)
                if unit is None or state.draining.is_set():
                    if place is state.shared.window:
                        state.turn.near.set()
                    return
                left -= 1
                if left <= few and few:
                    state.turn.near.set()
                if not left:
                    state.turn.given.set()
                try:
                    sample = await _beside_gold(state, flow, unit, asker)
                    if keys and sample.status == ACCEPTED:
                        state.vectors[sample.id] = await embed(engine, keys.embedded(sample))
                    state.finished(sample)
                except Draining:
                    return
            await asyncio.sleep(0)  # a replayed sample waits for nothing: let others have their turn

    lanes = [asyncio.create_task(lane(chain(first_units, known_units), state.shared.window)) for _ in range(window)]
    lanes.append(asyncio.create_task(lane(known_units, contextlib.nullcontext())))
    drain = asyncio.create_task(state.draining.wait())
    try:
        pending: set[asyncio.Task[Any]] = {*lanes}
        while pending:
            done, rest = await asyncio.wait({*pending, drain}, return_when=asyncio.FIRST_COMPLETED)
            _look(done - {drain}, state.draining.is_set())
            pending = rest - {drain}
            if drain in done and pending:
                grace = _grace(state, lead)
                log.info("draining: %d samples in flight, %.0f s for their calls", len(pending), grace)
                state.beat.phase = "draining"
                done, _ = await asyncio.wait(pending, timeout=grace)
                _look(done, True)
                return
    finally:
        for task in (*lanes, drain):
            task.cancel()
        await asyncio.gather(*lanes, drain, return_exceptions=True)


def _in_order(units: list[Unit], touched: Sequence[str], window: int) -> tuple[list[Unit], list[Unit]]:
    """What to do first: the samples that earlier attempts touched last, then those not begun; and what is left to
    replay beside them.

    Of those not begun, the ones whose seeds have the longest answers come first: theirs will be long too, and what is
    begun last should end soon, or the engines are nearly idle at the end of a slice.
    """
    units = sorted(units, key=lambda u: -len(u.anchor.response))
    if not touched:
        return units, []
    rank = {sample: i for i, sample in enumerate(touched)}
    known = sorted((u for u in units if u.sample.id in rank), key=lambda u: rank[u.sample.id])
    fresh = [u for u in units if u.sample.id not in rank]
    return known[: 2 * window] + fresh, known[2 * window :]


def _look(done: set[asyncio.Task[None]], draining: bool) -> None:
    """Raise what ended a lane: an engine that cannot be kept running ends the attempt. While draining it ends
    anyway, and Slurm may have signalled the engines too."""
    for task in done:
        try:
            task.result()
        except EngineError as e:
            if not draining:
                raise
            log.info("while draining: %s", e)


def _grace(state: Attempt, lead: float) -> float:
    """Seconds that calls in flight get, once no more are asked."""
    if state.signals.first:
        log.warning("%s: no more calls are asked", signal.Signals(state.signals.first).name)
        return DRAIN_ON_TERM_S if state.signals.first == signal.SIGTERM else lead
    return 0.0  # another attempt has published, or the engines are gone: nothing more will come


async def _beside_gold(state: Attempt, flow: Flow, unit: Unit, asker: Asker) -> Candidate:
    """One candidate, and the gold question beside it, if it has one."""
    making = make_sample(flow, state.config, unit, asker.for_sample(unit.sample))
    drawn = state.gold.beside(unit.sample, state.config.method) if state.gold else None
    if drawn is None or not flow.gold:
        return await making
    question, beside = drawn
    both: list[Any] = [making, flow.gold(asker.for_sample(beside), beside)]
    sample, answers = await together(both)
    state.golden += [(question.id, member, points) for member, points in answers]
    return cast(Candidate, sample)


async def make_sample(flow: Flow, config: RunConfig, unit: Unit, ask: Ask) -> Candidate:
    """One candidate through the flow."""
    run = flow.run if unit.sample.round else flow.prepare
    assert run, "round 0 is planned where seeds are to be described"
    await run(Context(ask, config), unit)
    return unit.sample


def _embed(state: Attempt) -> list[bytes | None]:
    """Embeddings of the accepted samples, so that the merge needs no GPU; None for the others."""
    out: list[bytes | None] = [state.vectors.get(s.id) for s in state.samples]
    accepted = [i for i, s in enumerate(state.samples) if s.status == ACCEPTED and out[i] is None]
    keys = flow_of(state.config).keys
    if state.plan.embed and keys and accepted and state.round_plan.round:
        from gra_hpc.models.embedder import encode

        texts = [keys.embedded(state.samples[i]) for i in accepted]
        vectors = encode(texts, Path(state.plan.embed.directory))
        for i, v in zip(accepted, vectors, strict=True):
            out[i] = v.tobytes()
    return out


def _publish(
    state: Attempt, units: list[Unit], embeddings: list[bytes | None], stats: dict[str, Any], began: float
) -> End:
    if _is_overtaken(state):
        return End.overtaken
    flow, order = flow_of(state.config), {u.sample.id: i for i, u in enumerate(units)}
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
        signer=state.shared.signer(state.config, state.plan) if flow.keys and state.round_plan.round else None,
        thoughts=state.plan.thinks,
        schema=flow.schema(state.plan.thought_out, state.plan.context),
        details={
            "basis": state.basis,
            "tokens": {k: state.tokens[k] for k in sorted(state.tokens)},
            **({"endless_thoughts": dict(sorted(state.endless.items()))} if state.endless else {}),
            **({"gold": gold.entries(state.golden)} if state.gold else {}),
            "timings": {"started": began, "ended": time.time(), "seconds": round(state.beat.lasted, 3)},
            "host": state.beat.host,
            "engines": stats,
            "journals": [
                {
                    "attempt": s.path.parent.name,
                    "calls": s.calls,
                    "corrupt": s.corrupt,
                    "corrupt_at": s.corrupt_at,
                    "torn_bytes": s.torn,
                    "problem": s.problem,
                }
                for s in state.journal.scans
            ],
        },
        counted=lambda: {
            "corrupt_journal_lines": state.journal.corrupt,
            "unread_journals": state.journal.unread,
            "lost_calls": len(state.journal.lost),
        },
        attempts=[*attempts.earlier(state.shard, state.dir), state.dir],
    )
    return End.published if won else End.already


async def _beats(beat: Heartbeat, here: AttemptDir, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        beat.write(here)


async def _watch(state: Attempt) -> None:
    """Have the attempt drain once another one has published the shard, or what it rests on has been replaced."""
    before = state.run.round(state.round_plan.round - 1).manifest if state.basis else None
    seen = None
    while True:
        with contextlib.suppress(OSError):  # a file system that hesitates is asked again
            if publish.is_published(state.shard) and state.beat.phase == "running":
                log.info("another attempt has published this shard")
                state.draining.set()
            if before is not None and (now := _place(before)) != seen:
                seen = now
                if await asyncio.to_thread(_is_overtaken, state):
                    log.warning("round %d was merged anew; this attempt begins again", state.round_plan.round - 1)
                    state.draining.set()
        await asyncio.sleep(state.config.launch.heartbeat_s)


def _place(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns
