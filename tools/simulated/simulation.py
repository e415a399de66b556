"""What the simulators share: the committee, its seeds, and the real flow over simulated engines in simulated time.

Used by `simulate_node.py` and `simulate_cluster.py`. Everything here is simulated and named so: five models of
8 billion parameters by their stated sizes, devices by their public figures, answers made up.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gra_hpc import signals
from gra_hpc.config import presets
from gra_hpc.config.settings import RunConfig
from gra_hpc.engines.simulated import SimulatedEngine
from gra_hpc.flows.calls import Engine
from gra_hpc.flows.expected import StepSize
from gra_hpc.flows.units import Pool, Unit
from gra_hpc.models.facts import ModelFacts, stated_facts
from gra_hpc.placement.placement import NodeSpec, Solution, constants_of, solve
from gra_hpc.placement.turns import Rota
from gra_hpc.placement.workload import MethodRates, method_load, read_calibration
from gra_hpc.records import ACCEPTED, Record, Sample
from gra_hpc.run import attempt_state, window
from gra_hpc.run.attempts import Heartbeat
from gra_hpc.run.directory import AttemptDir, RunDir
from gra_hpc.run.journal import Journal
from gra_hpc.run.pins import ModelPin
from gra_hpc.run.plan import Plan, RoundPlan
from gra_hpc.run.slices import slice_of
from tools.simulated.clock import SimulatedTimeLoop
from tools.simulated.node import SimulatedNode

MODEL = stated_facts(parameters=8.03e9, layers=32, heads=32, kv_heads=8, intermediate=14336)
"""Llama-3.1-8B's figures, for each of the five."""
DOMAINS = ("coding", "math", "qa", "reasoning", "role_play", "language", "creation")


def committee(window: int, models: int = 5) -> RunConfig:
    """A run's configuration: so many models, all members, the paper's method."""
    names = [f"model-{chr(ord('a') + i)}" for i in range(models)]
    words = [f"launch.window={window}", "method.target_accepted=0", "method.samples_per_seed=1", "method.rounds=1"]
    config = presets.compose("alpaca", words)
    usual = next(iter(config.models.values()))
    config.models = dict.fromkeys(names, usual)
    member = next(iter(config.committee.values()))
    config.committee = {n: type(member)(model=n, sampling=member.sampling) for n in names}
    return config


def facts(config: RunConfig) -> dict[str, ModelFacts]:
    """The same stated sizes for every model."""
    return dict.fromkeys(config.models, MODEL)


def seeds(count: int) -> list[Record]:
    """Described seeds, in all domains."""
    return [
        Record(
            f"{i:032x}",
            f"Explain number {i}.",
            "A made-up answer. " * (4 + i % 23),
            DOMAINS[i % 7],
            (f"number {i}", "counting", f"order {i % 97}"),
            f"The reader is asked to explain the number {i}.",
        )
        for i in range(count)
    ]


@dataclass
class Slice:
    """A shard's candidates without a run directory."""

    config: RunConfig
    plan: Plan
    round_plan: RoundPlan
    pool: Pool

    @classmethod
    def of(cls, config: RunConfig, samples: int) -> Slice:
        pins = {n: ModelPin("", n, "", "") for n in config.models}
        plan = Plan("", {}, "", 0.0, 1, samples, 0, 0, pins, None)
        records = seeds(samples)
        by_domain: dict[str, list[Record]] = {}
        for r in records:
            by_domain.setdefault(r.domain, []).append(r)
        return cls(config, plan, RoundPlan(1, samples, 1), Pool(records, by_domain))

    def units(self) -> list[Unit]:
        """The candidates, new at every call: a flow fills them in."""
        return list(slice_of(self.config, self.round_plan, self.pool, 0))


@dataclass
class Timed(attempt_state.Attempt):
    """An attempt that notes when its samples ended, in seconds of the loop's clock, and the tokens answered by then."""

    ended: list[tuple[float, int]] = field(default_factory=list)

    def finished(self, sample: Sample) -> None:
        super().finished(sample)
        tokens = sum(t[2] for t in self.tokens.values())
        self.ended.append((asyncio.get_running_loop().time(), tokens))


