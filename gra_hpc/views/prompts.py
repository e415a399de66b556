"""All that a run asks, rendered before anything is asked: candidates rehearsed with answers that are made up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from gra_hpc.engines.simulated import SimulatedEngine
from gra_hpc.errors import SeedError
from gra_hpc.flows.ask import Asker
from gra_hpc.flows.calls import Answer, Request
from gra_hpc.flows.registry import flow_of
from gra_hpc.flows.tools import Toolbox, Unkept
from gra_hpc.flows.units import Pool, Unit
from gra_hpc.records import Call, Record, Sample
from gra_hpc.run.directory import round_name
from gra_hpc.run.merged import seeds_of
from gra_hpc.run.pins import special_pattern
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.run import Run
from gra_hpc.run.slices import slice_of
from gra_hpc.run.window import make_sample
from gra_hpc.sources.seeds import read_records

SEEDS_READ = 2000
"""So many seeds are enough to draw examples from."""
DESCRIBED, REHEARSED = 16, 200
"""Seeds that are described, and candidates that are made: enough to meet with rare questions (the Adjudicator's)."""


@dataclass
class _Rehearsal:
    """Asks as a run does, of an engine that makes its answers up, and keeps what was asked."""

    run: Run
    engine: SimulatedEngine = field(default_factory=SimulatedEngine)
    requests: dict[str, Request] = field(default_factory=dict)
    asked: dict[str, list[tuple[Call, Request]]] = field(default_factory=dict)
    """Answered calls by their sample's id, the first of each template only."""

    async def ask(self, request: Request) -> Answer:
        """As an engine."""
        self.requests[request.digest] = request
        return await self.engine.ask(request)

    def get(self, key: str, digest: str) -> Call | None:
        """As a journal: nothing was answered before."""

    def append(self, call: Call) -> None:
        """As a journal: first answers to each template are kept."""
        id_, step = call.key.split("/")[:2]
        known = self.asked.setdefault(id_, [])
        if step not in {c.key.split("/")[1] for c, _ in known}:
            known.append((call, self.requests[call.digest]))

    async def make(self, units: Sequence[Unit]) -> None:
        """Take candidates through the method, one after another."""
        plan = self.run.plan
        asker = Asker(
            self.run.config.committee,
            {name: pin.identity for name, pin in plan.models.items()},
            self.run.config.method,
            self,
            self,
            lambda *_: None,
            special_pattern(plan.models),
            {name: pin.thinking for name, pin in plan.models.items()},
            plan.own_templates,
            plan.language_of(),
        )
        flow, config, tools = flow_of(self.run.config), self.run.config, Toolbox(Unkept())
        for unit in units:
            ask, use = asker.for_sample(unit.sample), tools.for_sample(unit.sample.id)
            await make_sample(flow, config, unit, ask, use)

    def story(self) -> list[tuple[Call, Request]]:
        """What the candidate that most was asked about was asked, in its order; then what only others were."""
        stories = sorted(self.asked.values(), key=len, reverse=True)
        out: dict[str, tuple[Call, Request]] = {}
        for call, request in (pair for story in stories for pair in story):
            out.setdefault(call.key.split("/")[1], (call, request))
        return list(out.values())


def rendered(run: Run) -> Iterator[str]:
    """One prompt of every template that the run asks with, as chat messages.

    Raises:
        SeedError: a run without seeds.
    """
    seeds = list(islice(read_records(seeds_of(run, run.plan)), SEEDS_READ))
    if not seeds:
        raise SeedError(f"{run.seeds}: no seeds", run.anew("seeds.path=FILE"))
    found = [pair for rehearsal in _rehearsed(run, seeds) for pair in rehearsal]
    if not found:
        yield "nobody is asked anything"
        return
    yield "prompts with seeds of yours; what models write into them is made up here"
    for number, call, request in found:
        _, step, seat, _ = call.key.split("/")
        yield f"--- {round_name(number)}, {seat}: {step}.j2, for {call.member} ({call.model})"
        for message in request.messages:
            yield f"[{message['role']}]"
            yield from message["content"].split("\n")
        yield ""


def _rehearsed(run: Run, seeds: Sequence[Record]) -> Iterator[list[tuple[int, Call, Request]]]:
    """What round 0 asks, if there is one, and what round 1 does."""
    blank = [s for s in seeds if not s.described]
    known = {s.id: s for s in seeds if s.described}
    if blank and run.plan.undescribed:
        units = list(islice(slice_of(run.config, RoundPlan(0, len(blank), 1), Pool(blank, {}), 0), DESCRIBED))
        yield [(0, *pair) for pair in _rehearse(run, units)]
        for u in units:
            if isinstance(made := u.sample, Sample) and made.summary:
                known[u.anchor.id] = replace(u.anchor, domain=made.domain, keywords=made.keywords, summary=made.summary)
    anchors = [known.get(s.id, s) for s in seeds if s.id in known or not run.plan.undescribed][:REHEARSED]
    pool = Pool(anchors, {})
    for s in known.values():
        pool.by_domain.setdefault(s.domain, []).append(s)
    units = list(slice_of(run.config, RoundPlan(1, REHEARSED, 1), pool, 0)) if anchors else []
    yield [(1, *pair) for pair in _rehearse(run, units)]


def _rehearse(run: Run, units: Sequence[Unit]) -> list[tuple[Call, Request]]:
    rehearsal = _Rehearsal(run)
    asyncio.run(rehearsal.make(units))
    return rehearsal.story()
