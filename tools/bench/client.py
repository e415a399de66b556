#!/usr/bin/env python3
"""Our process's own CPU time per call, over simulated servers in processes of their own.

python tools/bench/client.py cpu [--samples 2000] [--rate 600]     flow, journal, routing and client
python tools/bench/client.py clients [--calls 2000]                the client alone, beside the openai package
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from gra_hpc.config import presets
from gra_hpc.config.settings import EngineConfig, ModelConfig
from gra_hpc.engines.client import Client
from gra_hpc.engines.node import Node
from gra_hpc.flows.calls import Request, Sampling
from gra_hpc.flows.units import Pool
from gra_hpc.placement.placement import EnginePlace, Placement
from gra_hpc.records import Record
from gra_hpc.run.directory import RunDir
from gra_hpc.run.pins import ModelPin
from gra_hpc.run.plan import Plan, RoundPlan
from gra_hpc.run.slices import slice_of
from tools.bench.replay import drive
from tools.simulated.server import Faults, launcher


@contextlib.asynccontextmanager
async def simulated_node(models: list[str], latency_s: float) -> AsyncIterator[tuple[Node, Path]]:
    """A node of simulated servers, each a process of its own."""
    with tempfile.TemporaryDirectory(prefix="gb-", dir="/tmp") as temporary:
        base = Path(temporary)
        placement = Placement(tuple(EnginePlace(m, 0, ()) for m in models), "cpu")
        configs = {m: ModelConfig(path=m) for m in models}
        command = launcher(Faults(latency_s=latency_s))
        async with Node(configs, placement, EngineConfig(), base, base / "logs", command) as node:
            await node.start()
            yield node, base


async def cpu(args: argparse.Namespace) -> dict[str, Any]:
    """The flow, its journal and the client over five simulated servers, at a set number of calls a second."""
    config = presets.compose("alpaca")  # the paper's committee; no file of its models or seeds is opened
    names = list(config.models)
    plan = Plan("", {}, "", 0.0, 1, args.samples, 0, 0, {}, None)
    round_plan = RoundPlan(1, args.samples, 1)
    anchors = [
        Record(f"{i:032x}", f"Question {i}?", "An answer. " * 20, "qa", ("one", f"{i}", "three"), "A question. " * 5)
        for i in range(args.samples)
    ]
    units = list(slice_of(config, round_plan, Pool(anchors, {"qa": anchors}), 0))
    # A sample in flight has about 1.5 calls in flight: the latency sets the rate.
    latency = 1.5 * min(config.launch.window, len(units)) / args.rate
    async with simulated_node(names, latency) as (node, base):
        plan.models.update({n: ModelPin("", n, "", "") for n in names})
        done = await drive(RunDir(base), config, plan, round_plan, units, node, base)
    milliseconds = 1000 * done["cpu_seconds"] / done["calls"]
    return {
        "calls": done["calls"],
        "calls_per_s": round(done["calls"] / done["seconds"]),
        "cpu_ms_per_call": round(milliseconds, 3),
        "cores": round(done["cpu_seconds"] / done["seconds"], 3),
        "loop": type(asyncio.get_running_loop()).__module__,
    }


async def clients(args: argparse.Namespace) -> dict[str, Any]:
    """CPU time per call of our client, of the whole node in front of it, and of the `openai` package."""
    import httpx
    import openai

    def request(i: int) -> Request:
        messages = (
            {"role": "system", "content": "You review " * 10},
            {"role": "user", "content": f"{'word ' * 400}{i}"},
        )
        return Request("m", "", messages, Sampling(0.2, 0.9, 100, i))

    async def measure(one: Callable[[int], Coroutine[Any, Any, Any]]) -> float:
        numbers = iter(range(args.calls))

        async def worker() -> None:
            for i in numbers:
                await one(i)

        await asyncio.gather(*(one(i) for i in range(64)))
        began = time.process_time()
        await asyncio.gather(*(worker() for _ in range(64)))
        return round(1000 * (time.process_time() - began) / args.calls, 3)

    async with simulated_node(["m"], 0.0) as (node, _):
        process = node._replicas[0].process
        assert process is not None
        socket = str(process.spec.socket)
        ours = Client(socket, "m", 4096)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        transport = httpx.AsyncHTTPTransport(uds=socket, limits=limits)
        theirs = openai.AsyncOpenAI(
            api_key="none",
            base_url="http://engine/v1",
            http_client=httpx.AsyncClient(transport=transport, timeout=None),
        )

        async def with_openai(i: int) -> None:
            r = request(i)
            reply = await theirs.chat.completions.create(
                model="m",
                messages=list(r.messages),
                temperature=0.2,
                top_p=0.9,
                max_tokens=100,
                seed=i,  # type: ignore[arg-type]
            )
            assert reply.choices[0].message.content and reply.usage

        async def with_ours(i: int) -> None:
            await ours.chat(request(i), request(i).messages)

        async def with_node(i: int) -> None:
            await node.ask(request(i))

        result = {
            "client": await measure(with_ours),
            "node": await measure(with_node),
            "openai": await measure(with_openai),
        }
        await ours.close()
        await theirs.close()
    return {"cpu_ms_per_call": result, "loop": type(asyncio.get_running_loop()).__module__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    one = commands.add_parser("cpu", help="our CPU time per call, flow and journal included")
    one.add_argument("--samples", type=int, default=2000)
    one.add_argument("--rate", type=int, default=600, help="calls a second")
    two = commands.add_parser("clients", help="our client beside the openai package")
    two.add_argument("--calls", type=int, default=2000)
    for p in (one, two):
        p.add_argument("--uvloop", action="store_true")
    args = parser.parse_args()
    factory = None
    if args.uvloop:
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        result = runner.run({"cpu": cpu, "clients": clients}[args.what](args))
    print(json.dumps(result | {"load": round(os.getloadavg()[0], 1)}, indent=2))


if __name__ == "__main__":
    main()
