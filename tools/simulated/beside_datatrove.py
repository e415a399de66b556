#!/usr/bin/env python3
"""Our worker and datatrove's three stages on the same paced devices: the same calls, asked by both.

    python tools/simulated/beside_datatrove.py --peer PYTHON [--seeds 3000] [--window 1024] [--speed 0.25] [--json FILE]

PYTHON: an interpreter that has datatrove[io] aiofiles httpx. SIMULATED: devices and models are paced servers
(`paced_server.py`), five models of 8 billion parameters on eight GPUs; real are both clients, processes and sockets.

ours       A worker of a run, as `gra` starts it, with the engines of our placement, all models at once.
in turns   datatrove hosts one model at a time on all GPUs, a replica on each, behind one address. Three stages:
           generate, review, adjudicate; each is a pass over the documents for each model, with barriers between.
together   The same three stages over the engines of our placement, all models at once: barriers, but no reloading.

datatrove is asked the calls that our run made, so that it knows for nothing which instructions are rejected before
their responses are paid for; all calls of a generator to one sample count as the first stage. Its seconds are from a
pass's first question to its last answer: reading, writing and starting processes are not counted. Models' loading is
told apart: as long as the performance model says, once for ours, once a pass in turns.

--jump     The same in a clock that jumps (`paced_time.py`): pace and order alone, whatever else this machine does.

ideal      What the devices need for the same tokens with their batches always full, one model on a device, no tail.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gra_hpc.engines.node import Node
from gra_hpc.flows.calls import Answer, Request
from gra_hpc.placement.hosts import Host
from gra_hpc.placement.placement import NodeSpec, Solution
from gra_hpc.run import worker
from gra_hpc.run.run import Run
from tools.bench.replay import Captured
from tools.simulated import paced_time, simulation
from tools.simulated.paced_server import Described, Neighbours, arguments, described, launcher
from tools.simulated.simulated_workers import make_run

WAYS = Path(__file__).parents[1] / "bench" / "shard_ways.py"


@dataclass
class Watched:
    """A node's engines that note when the first call was asked and the last one answered."""

    node: Node
    first: float = 0.0
    last: float = 0.0

    async def ask(self, request: Request) -> Answer:
        self.first = self.first or time.perf_counter()
        answer = await self.node.ask(request)
        self.last = time.perf_counter()
        return answer

    def drain(self) -> None:
        self.node.drain()

    def stats(self) -> dict[str, Any]:
        return self.node.stats()


@dataclass
class Devices:
    """The paced GPUs of one comparison."""

    solution: Solution
    memory_gb: float
    speed: float
    part: float
    """Of the work, until the last sample of a window is begun."""
    base: Path
    bound: int = 0
    """Calls in flight of a peer's runner. 0: more than fill its batches."""
    engines: dict[str, Described] = field(default_factory=dict)
    """By their names in the placement."""

    def __post_init__(self) -> None:
        rota = self.solution.rota
        if len(rota.turns) != 1:
            raise SystemExit("the models take turns on this node: give it more memory (--memory)")
        hosts = [h for h in rota.turns[0].engines if isinstance(h, Host)]
        made = {(h.need.name, tuple(h.devices)): d for h, d in zip(hosts, self.described(hosts), strict=True)}
        for place in self.solution.placement.engines:
            self.engines[place.name] = made[place.model, tuple(place.devices)]

    def described(self, hosts: list[Host]) -> list[Described]:
        return described(hosts, self.solution.rota.constants, self.memory_gb)

    def of_models(self, in_turns: bool) -> dict[str, list[Described]]:
        """The engines that answer for each model: those of the placement, or in turns one on each GPU, of them all."""
        found: dict[str, list[Described]] = {}
        for place in self.solution.placement.engines:
            found.setdefault(place.model, []).append(self.engines[place.name])
        if not in_turns:
            return found
        whole = next(iter(self.engines.values())).alone  # the models are of one size
        each = [Described(whole, whole, (d,), d) for d in range(self.solution.node.devices)]
        return dict.fromkeys(found, each)

    def most(self, in_turns: bool) -> int:
        """Calls in flight of a peer's runner."""
        return self.bound or 256 * (self.solution.node.devices if in_turns else 2)

    def fresh(self, way: str) -> tuple[Path, Path]:
        """A directory for reports, and a file for who is at work."""
        reports, shared = self.base / way, self.base / f"{way}.shared"
        reports.mkdir()
        Neighbours.create(shared, self.solution.node.devices)
        return reports, shared

    def arguments(self, engines: list[Described], shared: Path, report: Path) -> list[str]:
        return arguments(engines, shared, self.solution.rota.constants.sharing_loss, self.speed, report)


def ours(devices: Devices, run: Run) -> dict[str, Any]:
    """Our worker over the engines of the placement."""
    reports, shared = devices.fresh("ours")
    told = {n: devices.arguments([e], shared, reports / n) for n, e in devices.engines.items()}
    watched: list[Watched] = []

    @contextlib.asynccontextmanager
    async def opened(config: Any, *_: Any) -> AsyncIterator[Watched]:
        placement = devices.solution.placement
        with tempfile.TemporaryDirectory(prefix="gp-", dir="/tmp") as local:  # sockets' paths are short
            here = Path(local)
            async with Node(config.models, placement, config.engine, here, here / "logs", launcher(told)) as node:
                await node.start()
                watched.append(Watched(node))
                yield watched[0]

    usual, began = worker.open_engine, resource.getrusage(resource.RUSAGE_SELF)
    worker.open_engine = opened  # type: ignore[assignment]
    try:
        outcome = worker.work(run, 1)
    finally:
        worker.open_engine = usual
    spent = resource.getrusage(resource.RUSAGE_SELF)
    found = counted(told_in(reports), devices.speed, devices.part)
    cpu = spent.ru_utime + spent.ru_stime - began.ru_utime - began.ru_stime
    return found | {
        "seconds": devices.speed * (watched[0].last - watched[0].first),
        "load_seconds": devices.solution.start_s,
        "client_cpu_seconds": cpu,
        "outcome": str(outcome),
    }


@contextlib.contextmanager
def server(port: int, models: list[str], told: list[str]) -> Iterator[str]:
    """A paced server on a port of the loopback device."""
    argv = [sys.executable, "-m", "tools.simulated.paced_server", "--port", str(port), "--models", ",".join(models)]
    with subprocess.Popen([*argv, *told], cwd=WAYS.parents[2]) as process:
        try:
            while True:
                with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=9):
                    break
                if process.poll() is not None:
                    raise SystemExit(f"paced server on port {port}: ended with {process.returncode}")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def peer(devices: Devices, python: str, calls: Path, in_turns: bool, port: int) -> dict[str, Any]:
    """datatrove's three stages."""
    way = "in turns" if in_turns else "together"
    reports, shared = devices.fresh(way)
    engines = devices.of_models(in_turns)
    with contextlib.ExitStack() as stack:
        urls: dict[str, str] = {}
        for n, (m, mine) in enumerate(engines.items()):
            if in_turns and urls:
                urls[m] = next(iter(urls.values()))
                continue
            told = devices.arguments(mine, shared, reports / m)
            urls[m] = stack.enter_context(server(port + n, list(engines) if in_turns else [m], told))
        most = devices.most(in_turns)
        command = [python, str(WAYS), "datatrove", str(calls), str(devices.base / f"{way} out"), json.dumps(urls)]
        ended = subprocess.run(
            [*command, str(most), *(["in-turns"] if in_turns else [])], capture_output=True, text=True
        )
        if ended.returncode:
            raise SystemExit(f"datatrove failed:\n{ended.stderr[-3000:]}")
    asked = json.loads(ended.stdout.split("RESULT ")[1])
    start_s = devices.solution.model.constants.start_s
    return counted(told_in(reports), devices.speed, devices.part) | {
        "seconds": devices.speed * asked["seconds"],
        "load_seconds": start_s * asked["passes"] if in_turns else devices.solution.start_s,
        "client_cpu_seconds": asked["cpu_seconds"],
        "passes": asked["passes"],
        "same_texts": asked["same"],
    }


def jumped(devices: Devices, run: Run) -> dict[str, Any]:
    """Our worker, in a clock that jumps."""
    alone = {p.model: devices.engines[p.name].alone for p in devices.solution.placement.engines}
    began = time.process_time()
    seconds, told = paced_time.ours(run, devices.solution.rota, alone)
    cpu = time.process_time() - began
    return counted(told, 1.0, devices.part) | {
        "seconds": seconds, "load_seconds": devices.solution.start_s, "client_cpu_seconds": cpu,
    }  # fmt: skip


def jumped_peer(devices: Devices, samples: list[Any], in_turns: bool) -> dict[str, Any]:
    """The stages' order, in a clock that jumps."""
    loss, start_s = devices.solution.rota.constants.sharing_loss, devices.solution.model.constants.start_s
    engines = devices.of_models(in_turns)
    began = time.process_time()
    seconds, passes, told = paced_time.stages(samples, engines, loss, in_turns, devices.most(in_turns))
    return counted(told, 1.0, devices.part) | {
        "seconds": seconds,
        "load_seconds": start_s * passes if in_turns else devices.solution.start_s,
        "client_cpu_seconds": time.process_time() - began,
        "passes": passes,
    }


def told_in(reports: Path) -> list[dict[str, Any]]:
    """What the engines of servers that have ended did."""
    return [e for file in sorted(reports.iterdir()) for e in json.loads(file.read_bytes())]


