"""Candidates in flight: a bounded window of them, in an order that keeps the engines at work, until all are done or the
attempt drains.

Samples that were cut off and samples not begun come first, so that the engines have work at once; those that seem to be
finished are replayed beside them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

from gra_hpc.config.settings import RunConfig
from gra_hpc.errors import EngineError, GraError
from gra_hpc.flows.ask import Ask, Asker, Unanswered, together
from gra_hpc.flows.calls import Answer, Draining, Request
from gra_hpc.flows.payload import Made
from gra_hpc.flows.registry import Flow, flow_of
from gra_hpc.flows.tools import Toolbox, Use
from gra_hpc.flows.units import Context, Unit
from gra_hpc.records import ACCEPTED, FAILED, Candidate
from gra_hpc.run.attempt_state import Attempt, Shared
from gra_hpc.run.engines import Hosted, embed, hosted_embedder
from gra_hpc.run.pins import special_pattern

log = logging.getLogger(__name__)

_MEND = "mend the flow's function `run`, and plan a new run  (docs/flows.md)"

DRAIN_ON_TERM_S = 3.0
"""After SIGTERM (cancelled, or preempted without warning) calls in flight get this long: Slurm has sent it to the
engines too."""


@dataclass(frozen=True)
class Gate:
    """The engine, behind a gate that closes when the attempt drains."""

    engine: Hosted
    draining: asyncio.Event
    shared: Shared | None = None
    """Told of calls in flight."""

    async def ask(self, request: Request) -> Answer:
        if self.draining.is_set():
            raise Draining
        with self.shared.asking() if self.shared else contextlib.nullcontext():
            return await self.engine.ask(request)


async def drive(state: Attempt, units: list[Unit], engine: Gate, lead: float) -> None:
    """Keep a bounded window of samples in flight until all are done, or until the attempt drains.

    Raises:
        GraError: what ends the attempt; a tool that has worked at no sample (`Toolbox.judge`).
    """
    with state.shared.seldom_tidied():
        await _drive(state, units, engine, lead)


async def _drive(state: Attempt, units: list[Unit], engine: Gate, lead: float) -> None:
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
    tools = Toolbox(state.journal, state.used, state.draining.is_set)
    flow = flow_of(state.config)
    keys = flow.keys if hosted_embedder(state.config, state.plan) and state.round_plan.round > 0 else None
    window = min(state.config.launch.window, len(units))
    first, known = in_order(units, state.journal.touched(), window)
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
                    sample = await _beside_gold(state, flow, unit, asker, tools)
                    if keys and sample.status == ACCEPTED:
                        state.vectors[sample.id] = await embed(engine, keys.embedded(sample))
                    state.finished(sample)
                except Draining:
                    return
            state.shared.look()  # its place is free, or another one's
            await asyncio.sleep(0)  # a replayed sample waits for nothing: let others have their turn

    lanes = [asyncio.create_task(lane(chain(first_units, known_units), state.shared.window)) for _ in range(window)]
    lanes.append(asyncio.create_task(lane(known_units, contextlib.nullcontext())))
    drain = asyncio.create_task(state.draining.wait())
    # one look at all of them: a look for each that ends would cost the square of their number
    whole: asyncio.Future[Any] = asyncio.gather(*lanes)
    try:
        ends: set[asyncio.Future[Any]] = {whole, drain}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if whole.done():
            _look([whole], state.draining.is_set())
        pending = [task for task in lanes if not task.done()]
        if pending:
            grace = _grace(state, lead)
            log.info("draining: %d samples in flight, %.0f s for their calls", len(pending), grace)
            state.beat.phase = "draining"
            done, _ = await asyncio.wait(pending, timeout=grace)
            _look(done, True)
    finally:
        for task in (*lanes, drain):
            task.cancel()
        await asyncio.gather(*lanes, drain, whole, return_exceptions=True)
    if len(state.samples) == len(units):
        tools.judge()


def in_order(units: list[Unit], touched: Sequence[str], window: int) -> tuple[list[Unit], list[Unit]]:
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


def _look(done: Iterable[asyncio.Future[Any]], draining: bool) -> None:
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


async def _beside_gold(state: Attempt, flow: Flow, unit: Unit, asker: Asker, tools: Toolbox) -> Candidate:
    """One candidate, and the gold question beside it, if it has one."""
    making = make_sample(flow, state.config, unit, asker.for_sample(unit.sample), tools.for_sample(unit.sample.id))
    drawn = state.gold.beside(unit.sample, state.config.method) if state.gold else None
    if drawn is None or not flow.gold:
        return await making
    question, beside = drawn
    both: list[Any] = [making, flow.gold.put(asker.for_sample(beside), beside)]
    sample, answers = await together(both)
    state.golden += [(question.id, member, points) for member, points in answers]
    return cast(Candidate, sample)


async def make_sample(flow: Flow, config: RunConfig, unit: Unit, ask: Ask, use: Use) -> Candidate:
    """One candidate through the flow. A question without a usable answer, or a tool that breaks, ends it as failed,
    whether or not the flow has thought of that. So does a result that no table can hold: the next attempt would come to
    the same, and the shard never be published; and one without the text that rows are compared by.

    Raises:
        GraError: the flow does not say how it ended.
    """
    run = flow.run if unit.sample.round else flow.prepare
    assert run, "round 0 is planned where seeds are to be described"
    sample = unit.sample
    try:
        await run(Context(ask, config, use), unit)
    except Unanswered as e:  # ToolBroke is one
        sample.status, sample.stage, sample.reason, sample.raw = FAILED, e.stage, e.reason, e.raw
    if not sample.status:
        raise GraError(f"flow {flow.name}: candidate {sample.id} was left neither accepted, rejected nor failed", _MEND)
    if isinstance(sample, Made) and (cause := sample.unfit() or _lacks(flow, sample)):
        sample.status, sample.stage, sample.reason, sample.result = FAILED, "result", cause, None
        sample.score = None
    return sample


def _lacks(flow: Flow, made: Made[Any]) -> str:
    """What an accepted candidate has not, though rows are compared by it, in a few words; empty: it has all. Without
    it, rows would be duplicates of one another."""
    text = flow.keys.text if flow.keys and made.status == ACCEPTED else ""
    return f"no {text}" if text and getattr(made.result, text, None) is None else ""
