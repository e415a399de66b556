"""One attempt at a shard: its slice of the seeds through the whole method, and its result published once, whole.

A shard may be killed at any moment and run again: calls that a journal of an earlier attempt holds return at once.
Engines and places in the window belong to the worker (`worker.py`); `window.py` keeps the candidates in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from gra_hpc.config.settings import RunConfig
from gra_hpc.errors import EndedError, GraError, IncompleteError
from gra_hpc.flows.tools import get_ready
from gra_hpc.flows.units import Embed, Unit
from gra_hpc.run import attempts, publish
from gra_hpc.run.attempt_state import Attempt, Shared, Turn
from gra_hpc.run.attempts import Heartbeat
from gra_hpc.run.directory import AttemptDir, ShardDir, round_name
from gra_hpc.run.engines import Hosted
from gra_hpc.run.gold import GoldQuestions
from gra_hpc.run.journal import Journal
from gra_hpc.run.merged import basis_of, pool_of
from gra_hpc.run.outcome import embeddings_of, publish_all
from gra_hpc.run.plan import Plan, RoundPlan
from gra_hpc.run.run import Run
from gra_hpc.run.signal_lead import grace_s
from gra_hpc.run.slices import read_pool, slice_of
from gra_hpc.run.window import Gate, drive
from gra_hpc.signals import Signals
from gra_hpc.storage import read_json
from gra_hpc.terminal import word

log = logging.getLogger(__name__)


class End(Enum):
    """How an attempt ended without an error."""

    published = "published"
    already = "published already, by another attempt"
    drained = "drained ahead of its time limit or preemption; its answers are kept for the next attempt"
    stopped = "stopped by SIGTERM; its answers are kept for the next attempt"
    overtaken = "the round before was merged anew, with more shards; its answers are kept for the next attempt"


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
            f"read {run.logs}, raise site.time_minutes, then gra resume {word(run.path)}",
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
    if not journal.touched():
        get_ready(dict.fromkeys(tool for unit in units for tool in unit.tools))
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


async def _run(host: Host, state: Attempt, units: list[Unit]) -> End:
    began = time.time()
    host.joined(state)
    watching = asyncio.create_task(_watch(state))
    try:
        if state.turn.before:
            await _either(state.turn.before, state.draining)
        if state.draining.is_set():
            return _unfinished(state)
        if units:  # a shard of seeds that its round leaves out has nothing to ask
            gate = Gate(await host.engine(), state.draining, state.shared)
            state.beat.phase = "running"
            await drive(state, units, gate, grace_s(state.config.site.signal_lead_s))
        if len(state.samples) < len(units):
            return _unfinished(state)
        stats = host.engines_did()
        state.beat.phase = "embedding"
        try:
            embeddings = await asyncio.to_thread(embeddings_of, state)
        except EndedError:
            if state.signals.first:  # meant for the whole step
                return _unfinished(state)
            raise
        state.beat.phase = "publishing"
        state.beat.write(state.dir)
        state.journal.flush()
        if await asyncio.to_thread(state.is_overtaken):
            return End.overtaken
        mine = await asyncio.to_thread(publish_all, state, units, embeddings, stats, began)
        return End.published if mine else End.already
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
    if state.is_overtaken():
        return End.overtaken
    if state.signals.first == signal.SIGTERM:
        return End.stopped
    if state.signals.first and state.shared.calls == 0 and attempts.stuck(state.shard, state.dir, 1):
        raise IncompleteError(
            f"{state.shard.path}: two attempts in a row ended without an answered call; not requeued",
            f"raise site.time_minutes or read {state.run.logs / state.dir.id}, then gra resume {word(state.run.path)}",
        )
    return End.drained


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
                if await asyncio.to_thread(state.is_overtaken):
                    log.warning("round %d was merged anew; this attempt begins again", state.round_plan.round - 1)
                    state.draining.set()
        await asyncio.sleep(state.config.launch.heartbeat_s)


def _place(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns
