#!/usr/bin/env python3
"""A simulated node: how the placement that is chosen compares with all others, in the model and in simulated time.

    python tools/simulated/simulate_node.py [--gpus 8] [--memory 80] [--models 5] [--samples 2000] [--window 256]

SIMULATED: no GPU is used. Models are 8-billion-parameter ones by their stated sizes, devices by their public figures,
the pace of an engine by the performance model that placement uses itself (`gra_hpc/placement/performance.py`); answers
are made up, their lengths drawn around the method's stated means. What is real: the flow, the journal, the shard's
window, routing and rotation, all in a clock that jumps. The exhaustive search is over blocks of like models (each block
of GPUs hosts a set of models, each split over the whole block); of the best arrangements with different blocks each is
simulated too, so that the chosen layout is compared with them outside the model that chose it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra_hpc.placement.hosts import Host, Space, place, prices, reach, share_time
from gra_hpc.placement.performance import Need
from gra_hpc.placement.placement import NodeSpec, Solution
from gra_hpc.placement.report import _naive
from gra_hpc.placement.turns import Rota, Turn, combine
from tools.simulated import simulation

Engines = list[tuple[Need, int, int]]
ALONE = "one model per GPU"


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


def worth(space: Space, width: int, models: int, call: float) -> float:
    """What a block with so many like models is worth at most, in samples a second of all models; below 0: no fit.

    Args:
        call: price of a call in flight, in the same unit.
    """
    if width not in space.splits(space.needs[0]):
        return -1.0
    hosts = place(space, [(n, width, 0) for n in space.needs[:models]])
    return sum(space.gains(h).worth(space.share(models), call) for h in hosts) if hosts else -1.0


Blocks = tuple[tuple[int, int], ...]
"""Blocks of a node as `(width, number of models)`."""


def profiles(space: Space, call: float = 0.0) -> list[tuple[float, Blocks]]:
    """All sets of blocks, with the rate that no assignment of models to them exceeds, best first.

    Args:
        call: a price of a call in flight, in samples a second of one model: any gives a bound (weak duality).
    """
    count = len(space.needs)
    known = {
        (w, k): worth(space, w, k, call * count)
        for w in (1, 2, 4, 8, 16)
        for k in range(1, count + 1)
        if w <= space.devices
    }
    found = set()
    for cut in divisions(space.devices, max(w for w, _ in known)):
        for sizes in itertools.product(range(1, count + 1), repeat=len(cut)):
            blocks = tuple(sorted(zip(cut, sizes, strict=True), reverse=True))
            if sum(sizes) >= count and all(known[b] >= 0 for b in blocks):
                found.add(blocks)
    calls = call * space.constants.calls_in_flight
    return sorted(((sum(known[b] for b in blocks) / count + calls, blocks) for blocks in found), reverse=True)


def seatings(
    blocks: Blocks, models: int, rates: Mapping[tuple[int, int], float], least: float
) -> Iterator[list[tuple[int, ...]]]:
    """Sets of models for blocks, by the blocks' order. Like models in like blocks: what counts is how many seats each
    model has in blocks of each kind, and each such arrangement comes once.

    Args:
        rates: by kind of block, what a seat does at most.
        least: every model's seats must do more together.
    """
    kinds = sorted(set(blocks), reverse=True)
    counts = [blocks.count(kind) for kind in kinds]
    options = [
        seats
        for seats in itertools.product(*(range(c + 1) for c in counts))
        if sum(n * rates[kind] for n, kind in zip(seats, kinds, strict=True)) > least
    ]

    def fill(start: int, left: tuple[int, ...], chosen: list[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
        if len(chosen) == models:
            if not any(left):
                yield chosen
            return
        for i in range(start, len(options)):
            rest = tuple(have - n for have, n in zip(left, options[i], strict=True))
            if min(rest) >= 0 and all(r <= c * (models - len(chosen) - 1) for r, c in zip(rest, counts, strict=True)):
                yield from fill(i, rest, [*chosen, options[i]])

    total = tuple(c * k for c, (_, k) in zip(counts, kinds, strict=True))
    for seats in fill(0, total, []):
        sets = []
        left = [list(s) for s in seats]
        for kind in blocks:  # the models with most seats left first: so none is left over
            own = kinds.index(kind)
            here = sorted(range(models), key=lambda m: -left[m][own])[: kind[1]]
            for m in here:
                left[m][own] -= 1
            sets.append(tuple(here))
        yield sets


@dataclass(frozen=True)
class Found:
    """A layout of the exhaustive search: the best with its blocks."""

    samples_per_s: float
    blocks: Blocks
    hosts: tuple[Host, ...]

    @property
    def name(self) -> str:
        """`6 x 1 model on 1 GPU, 2 x 2 on 1`."""
        kinds = [(self.blocks.count(b), *b) for b in sorted(set(self.blocks), key=lambda b: (b[1], b[0]))]
        (k, width, models), *rest = kinds
        first = f"{k} x {models} model{'s' * (models > 1)} on {width} GPU{'s' * (width > 1)}"
        return ", ".join([first, *(f"{k} x {models} on {width}" for k, width, models in rest)])


def exhaustive(space: Space, known: tuple[Host, ...], count: int) -> tuple[list[Found], int]:
    """The best sets of blocks of all, by the performance model, and how many arrangements were compared.

    Args:
        known: a layout: its price of a call rules out sets of blocks, whose bound is below those found.
        count: how many to find.
    """
    best: list[Found] = []
    compared = 0
    at = prices(space, known)
    for bound, blocks in profiles(space, at.call):
        floor = best[-1].samples_per_s if len(best) == count else 0.0
        if bound <= floor:
            break  # and so do all that follow
        top: Found | None = None
        seats = {(w, k): worth(space, w, k, 0.0) / k for w, k in set(blocks)}
        for sets in seatings(blocks, len(space.needs), seats, floor):
            compared += 1
            engines: Engines = []
            first = 0
            for (width, _), models in zip(blocks, sets, strict=True):
                engines += [(space.needs[m], width, first) for m in models]
                first += width
            hosts = place(space, engines)
            if hosts and reach(space, hosts, at) > (top.samples_per_s if top else floor):
                rate, shared = share_time(space, hosts)
                if rate > (top.samples_per_s if top else floor):
                    top = Found(rate, blocks, shared)
        if top:
            best = sorted([*best, top], key=lambda f: -f.samples_per_s)[:count]
    return best, compared


def layouts(solution: Solution) -> dict[str, Rota]:
    """The chosen placement, and others that one would try."""
    model = solution.model
    space = Space(tuple(model.needs), model.devices, model.memory, model.constants)
    found = {"chosen": solution.rota}
    for name, engines in _naive(space):
        hosts = place(space, engines) if engines else ()
        if hosts:
            rate, shared = share_time(space, hosts)
            found[name] = combine([Turn(shared, rate, ideal=rate)], model.constants)
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
    rotas = layouts(solution)
    compared, seconds = 0, 0.0
    if args.best and len(solution.rota.turns) == 1:
        space = Space(tuple(solution.model.needs), args.gpus, solution.model.memory, solution.model.constants)
        began = time.process_time()
        known = tuple(h for h in solution.rota.turns[0].engines if isinstance(h, Host))
        best, compared = exhaustive(space, known, args.best)
        seconds = time.process_time() - began
        for k, f in enumerate(best, 1):
            rate = f.samples_per_s
            rotas[f"{k}: {f.name}"] = combine([Turn(f.hosts, rate, ideal=rate)], space.constants)
    if args.only:
        rotas = {name: rota for name, rota in rotas.items() if name in args.only}
    piece = simulation.Slice.of(config, args.samples)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as processes:
        many = len(rotas)
        outcomes = list(processes.map(simulation.through, [piece] * many, rotas.values(), [pace] * many))
    rows = [
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
        for (name, rota), outcome in zip(rotas.items(), outcomes, strict=True)
    ]
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
    """As a table, and the chosen layout against the best of all others and against one model per GPU."""
    chosen = result["layouts"][0]
    lines = [
        f"SIMULATED node: {result['node']}, {result['models']} models of 8B, {result['samples']} samples,"
        f" window {result['window']}; samples a second (ideal by the model: {result['ideal']})",
        f"{'layout':50} {'engines':>7} {'model':>7} {'steady':>7} {'slice':>7} {'busy':>6}",
    ]
    for r in sorted(result["layouts"], key=lambda r: -r["modelled"]):
        lines.append(
            f"{r['layout'][:50]:50} {r['engines']:7} {r['modelled']:7.2f} {r['steady']:7.2f} {r['slice']:7.2f}"
            f" {r['busy']:6.0%}"
        )
    others = result["layouts"][1:]
    for name, against in (("the best of the others", others), (ALONE, [r for r in others if r["layout"] == ALONE])):
        if against:
            told = []
            for key in ("modelled", "steady", "slice"):
                most = max(r[key] for r in against)
                told.append(f"{key} {chosen[key] / most:.3f}" if most else f"{key} -")
            lines.append(f"{chosen['layout']} / {name}: {', '.join(told)}")
    e = result["exhaustive"]
    lines.append(
        f"exhaustive search: {e['compared']} arrangements of blocks in {e['seconds']} s;"
        f" placement: {result['placement_seconds']} s"
    )
    lines.append("steady: while the window was full; slice: from ready engines to the last sample, its tail included")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--memory", type=float, default=80.0, help="of a GPU, in GB")
    parser.add_argument("--device", default="a100")
    parser.add_argument("--models", type=int, default=5)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument(
        "--best", type=int, default=10, help="simulate so many of the best layouts by exhaustive search"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="LAYOUT", help="these layouts alone, by name")
    parser.add_argument("--calibration", type=Path, help="a site's, by gra calibrate: engines' speed")
    parser.add_argument("--json", type=Path)
    return parser


def main() -> None:
    args = parser().parse_args()
    result = compare(args)
    print(render(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
