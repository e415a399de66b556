#!/usr/bin/env python3
"""A simulated cluster: how long a round takes, what is lost to what, the best shard size and the best width.

    python tools/simulated/simulate_cluster.py [--samples 1000000] [--nodes 512] [--real 60000] [--json FILE]

SIMULATED, in two steps, since the real code over a million samples (nine million calls, about 0.4 ms of CPU each) would
take an hour of this machine:

1. *The real code for a sample of workers*, `--real` candidates in all: planned by `gra_hpc.run.plan`, run by
   `gra_hpc.run.worker` with its choice of shards and their overlap, flow, journal, heartbeats, drains, resumption and
   publication on a real disk, over a simulated node of 8 GPUs in simulated time. Some are interrupted by SIGTERM
   (preemption) and SIGUSR2 (time limit) and run again. Gives the seconds of a worker as a function of its shards and
   their size, their spread, and the price of an interruption.
2. *The cluster for all samples*, event by event: workers that start their engines once and take shards until none is
   left, stragglers, preemption, time limits, requeues; every shard's seconds are drawn from step 1.

The engines' pace is the performance model's, from public figures; start times, preemption and stragglers are stated
below and can be set, or come from a site's calibration. No GPU and no Slurm is used.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gra_hpc.workers import Workers
from tools.simulated import simulation
from tools.simulated.simulated_workers import (
    LEAST,
    NODE,
    Measured,
    WorkerModel,
    experiments,
    read_measured,
    real_worker,
)

# ---- step 2: the cluster ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cluster:
    """What is stated about a cluster. Seconds, unless it says otherwise."""

    nodes: int = 512
    start_s: float = 120.0
    """Engines of a node, from the job's start to the first answer: weights of five 8B models, graphs; warm caches."""
    start_spread: float = 0.25
    """Standard deviation of its logarithm."""
    stragglers: float = 0.02
    """Part of the nodes that are slow."""
    straggler_speed: float = 0.6
    preempted_per_hour: float = 0.05
    """Per node."""
    requeue_s: float = 90.0
    """From an interruption to the next start."""
    limit_s: float = 4 * 3600.0
    lead_s: float = 90.0
    """Before the limit a worker drains."""
    launch_per_s: float = 50.0
    """Jobs that Slurm starts in a second."""
    max_array: int = 1001


@dataclass
class Ledger:
    """Node-seconds by what they went into."""

    work: float = 0.0
    """At the rate of the performance model: what an ideal node would take."""
    below_model: float = 0.0
    """Full nodes are slower than the model says."""
    tails: float = 0.0
    """Windows that fill and drain, once per worker; where one shard ends and the next begins."""
    starts: float = 0.0
    stragglers: float = 0.0
    interruptions: float = 0.0
    """Calls in flight when a worker was interrupted, and the starts of its next jobs."""
    waiting: float = 0.0
    """Nodes whose workers have ended while others still work; and waits for launches and requeues."""

    @property
    def used(self) -> float:
        """What an account is charged for."""
        return sum(asdict(self).values()) - self.waiting


@dataclass(frozen=True)
class Result:
    """A round on a cluster."""

    samples: int
    nodes: int
    size: int
    shards: int
    makespan: float
    ledger: Ledger
    interrupted: int
    started: int
    """Times that engines were started."""

    @property
    def charged_efficiency(self) -> float:
        """Ideal node-seconds over those that are charged."""
        return self.ledger.work / self.ledger.used

    @property
    def efficiency(self) -> float:
        """Ideal node-seconds over all nodes until the last shard."""
        return self.ledger.work / (self.nodes * self.makespan)