def counted(engines: list[dict[str, Any]], speed: float, part: float) -> dict[str, Any]:
    """What the engines did, all together; seconds are devices'.

    Args:
        part: of the work, after which our window is not full any more: `early_full` is of the time until then.
    """
    keys = ("calls", "prompt_tokens", "cached_tokens", "answer_tokens", "full_s", "busy_s", "preempted", "late_s")
    sums = {k: sum(e[k] for e in engines) for k in keys}
    by_second: Counter[int] = Counter()
    for e in engines:
        by_second.update({int(second): full for second, full in e["by_second"].items()})
    begin, done = min(by_second), 0.0
    for second in sorted(by_second):
        end = second + 1
        done += by_second[second]
        if done >= part * sums["full_s"]:
            break
    batch = sum(e["running_s"] for e in engines) / max(1e-9, sums["busy_s"])
    return sums | {
        "speed": speed,
        "mean_batch": batch,
        "early_full": done / (end - begin),
        "late_share": sums["late_s"] / max(1e-9, sums["busy_s"]),
    }


def compare(args: argparse.Namespace, base: Path) -> dict[str, Any]:
    """All ways, one after another."""
    config = simulation.committee(args.window)
    rates = simulation.measured_rates(config)
    node = NodeSpec("gpu", args.gpus, args.memory, device_type=args.device)
    part = max(0.0, 1 - args.window / args.seeds)
    devices = Devices(simulation.solved(config, node, rates), args.memory, args.speed, part, base, args.most)
    run = make_run(base / "run", config, args.seeds // args.shards, args.shards)
    found = {"ours": jumped(devices, run) if args.jump else ours(devices, run)}
    say("ours", found["ours"], args.gpus)
    if args.peer or args.jump:
        samples = Captured.of(run.path, 0).by_sample()
        calls = base / "calls.json"
        calls.write_text(json.dumps(samples), encoding="utf-8")
        for way in args.ways:
            in_turns = way == "in turns"
            if args.jump:
                found[way] = jumped_peer(devices, samples, in_turns)
            else:
                found[way] = peer(devices, args.peer, calls, in_turns, args.port)
            say(way, found[way], args.gpus)
    ideal = found["ours"]["full_s"] / args.gpus
    result: dict[str, Any] = {
        "simulated": True,
        "node": f"{args.gpus} x {args.memory:g} GB {args.device}",
        "seeds": args.seeds // args.shards * args.shards,
        "shards": args.shards,
        "window": args.window,
        "speed": args.speed,
        "ideal_seconds": ideal,
        "planned_seconds": args.seeds / devices.solution.rota.samples_per_s,
        "share_of_ideal": ideal / found["ours"]["seconds"],
        "share_of_ideal_until_the_last_samples_begin": found["ours"]["early_full"] / args.gpus,
        "host_load": round(os.getloadavg()[0], 1),
        "ways": found,
    }
    for way, f in found.items():
        f["share_of_ideal"] = ideal / f["seconds"]
        f["early_share_of_ideal"] = f["early_full"] / args.gpus
        if way != "ours":
            whole = [x["seconds"] + x["load_seconds"] for x in (f, found["ours"])]
            result[f"ours over {way}"] = f["seconds"] / found["ours"]["seconds"]
            result[f"ours over {way}, loading counted"] = whole[0] / whole[1]
    return result


def say(way: str, f: dict[str, Any], gpus: int) -> None:
    """One line as soon as it is known."""
    print(
        f"{way:9} {f['seconds']:7.0f} device s (loading {f['load_seconds']:.0f} s more), {f['calls']} calls,"
        f" {f['answer_tokens']} tokens, batch {f['mean_batch']:.0f}, devices full"
        f" {f['full_s'] / f['seconds'] / gpus:.1%} ({f['early_full'] / gpus:.1%} until the last samples begin),"
        f" late {f['late_share']:.1%}, preempted {f['preempted']}, client's CPU {f['client_cpu_seconds']:.0f} s",
        flush=True,
    )


def main() -> None:
    """Parse, compare, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter with datatrove; none: ours against the ideal")
    parser.add_argument("--ways", nargs="*", choices=("in turns", "together"), default=["in turns", "together"])
    parser.add_argument("--jump", action="store_true", help="in a clock that jumps, without sockets (paced_time.py)")
    parser.add_argument("--seeds", type=int, default=3000)
    parser.add_argument("--shards", type=int, default=6)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--device", default="a100")
    parser.add_argument("--memory", type=float, default=80.0, help="of a GPU, in GB")
    parser.add_argument("--speed", type=float, default=0.25, help="device seconds in a second of ours")
    parser.add_argument("--most", type=int, default=0, help="calls in flight of a peer's runner (default: no bound)")
    parser.add_argument("--port", type=int, default=28761, help="first loopback port of the peer's servers")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # servers end with us
    with tempfile.TemporaryDirectory(prefix="gra-paced-") as temporary:
        result = compare(args, Path(temporary))
    told = {k: round(v, 3) if isinstance(v, float) else v for k, v in result.items() if k != "ways"}
    print(json.dumps(told, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