async def drive(piece: Slice, engine: Engine) -> Timed:
    """The shard's own work on a slice, with a journal on the disk: all but starting engines and publishing."""
    with tempfile.TemporaryDirectory(prefix="gra-simulated-") as temporary:
        here = AttemptDir(Path(temporary), "simulated")
        with contextlib.closing(Journal([], here.journal)) as journal:
            units = piece.units()
            run = RunDir(Path(temporary))
            state = Timed(
                run,
                piece.config,
                piece.plan,
                piece.round_plan,
                run.round(1).shard(0),
                here,
                journal,
                Heartbeat(here.id, 0, 1, planned=len(units)),
                signals.Signals(),
                attempt_state.Shared.of(piece.config),
            )
            await window.drive(state, units, window.Gate(engine, state.draining), 0.0)
            assert len(state.samples) == len(units)
            return state


def measured_rates(config: RunConfig, samples: int = 300) -> MethodRates:
    """What the method's decisions come to with the simulated engine's answers: the load that placement plans for.

    Lengths stay as stated; nothing is asked twice, since the simulated engine's answers can always be used.
    """
    piece = Slice.of(config, samples)
    done = asyncio.run(drive(piece, SimulatedEngine())).samples
    passed = [s for s in done if s.response]
    usual = MethodRates()
    steps = {k: StepSize(v.prompt_tokens, v.completion_tokens) for k, v in usual.steps.items()}
    return MethodRates(
        acceptance=sum(s.status == ACCEPTED for s in done) / len(done),
        instruction_pass=len(passed) / len(done),
        adjudicated=sum(s.verdict is not None for s in passed) / max(1, len(passed)),
        steps=steps,
    )


def pace_of(calibration: Path | None) -> tuple[float, float | None]:
    """What a site measured (`gra calibrate`): how fast its engines are, as a part of what the performance model says
    (the models' geometric mean), and the seconds that they take to start; 1 and nothing without a file."""
    if calibration is None:
        return 1.0, None
    _, performance = read_calibration(calibration)
    speeds = performance.get("speed") or {"": 1.0}
    return statistics.geometric_mean(speeds.values()), performance.get("start_s")


def solved(config: RunConfig, node: NodeSpec, rates: MethodRates) -> Solution:
    """Where placement puts the committee on a node."""
    load = method_load(config, rates)
    return solve(config.models, facts(config), node, load, constants=constants_of(config, node, rates=rates))


@dataclass(frozen=True)
class Outcome:
    """A slice through a simulated node."""

    samples: int
    seconds: float
    """Simulated, from the engines' readiness to the last sample."""
    steady: float
    """Samples a second while the window was full, by the tokens answered until then."""
    busy: float
    """Part of the time in which an engine had calls, on average."""
    swap_seconds: float
    calls: int


def through(piece: Slice, rota: Rota, speed: float = 1.0) -> Outcome:
    """Take a slice through a node in simulated time."""

    async def work() -> Outcome:
        node = SimulatedNode(rota, piece.config.engine, speed=speed)
        state = await drive(piece, node)
        node.close()
        stats = node.stats()
        took = asyncio.get_running_loop().time()
        return Outcome(
            samples=len(state.ended),
            seconds=took,
            steady=steady_rate(state.ended, piece.config.launch.window),
            busy=sum(e["busy_seconds"] for e in stats["engines"].values()) / took / len(stats["engines"]),
            swap_seconds=stats["rotation"]["swap_seconds"],
            calls=sum(e["calls"] for e in stats["engines"].values()),
        )

    with asyncio.Runner(loop_factory=SimulatedTimeLoop) as runner:
        return runner.run(work())


def steady_rate(ended: Sequence[tuple[float, int]], window: int) -> float:
    """Samples a second until the last one was begun, from (time, tokens answered so far) at the end of each.

    A sample counts by its tokens: of those in the window, parts are done.
    """
    full = len(ended) - window - 1  # with this one's end the last sample was begun
    if full < 0 or not ended[full][0]:
        return 0.0
    seconds, tokens = ended[full]
    return tokens / seconds * len(ended) / ended[-1][1]
