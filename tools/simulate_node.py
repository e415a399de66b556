#!/usr/bin/env python3
"""A simulated node: how the placement that is chosen compares with all others, in the model and in simulated time.

    python tools/simulate_node.py [--gpus 8] [--memory 80] [--models 5] [--samples 6000] [--window 2048] [--only LAYOUT]

SIMULATED: no GPU is used. Models are 8-billion-parameter ones by their stated sizes, devices by their public figures,
the pace of an engine by the performance model that placement uses itself (`gra_hpc/engines/performance.py`); answers
are made up, their lengths drawn around the method's stated means. What is real: the flow, the journal, the shard's
window, routing and rotation, all in a clock that jumps. The best layout by exhaustive search is over blocks of like
models (each block of GPUs hosts a set of models, each split over the whole block).
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import simulation

from gra_hpc.engines.hosts import Host, Space, place, prices, reach, share_time
from gra_hpc.engines.performance import Need
from gra_hpc.engines.placement import NodeSpec, Solution
from gra_hpc.engines.placement_report import _naive
from gra_hpc.engines.turns import Rota, Turn, combine

Engines = list[tuple[Need, int, int]]
BEST = "best by exhaustive search"
CLOSE = 1e-3
"""Layouts within this share of the best are not told apart."""


def divisions(devices: int, widest: int) -> Iterator[tuple[int, ...]]:
    """Ways to cut a node into blocks of 1, 2, 4, ... GPUs, widest first."""
    if devices == 0:
        yield ()
        return
    width = widest
    while width >= 1:
        if width <= devices:
            for rest in divisions(devices - width, width):
                yield (width, *rest)
        width //= 2


def capacity(space: Space, width: int, models: int) -> float:
    """Samples a second that a block with so many like models does for one model at most; 0: they do not fit."""
    if width not in space.splits(space.needs[0]):
        return 0.0
    few = list(space.needs[:models])
    hosts = place(space, [(n, width, 0) for n in few])
    return space.usable(models) * hosts[0].samples_per_s if hosts else 0.0


def profiles(space: Space) -> list[tuple[float, tuple[tuple[int, int], ...]]]:
    """Blocks as `(width, number of models)`, with the rate that no assignment of models to them exceeds, best first."""
    count = len(space.needs)
    known = {
        (w, k): capacity(space, w, k)
        for w in (1, 2, 4, 8, 16)
        for k in range(1, count + 1)
        if w <= space.devices
    }
    found = set()
    for cut in divisions(space.devices, max(w for w, _ in known)):
        for sizes in itertools.product(range(1, count + 1), repeat=len(cut)):
            blocks = tuple(sorted(zip(cut, sizes, strict=True), reverse=True))
            if sum(sizes) >= count and all(known[b] for b in blocks):
                found.add(blocks)
    return sorted(((sum(known[b] for b in blocks) / count, blocks) for blocks in found), reverse=True)


def assignments(blocks: tuple[tuple[int, int], ...], models: int) -> Iterator[list[tuple[int, ...]]]:
    """Sets of models for blocks: of like blocks and like models, each arrangement once (nearly)."""

    def fill(i: int, known: int, chosen: list[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
        if i == len(blocks):
            if known == models:
                yield chosen
            return
        for models_here in itertools.combinations(range(models), blocks[i][1]):
            if i and blocks[i] == blocks[i - 1] and models_here < chosen[-1]:
                continue
            new = [m for m in models_here if m >= known]
            if new != list(range(known, known + len(new))):
                continue  # like models are named in the order in which they appear
            yield from fill(i + 1, known + len(new), [*chosen, models_here])

    yield from fill(0, 0, [])


def exhaustive(space: Space, floor: tuple[Host, ...], rate: float) -> tuple[float, tuple[Host, ...], int]:
    """The best blocks of all, by the performance model, and how many were compared.

    Args:
        floor: a known layout: its prices rule out most others without dividing their time (weak duality).
        rate: what it does.
    """
    best, hosts_best, compared = rate, floor, 0
    at = prices(space, floor)
    for bound, blocks in profiles(space):
        if bound <= best * (1 + CLOSE):
            break  # and so do all that follow
        for sets in assignments(blocks, len(space.needs)):
            compared += 1
            engines: Engines = []
            first = 0
            for (width, _), models in zip(blocks, sets, strict=True):
                engines += [(space.needs[m], width, first) for m in models]
                first += width
            hosts = place(space, engines)
            if hosts and reach(space, hosts, at) > best * (1 + CLOSE):
                found, shared = share_time(space, hosts)
                if found > best:
                    best, hosts_best = found, shared
    return best, hosts_best, compared


def layouts(solution: Solution) -> dict[str, Rota]:
    """The chosen placement, and others that one would try."""
    model = solution.model
    space = Space(tuple(model.needs), model.devices, model.memory, model.constants)
    found = {"chosen": solution.rota}
    for name, engines in _naive(space):
        hosts = place(space, engines) if engines else ()
        if hosts:
            rate, shared = share_time(space, hosts)
            found[name] = combine([Turn(shared, rate, bound=rate, ideal=rate)], model.constants)
    turns = model.one_by_one()
    if turns:
        found["one model awake at a time"] = turns
    return found


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """All layouts in the model, and in simulated time."""
    config = simulation.committee(args.window, args.models)
    pace, _ = simulation.pace_of(args.calibration)
    rates = simulation.measured_rates(config)
    node = NodeSpec("gpu", args.gpus, args.memory, device_type=args.device)
    solution = simulation.solved(config, node, rates)
    rows = []
    known = layouts(solution)
    compared, seconds = 0, 0.0
    if len(solution.rota.turns) == 1 and (not args.only or BEST in args.only):
        space = Space(tuple(solution.model.needs), args.gpus, solution.model.memory, solution.model.constants)
        began = time.process_time()
        floor = tuple(h for h in solution.rota.turns[0].engines if isinstance(h, Host))
        best, hosts, compared = exhaustive(space, floor, solution.rota.samples_per_s)
        seconds = time.process_time() - began
        known[BEST] = combine([Turn(hosts, best, bound=best, ideal=best)], space.constants)
    piece = simulation.Slice.of(config, args.samples)
    if args.only:
        known = {name: rota for name, rota in known.items() if name in args.only}
    for name, rota in known.items():
        outcome = simulation.through(piece, rota, pace)
        rows.append(
            {
                "layout": name,
                "engines": sum(len(t.engines) for t in rota.turns),
                "turns": len(rota.turns),
                "modelled": round(pace * rota.samples_per_s, 2),
                "steady": round(outcome.steady, 2),
                "slice": round(outcome.samples / outcome.seconds, 2),
                "busy": round(outcome.busy, 3),
                "swap_seconds": round(outcome.swap_seconds),
            }
        )
    return {
        "simulated": True,
        "node": f"{args.gpus} x {args.memory:g} GB {solution.model.constants.device.name}",
        "models": args.models,
        "samples": args.samples,
        "window": args.window,
        "ideal": round(pace * solution.rota.ideal, 2),
        "placement_seconds": round(solution.seconds, 2),
        "exhaustive": {"compared": compared, "seconds": round(seconds, 1)},
        "layouts": rows,
    }


def render(result: dict[str, Any]) -> str:
    """As a table."""
    chosen = result["layouts"][0]
    lines = [
        f"SIMULATED node: {result['node']}, {result['models']} models of 8B, {result['samples']} samples,"
        f" window {result['window']}; samples a second (ideal by the model: {result['ideal']})",
        f"{'layout':44} {'model':>7} {'steady':>7} {'slice':>7} {'busy':>6}   chosen against it: model, steady",
    ]
    for r in sorted(result["layouts"], key=lambda r: -r["modelled"]):
        against = f"{chosen['modelled'] / r['modelled']:.2f}"
        if r["steady"]:
            against += f"  {chosen['steady'] / r['steady']:.2f}"
        lines.append(
            f"{r['layout']:44} {r['modelled']:7.2f} {r['steady']:7.2f} {r['slice']:7.2f} {r['busy']:6.0%}   {against}"
        )
    e = result["exhaustive"]
    lines.append(
        f"exhaustive search: {e['compared']} sets of blocks in {e['seconds']} s;"
        f" placement: {result['placement_seconds']} s"
    )
    lines.append(
        "steady: while the window was full; slice: from ready engines to the last sample, its tail included"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--memory", type=float, default=80.0, help="of a GPU, in GB")
    parser.add_argument("--device", default="a100")
    parser.add_argument("--models", type=int, default=5)
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="LAYOUT", help="these layouts alone, by name"
    )
    parser.add_argument("--calibration", type=Path, help="a site's, by gra calibrate: engines' speed")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result = compare(args)
    print(render(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