def simulate(samples: int, size: int, cluster: Cluster, model: WorkerModel, ideal_rate: float, seed: int = 0) -> Result:
    """A round of so many samples in shards of this size, event by event: a worker per node, as far as there are shards.

    A worker that ends at its limit, or is preempted, gives its shard back with what is left of it, and comes again.
    """
    rng = random.Random(seed)
    shards = -(-samples // size)
    workers = min(cluster.nodes, shards)
    speed = [
        (cluster.straggler_speed if rng.random() < cluster.stragglers else 1.0) * rng.gauss(1.0, 0.02)
        for _ in range(workers)
    ]
    ledger = Ledger(work=samples / ideal_rate, below_model=samples / model.rate - samples / ideal_rate)
    left = [(model.each + min(size, samples - n * size) / model.rate) * rng.choice(model.spread) for n in range(shards)]
    ledger.tails = sum(left) - samples / model.rate
    left.reverse()  # taken from the end

    def starts(at: float, first: bool) -> tuple[float, float]:
        """When its engines are ready, and when the job will be stopped."""
        nonlocal last_launch, started, busy
        last_launch = max(at, last_launch + 1 / cluster.launch_per_s)
        start = cluster.start_s * rng.lognormvariate(-(cluster.start_spread**2) / 2, cluster.start_spread)
        stop = rng.expovariate(cluster.preempted_per_hour / 3600) if cluster.preempted_per_hour else float("inf")
        stop = min(stop, cluster.limit_s - cluster.lead_s)
        started += 1
        busy += start
        if first:
            ledger.starts += start
        else:
            ledger.interruptions += start
        return last_launch + start, last_launch + max(stop, start)

    last_launch, started, interrupted, end, busy = 0.0, 0, 0, 0.0, 0.0
    events = []
    for n in range(workers):
        ready, stop = starts(0.0, True)
        events.append((ready, n, stop))
    heapq.heapify(events)
    while events:
        at, n, stop = heapq.heappop(events)
        if not left:  # its window drains, and it ends
            took = model.fixed / speed[n]
            ledger.tails += model.fixed
            ledger.stragglers += took - model.fixed
            busy += took
            end = max(end, at + took)
            continue
        work = left.pop()
        took = min(work / speed[n], max(0.0, stop - at))
        busy += took
        ledger.stragglers += took * (1 - speed[n])
        if took < work / speed[n]:
            interrupted += 1
            done = max(0.0, took * speed[n] - model.interruption)
            ledger.interruptions += took * speed[n] - done
            left.append(work - done)
            ready, again = starts(at + took + cluster.requeue_s, False)
            heapq.heappush(events, (ready, n, again))
        else:
            heapq.heappush(events, (at + took, n, stop))
    ledger.waiting = cluster.nodes * end - busy
    return Result(samples, cluster.nodes, size, shards, end, ledger, interrupted, started)


def sweep(
    samples: int, cluster: Cluster, model: WorkerModel, ideal: float, sizes: Sequence[int], widths: Sequence[int]
) -> list[Result]:
    """All shard sizes on all widths."""
    return [
        simulate(samples, size, replace(cluster, nodes=width), model, ideal)
        for width in widths
        for size in sizes
        if size <= samples
    ]


def best_size(results: Sequence[Result], nodes: int) -> Result:
    """The shard size with which a cluster is through first; of those within 2%, the largest that is charged at most 1%
    more than the least: files are as many as shards."""
    mine = [r for r in results if r.nodes == nodes]
    first = min(r.makespan for r in mine)
    good = [r for r in mine if r.makespan <= 1.02 * first]
    least = min(r.ledger.used for r in good)
    return max((r for r in good if r.ledger.used <= 1.01 * least), key=lambda r: r.size)


def best_width(results: Sequence[Result]) -> Result:
    """The widest cluster of which, at its best shard size, 80% of what is charged is work; else the thriftiest."""
    best = [best_size(results, n) for n in sorted({r.nodes for r in results})]
    good = [r for r in best if r.charged_efficiency >= 0.8]
    return max(good, key=lambda r: r.nodes) if good else max(best, key=lambda r: r.charged_efficiency)


# ---- report ----------------------------------------------------------------------------------------------------------


def render(
    found: Sequence[Measured], model: WorkerModel, ideal: float, at: Result, results: Sequence[Result], took: float
) -> str:
    """Everything, as plain text."""
    candidates = sum(m.experiment.candidates for m in found)
    calls = sum(m.calls for m in found)
    cpu = sum(m.cpu_seconds for m in found)
    lines = [
        f"SIMULATED cluster: {at.samples:,} samples on {at.nodes} nodes of 8 x 80 GB a100; this took {took:.0f} s",
        f"real code: {len(found)} workers, {candidates:,} candidates ({candidates / at.samples:.1%}), {calls:,} calls,"
        f" {1000 * cpu / max(1, calls):.2f} ms of CPU a call; the rest is drawn from them",
        f"a worker: {model.fixed:.0f} s + {model.each:.1f} s a shard + samples / {model.rate:.1f} a second (the model"
        f" says {ideal:.1f}; the slower of both counts);",
        f"    an interruption costs {model.interruption:.1f} s of work;"
        f" factors {model.spread[0]:.2f} to {model.spread[-1]:.2f}",
        "",
        f"{'best shard size here':24} {at.size:,} samples ({at.shards:,} shards)",
        f"{'through after':24} {at.makespan / 60:.1f} minutes; {at.interrupted} interruptions, {at.started} starts",
        f"{'efficiency':24} {at.efficiency:.1%} of the ideal, of all nodes to the end;"
        f" {at.charged_efficiency:.1%} of what is charged",
        "loss by cause, in shares of all nodes' time:",
    ]
    total = at.nodes * at.makespan
    lines += [f"    {k:16} {v / total:6.1%}" for k, v in asdict(at.ledger).items() if k != "work"]
    lines += ["", f"{'nodes':>6} {'best size':>10} {'minutes':>8} {'node-hours':>11} {'efficiency':>11} {'charged':>8}"]
    for nodes in sorted({r.nodes for r in results}):
        r = best_size(results, nodes)
        lines.append(
            f"{nodes:6} {r.size:10,} {r.makespan / 60:8.1f} {r.ledger.used / 3600:11.1f} {r.efficiency:11.1%}"
            f" {r.charged_efficiency:8.1%}"
        )
    wide = best_width(results)
    lines.append(
        f"best width: {wide.nodes} nodes (the widest of which 80% of the charge is work, else the thriftiest),"
        f" {wide.makespan / 60:.0f} minutes"
    )
    return "\n".join(lines)


def chart(results: Sequence[Result], path: Path) -> None:
    """Efficiency over shard size, for each width."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.5, 3.6))
    for nodes in sorted({r.nodes for r in results}):
        mine = [r for r in results if r.nodes == nodes]
        axis.plot([r.size for r in mine], [r.charged_efficiency for r in mine], "o-", ms=3, label=f"{nodes} nodes")
    axis.set(xscale="log", xlabel="samples of a shard", ylabel="work / node time charged", ylim=(0, 1))
    axis.set_title(f"simulated: {results[0].samples:,} samples", fontsize=10)
    axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = Cluster()
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument(
        "--real", type=int, default=60_000, help="candidates through the real code; 0: --measured alone"
    )
    parser.add_argument(
        "--measured", type=Path, help="what the real code gave: read if there, and added to; one file per --calibration"
    )
    parser.add_argument("--window", type=int, default=1024, help="launch.window")
    parser.add_argument("--workers", type=int, default=2, help="processes for the real code")
    parser.add_argument("--sizes", type=int, nargs="+", default=[250, 500, 1000, 2000, 4000, 8000, 16000, 32000, 64000])
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8, 16, 32, 64, 128, 256])
    for name in ("nodes", "start_s", "stragglers", "straggler_speed", "preempted_per_hour", "limit_s", "max_array"):
        value = getattr(usual, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), help=f"default: {value:g}", default=None)
    parser.add_argument(
        "--calibration", type=Path, help="a site's, by gra calibrate: engines' speed, and --start-s unless it is given"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    args = parser.parse_args()
    if not args.real and not (args.measured and args.measured.exists()):
        parser.error("--real 0 needs --measured FILE with what the real code gave before")
    if 0 < args.real < LEAST:
        parser.error(f"--real: at least {LEAST} candidates, so that workers of every kind are measured")
    began = time.monotonic()
    pace, start_s = simulation.pace_of(args.calibration)
    given = {k: v for k, v in vars(args).items() if k in Cluster.__dataclass_fields__ and v is not None}
    cluster = replace(usual, **({"start_s": start_s} if start_s else {}) | given)
    config = simulation.committee(args.window)
    ideal = pace * simulation.solved(config, NODE, simulation.measured_rates(config)).rota.samples_per_s
    found = read_measured(args.measured)
    todo = experiments(args.real) if args.real else []
    if todo:
        with Workers(args.workers) as workers:
            found += workers.map(real_worker, [(each, args.window, pace) for each in todo])
    if args.measured:
        args.measured.write_text(json.dumps([asdict(m) for m in found], indent=1) + "\n", encoding="utf-8")
    fitted = WorkerModel.fitted(found)
    # Answers of a few draws may be shorter than the model counts on: what is not lost is no gain.
    model = replace(fitted, rate=min(fitted.rate, ideal))
    widths = sorted({*args.widths, cluster.nodes})
    results = sweep(args.samples, cluster, model, ideal, args.sizes, widths)
    at = best_size(results, cluster.nodes)
    print(render(found, fitted, ideal, at, results, time.monotonic() - began))
    if args.json:
        rows = [asdict(r) | {"efficiency": r.efficiency, "charged_efficiency": r.charged_efficiency} for r in results]
        text = {"simulated": True, "model": asdict(model), "cluster": asdict(cluster), "results": rows}
        args.json.write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")
    if args.png:
        chart(results, args.png)


if __name__ == "__main__":
    main()
