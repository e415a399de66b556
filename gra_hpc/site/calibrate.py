"""`gra calibrate`: what a small real run took, as the figures that later plans of the site go by."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gra_hpc.config import presets
from gra_hpc.config.settings import EngineKind, RunConfig
from gra_hpc.errors import ConfigError, IncompleteError
from gra_hpc.flows.registry import Flow, flow_of
from gra_hpc.flows.tools import is_use
from gra_hpc.parquet import read_table
from gra_hpc.records import THOUGHTS
from gra_hpc.run import planning
from gra_hpc.run.directory import RunDir
from gra_hpc.run.plan import Plan
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json, to_json, write_atomic
from gra_hpc.terminal import word

if TYPE_CHECKING:
    import pyarrow as pa

    from gra_hpc.placement.placement import Solution

SEEDS = 24
"""Seeds of a calibrating run, unless it says `seeds.limit`."""


def plan_small(path: Path, config: RunConfig) -> Run:
    """Plan a calibrating run: one shard, one round, few seeds.

    Raises:
        ConfigError: simulated engines have nothing to measure.
    """
    if config.engine.kind is EngineKind.simulated:
        raise ConfigError("engine.kind=simulated: nothing to measure", f"gra calibrate {word(path)} engine.kind=vllm")
    if all(m.endpoint.url for m in config.models.values()):
        raise ConfigError("every model is an endpoint: no engine of ours to measure", "gra plan RUN without it")
    config.seeds.limit = config.seeds.limit or SEEDS
    config.launch.shards = 1
    config.method.rounds, config.method.target_accepted = 1, 0
    return planning.make(path, config)


def measurable(run: RunDir) -> bool:
    """Whether a shard of round 1 is published."""
    return any(run.round(1).shards.glob("[0-9]*/manifest.json"))


def file_of(site: str) -> Path:
    """The calibration file of a site.

    Raises:
        ConfigError: no such site.
    """
    return presets.calibration_file(presets.find_site(site))


def measure(run: Run) -> dict[str, Any]:
    """Rates of the method and speeds of the models, from the published shards of round 1.

    Returns:
        A calibration as `engines.load.read_calibration` reads it, with where it comes from.

    Raises:
        IncompleteError: no shard of round 1 is published.
        ConfigError: the run's engines were simulated.
    """
    config, plan = run.config, run.plan
    if config.engine.kind is EngineKind.simulated:
        raise ConfigError(
            f"{run.path}: its engines were simulated: nothing to measure", "gra plan ANOTHER_RUN engine.kind=vllm"
        )
    shards = [(path.parent, read_json(path)) for path in sorted(run.round(1).shards.glob("[0-9]*/manifest.json"))]
    if not shards:
        raise IncompleteError(f"{run.path}: no shard of round 1 is published", f"gra status {word(run.path)}")
    flow = flow_of(config)
    calls, samples = _tables(shards, plan.thinks, flow)
    method = without_context(_method(calls, samples, flow, plan.thinking_models), config, plan.context_tokens)
    engines = [e for _, m in shards for e in m["engines"]["engines"].values()]
    starts = sum(e["starts"] for e in engines)
    return {
        "method": method,
        "performance": {
            "start_s": round(sum(e["start_seconds"] for e in engines) / max(1, starts), 1),
            "speed": _speeds(config, plan, method, engines, calls),
        },
        "from": {
            "run": str(run.path),
            "site": config.site.name,
            "host": shards[0][1]["host"],
            "at": round(time.time()),
            "candidates": samples.num_rows,
            "models": {name: pin.identity for name, pin in plan.models.items()},
        },
    }


def save(found: dict[str, Any], file: Path) -> Path:
    """Write a calibration; speeds of models that it did not measure are kept from the file that is there."""
    try:
        before = read_json(file)
    except FileNotFoundError:
        before = {}
    for part, key in (("performance", "speed"), ("from", "models")):
        found[part][key] = {**before.get(part, {}).get(key, {}), **found[part][key]}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, to_json(found))
    return file


def describe(found: dict[str, Any]) -> Iterator[str]:
    """A calibration, for people."""
    method, performance = found["method"], found["performance"]
    yield f"from {found['from']['candidates']} candidates in {found['from']['run']}"
    for key in ("acceptance", "instruction_pass", "adjudicated"):
        yield f"  {key:18} {f'{method[key]:.0%}' if key in method else 'not measured: the default stays'}"
    for step, size in sorted(method["steps"].items()):
        yield (
            f"  {step:18} {size['prompt_tokens']:.0f} + {size['completion_tokens']:.0f} tokens,"
            f" {size['tries']:.2f} tries"
            + (f", {size['thought_tokens']:.0f} tokens of thoughts" if "thought_tokens" in size else "")
        )
    yield f"  engine start       {performance['start_s']:.0f} s"
    for model, speed in performance["speed"].items():
        yield f"  speed of {model}: {speed:.2f} of the model's"


def _tables(shards: list[tuple[Path, dict[str, Any]]], thinks: bool, flow: Flow) -> tuple[pa.Table, pa.Table]:
    """Calls and samples of the shards; calls with their texts where some model thinks."""
    import pyarrow as pa

    columns = ["key", "model", "prompt_tokens", "completion_tokens", "seconds"]
    columns += ["text", THOUGHTS] if thinks else []
    calls = [read_table(d / m["calls"]["file"], columns) for d, m in shards]
    samples = [read_table(d / m["samples"]["file"], ["status", "stage", *flow.measured_by]) for d, m in shards]
    return pa.concat_tables(calls), pa.concat_tables(samples)


def _method(calls: pa.Table, samples: pa.Table, flow: Flow, thinking: Collection[str] = ()) -> dict[str, Any]:
    """Acceptance and sizes of the steps. What did not occur is left to the defaults.

    Args:
        thinking: models that think: their tokens are shared out between thoughts and answer by characters.
    """
    from gra_hpc.records import ACCEPTED

    sizes: dict[str, list[tuple[int, int]]] = defaultdict(list)
    thoughts: dict[str, list[int]] = defaultdict(list)
    questions: dict[str, set[str]] = defaultdict(set)
    for row in calls.to_pylist():
        if is_use(row["key"]):
            continue
        question = row["key"].rsplit("/", 1)[0]
        step = question.split("/")[1]
        written = row["completion_tokens"]
        if row["model"] in thinking:
            both = len(row["text"]) + len(row[THOUGHTS])
            thoughts[step].append(written * len(row[THOUGHTS]) // max(1, both))
            written -= thoughts[step][-1]
        sizes[step].append((row["prompt_tokens"], written))
        questions[step].add(question)
    rows = samples.to_pylist()
    found: dict[str, Any] = {
        "steps": {
            step: {
                "prompt_tokens": round(sum(p for p, _ in s) / len(s), 1),
                "completion_tokens": round(sum(c for _, c in s) / len(s), 1),
                "tries": round(len(s) / len(questions[step]), 3),
                **({"thought_tokens": round(sum(t) / len(t), 1)} if (t := thoughts.get(step)) else {}),
            }
            for step, s in sizes.items()
        }
    }
    accepted = sum(r["status"] == ACCEPTED for r in rows)
    shares = {"acceptance": accepted / len(rows) if accepted else 0.0, **flow.measured(rows)}
    return found | {name: round(share, 4) for name, share in shares.items() if share}


def without_context(method: dict[str, Any], config: RunConfig, context_tokens: float) -> dict[str, Any]:
    """Sizes of prompts without what they carried of the seeds' contexts: a plan adds its own seeds'."""
    from gra_hpc.placement.workload import MethodRates, asked

    for step in {a.step for a in asked(config, MethodRates()) if a.context} & method["steps"].keys():
        size = method["steps"][step]
        size["prompt_tokens"] = max(1.0, round(size["prompt_tokens"] - context_tokens, 1))
    return method


def _speeds(
    config: RunConfig, plan: Plan, method: dict[str, Any], engines: list[dict[str, Any]], calls: pa.Table
) -> dict[str, float]:
    """By model: tokens a second while it had work, over what the performance model says for as many calls at once."""
    import pyarrow.compute as pc

    solution = _solution(config, plan, method)
    speeds = {}
    for name in sorted({e["model"] for e in engines}):
        mine = [e for e in engines if e["model"] == name]
        busy, tokens = sum(e["busy_seconds"] for e in mine), sum(e["completion_tokens"] for e in mine)
        waited = pc.sum(calls.filter(pc.equal(calls["model"], name))["seconds"]).as_py() or 0.0
        if not busy or not tokens or not waited:
            continue
        modelled = _modelled(solution, name, batch=max(1.0, waited / busy))
        speeds[name] = round(tokens / busy / modelled, 3)
    return speeds


def _solution(config: RunConfig, plan: Plan, method: dict[str, Any]) -> Solution:
    """The placement that the run had, with the loads it turned out to have and the performance model's own speeds."""
    from gra_hpc.models.facts import facts_of
    from gra_hpc.placement.placement import NodeSpec, constants_of, solve
    from gra_hpc.placement.workload import MethodRates, method_load
    from gra_hpc.run.engines import pinned_models

    node = NodeSpec.of_site(config.site)
    models = pinned_models(config, plan)
    if not models:
        raise ConfigError("every model is an endpoint: no engine of ours to measure", "gra plan RUN without it")
    facts = {name: facts_of(m) for name, m in models.items()}
    rates = MethodRates().calibrated(method)
    load = method_load(config, rates, thinking=plan.thinking_models, context_tokens=plan.context_tokens)
    return solve(
        models,
        facts,
        node,
        {name: work for name, work in load.items() if name in models},
        config.engine.residency,
        constants=constants_of(config, node, rates=rates, thinking=plan.thinking_models),
    )


def _modelled(solution: Solution, model: str, batch: float) -> float:
    """Answer tokens a second of one replica with `batch` calls at once, by the performance model."""
    from gra_hpc.placement.performance import rate_curve

    engine = next(e for t in solution.rota.turns for e in t.engines if e.need.name == model)
    cores = len(engine.devices) if solution.model.cpu else 0
    constants = replace(solution.model.constants, speed={})
    return rate_curve(engine.need, engine.tensor_parallel, constants, cores).answer_tokens_per_s(batch)
