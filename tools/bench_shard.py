#!/usr/bin/env python3
"""A shard's speed and price: against raw vLLM and a peer's pipeline on the same calls, and our own CPU time per call.

    python tools/bench_shard.py compare RUN [--samples N] [--times 5] [--peer PYTHON] [--png FILE]
    python tools/bench_shard.py cpu [--samples 2000] [--rate 600]
    python tools/bench_shard.py clients [--calls 2000]

`compare` captures every call of a published run and asks the same calls again: offline (`LLM.chat`, one batch, longest
answers first: no dependence between calls, so an upper bound), through our flow, journal, routing and engines, and
(with PYTHON of an environment that has datatrove) through datatrove's `InferenceRunner` in three stages. Engines are
started once, with the same settings on the same cores; prefix caches are emptied before each replay; start-up is not
counted. Each call is asked as it was; the flow then goes on with the recorded answer, so that every way asks the same.

`cpu` and `clients` measure our process alone, over simulated servers in processes of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra_hpc import presets, shard
from gra_hpc.attempt import Heartbeat
from gra_hpc.config import EngineConfig, ModelConfig, RunConfig
from gra_hpc.engines import vllm_server
from gra_hpc.engines.client import Client
from gra_hpc.engines.door import Answer, Engine, Request, Sampling
from gra_hpc.engines.hosting import pinned_models, plan_engines
from gra_hpc.engines.node import Node
from gra_hpc.engines.placement import EnginePlace, Placement
from gra_hpc.engines.simulated_server import Faults, launcher
from gra_hpc.engines.vllm_server import EngineSpec
from gra_hpc.flows.ask import Asker
from gra_hpc.journal import Journal
from gra_hpc.plan import Plan, RoundPlan
from gra_hpc.records import Call, Record
from gra_hpc.rundir import AttemptDir, RunDir
from gra_hpc.slices import Pool, Unit, slice_of
from gra_hpc.storage import read_json

WAYS = Path(__file__).with_name("bench_shard_ways.py")
PARALLEL = ("review_instruction", "review_response")
"""Steps whose calls are asked at once."""


# ---- the calls of a run --------------------------------------------------------------------------------------------


@dataclass
class Replayed:
    """An engine that asks another one, and gives the recorded answer."""

    known: dict[str, Call]
    """Recorded calls by the digest of their request."""
    engine: Engine | None = None
    """None: the recorded answers alone."""
    asked: list[Request] | None = None
    calls: int = 0
    tokens: int = 0
    same: int = 0

    async def ask(self, request: Request) -> Answer:
        call = self.known[request.digest]
        if self.asked is not None:
            self.asked.append(request)
        answer = Answer(call.text, call.finish, call.prompt_tokens, call.completion_tokens, 0.0)
        if self.engine is not None:
            real = await self.engine.ask(request)
            self.calls += 1
            self.tokens += real.completion_tokens
            self.same += real.text == call.text
        return answer


@dataclass
class Captured:
    """A published round: what makes its calls happen again."""

    run: RunDir
    config: RunConfig
    plan: Plan
    round_plan: RoundPlan
    known: dict[str, Call]
    samples: int

    @classmethod
    def of(cls, path: Path, samples: int) -> Captured:
        """Round 1 of a run, or its first samples."""
        import pyarrow.parquet as pq

        run = RunDir.existing(path)
        config, plan = presets.load(run.config), Plan.load(run)
        round_plan = RoundPlan.load(run.round(1))
        known = {}
        for n in range(round_plan.shards):
            here = run.round(1).shard(n)
            table = pq.read_table(here.calls(read_json(here.manifest)["attempt"]))
            known |= {row["digest"]: Call(**row) for row in table.to_pylist()}
        captured = cls(run, config, plan, round_plan, known, samples)
        captured.samples = len(captured.units())
        return captured

    def units(self) -> list[Unit]:
        """The samples to make, all shards as one slice; new at every call, since a flow fills them in."""
        pool = Pool.of_round(self.run, self.plan, 1)
        found = [
            u for n in range(self.round_plan.shards) for u in slice_of(self.config, self.round_plan, pool, n)
        ]
        return found[: self.samples or len(found)]

    def by_sample(self) -> list[list[dict[str, Any]]]:
        """Every sample's calls in the order they are asked, with what an engine needs to answer them."""

        async def capture(unit: Unit) -> list[dict[str, Any]]:
            replayed = Replayed(self.known, asked=[])
            asker = Asker(
                self.config.committee,
                {name: pin.identity for name, pin in self.plan.models.items()},
                self.config.method,
                replayed,
                Forgetful(),
                lambda *_: None,
            )
            await shard._make(self.config, unit, asker)
            out: list[dict[str, Any]] = []
            assert replayed.asked is not None
            for request in replayed.asked:
                call = self.known[request.digest]
                _, step, seat, attempt = call.key.split("/")
                beside = out and step in PARALLEL and out[-1]["step"] == step and attempt == "0"
                s = request.sampling
                out.append(
                    {
                        "wave": out[-1]["wave"] if beside else len(out),
                        "step": step,
                        "role": seat.split("-")[0],
                        "model": request.model,
                        "messages": list(request.messages),
                        "schema": request.schema,
                        "sampling": {
                            "temperature": s.temperature,
                            "top_p": s.top_p,
                            "max_tokens": s.max_tokens,
                            "seed": s.seed,
                            "repetition_penalty": s.repetition_penalty,
                        },
                        "text": call.text,
                        "completion_tokens": call.completion_tokens,
                    }
                )
            return out

        async def all_of_them() -> list[list[dict[str, Any]]]:
            return [await capture(u) for u in self.units()]

        return asyncio.run(all_of_them())


class Forgetful:
    """Calls that are not kept."""

    def get(self, key: str, digest: str) -> Call | None:  # noqa: ARG002
        return None

    def append(self, call: Call) -> None:
        pass


async def drive(
    run: RunDir,
    config: RunConfig,
    plan: Plan,
    round_plan: RoundPlan,
    units: list[Unit],
    engine: Engine,
    work: Path,
) -> dict[str, float]:
    """A shard's own work on these units, with a journal on the disk: all but starting engines and publishing."""
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        here = AttemptDir(Path(temporary), "bench")
        with contextlib.closing(Journal([], here.journal)) as journal:
            beat = Heartbeat(here.id, 0, 1, planned=len(units))
            state = shard.Attempt(
                run, config, plan, round_plan, run.round(1).shard(0), here, journal, beat, shard.Signals()
            )
            began, cpu = time.perf_counter(), time.process_time()
            await shard._drive(state, units, shard.Gate(engine, state.draining), 0.0)
            seconds, spent = time.perf_counter() - began, time.process_time() - cpu
            assert len(state.samples) == len(units)
            return {"seconds": seconds, "cpu_seconds": spent, "calls": journal.appended}


# ---- three ways ------------------------------------------------------------------------------------------------------


def spec_of(captured: Captured, directory: Path) -> EngineSpec:
    """The one engine of a run over one model, as its placement has it; its prefix cache can be emptied."""
    placement = plan_engines(captured.config, captured.plan).placement
    if len(placement.engines) != 1:
        names = ", ".join(e.name for e in placement.engines)
        raise SystemExit(f"compare: wants a run with one engine (the demo's), this one has {names}")
    captured.config.engine.env |= {"VLLM_SERVER_DEV_MODE": "1"}
    place = placement.engines[0]
    for name in ("tmp", "cache"):
        (directory / name).mkdir(parents=True)
    return EngineSpec(
        place,
        pinned_models(captured.config, captured.plan)[place.model],
        captured.config.engine,
        placement.kind,
        directory / "unused.s",
        directory / "tmp",
        directory / "cache",
        29500,
    )


@contextlib.contextmanager
def offline(spec: EngineSpec) -> Iterator[Callable[[list[dict[str, Any]]], dict[str, Any]]]:
    """vLLM's `LLM` in a process of its own, with the server's settings."""
    argv = vllm_server.launch(spec).argv
    settings: dict[str, Any] = {
        "model": argv[argv.index("--model") + 1],
        "dtype": spec.model.dtype,
        "max_model_len": spec.model.max_model_len,
        "max_num_seqs": spec.engine.max_running,
        "load_format": spec.model.load_format,
        "generation_config": "vllm",
        "seed": 0,
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        "kv_cache_memory_bytes": vllm_server.kv_cache_bytes(spec),
    }
    if spec.kind == "cpu":
        longest = max(2048, spec.model.max_model_len)
        settings |= {
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": longest,
        }
    with subprocess.Popen(
        [sys.executable, str(WAYS), "raw"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(spec.private / "raw.log").open("w"),
        env=vllm_server.environment(spec, os.environ),
        start_new_session=True,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def say(what: Any) -> dict[str, Any]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(what) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise SystemExit("raw vLLM ended:\n" + (spec.private / "raw.log").read_text()[-2000:])
            found: dict[str, Any] = json.loads(line)
            return found

        try:
            say(settings)
            yield say
        finally:
            process.stdin.close()
            end_group(process)


def end_group(process: subprocess.Popen[Any]) -> None:
    """End a process and its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)


@contextlib.contextmanager
def tcp_server(spec: EngineSpec, port: int) -> Iterator[str]:
    """The same server on a TCP port of the loopback device, for clients that know no Unix sockets."""
    argv = list(vllm_server.launch(spec).argv)
    at = argv.index("--uds")
    argv[at : at + 2] = ["--host", "127.0.0.1", "--port", str(port)]
    log = (spec.private / "server.log").open("w")
    process = subprocess.Popen(
        argv, env=vllm_server.environment(spec, os.environ), stdout=log, stderr=log, start_new_session=True
    )
    try:
        url = f"http://127.0.0.1:{port}"
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=2):
                break
            if process.poll() is not None:
                raise SystemExit("server ended:\n" + (spec.private / "server.log").read_text()[-2000:])
            time.sleep(0.5)
        yield url
    finally:
        end_group(process)


@contextlib.contextmanager
def watched(address: str, found: dict[str, Any]) -> Iterator[None]:
    """Look at a server's load meanwhile, from another process."""
    with subprocess.Popen(
        [sys.executable, "-I", str(WAYS), "watch", address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield
        finally:
            text, _ = process.communicate()
            found |= json.loads(text or "{}")


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """The same calls in all ways, one after another, several times."""
    captured = Captured.of(args.run, args.samples)
    samples = captured.by_sample()
    calls = [c for s in samples for c in s]
    rows: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="gb-", dir="/tmp") as temporary:
        base = Path(temporary)
        (base / "calls.json").write_text(json.dumps(samples))
        asyncio.run(_replay(args, captured, calls, base, rows))
    figures: dict[str, Any] = {
        way: {
            key: _spread([r[key] for r in found])
            for key in (
                "seconds",
                "tokens_per_s",
                "cpu_ms_per_call",
                "idle_share",
                "mean_running",
                "whole_seconds",
            )
            if key in found[0]
        }
        | {"tokens": found[0]["tokens"], "same_texts": min(r["same"] for r in found)}
        for way, found in rows.items()
    }
    for way, found in rows.items():
        if way != "raw":
            ratios = [r["tokens_per_s"] / b["tokens_per_s"] for r, b in zip(found, rows["raw"], strict=True)]
            figures[way]["of_raw"] = _spread(ratios)
    for way in ("datatrove", "datatrove-chained"):
        if way in rows:
            pairs = zip(rows["shard"], rows[way], strict=True)
            figures[f"shard_over_{way}"] = _spread([a["tokens_per_s"] / b["tokens_per_s"] for a, b in pairs])
    return {"samples": len(samples), "calls": len(calls), "times": args.times, **figures}


async def _replay(
    args: argparse.Namespace,
    captured: Captured,
    calls: list[dict[str, Any]],
    base: Path,
    rows: dict[str, list[dict[str, Any]]],
) -> None:
    spec = spec_of(captured, base / "e")
    placement = Placement((spec.place,), spec.kind)
    models = {spec.place.model: spec.model}

    def keep(way: str, found: dict[str, Any]) -> None:
        found["tokens_per_s"] = found["tokens"] / found["seconds"]
        found["cpu_ms_per_call"] = 1000 * found["cpu_seconds"] / len(calls)
        rows.setdefault(way, []).append(found)
        print(
            f"{way:18} {json.dumps({k: round(v, 3) for k, v in found.items()})}", file=sys.stderr, flush=True
        )

    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(offline(spec))
        url = stack.enter_context(tcp_server(spec, args.port)) if args.peer else ""
        async with Node(models, placement, captured.config.engine, base, base / "logs") as node:
            await node.start()
            process = node._replicas[0].process
            assert process is not None
            for n in range(args.times + 1):  # the first time warms up
                sink = keep if n else (lambda *_: None)
                some = calls if n else calls[:20]
                sink("raw", raw(some))
                await process.client._command("/reset_prefix_cache", 30.0)
                replayed = Replayed(captured.known, node)
                units = captured.units()
                load: dict[str, Any] = {}
                with watched(str(process.spec.socket), load):
                    done = await drive(
                        captured.run,
                        captured.config,
                        captured.plan,
                        captured.round_plan,
                        units if n else units[:4],
                        replayed,
                        base,
                    )
                sink("shard", done | load | {"tokens": replayed.tokens, "same": replayed.same})
                for way in args.peer_ways if args.peer and n else ():
                    urllib.request.urlopen(urllib.request.Request(f"{url}/reset_prefix_cache", method="POST"))
                    command = [
                        args.peer,
                        str(WAYS),
                        "datatrove",
                        str(base / "calls.json"),
                        str(base / f"{way}{n}"),
                        url,
                    ]
                    command += [spec.place.model, *(["--chained"] if "chained" in way else [])]
                    load = {}
                    with watched(url.removeprefix("http://"), load):
                        ended = subprocess.run(command, capture_output=True, text=True)
                    if ended.returncode:
                        raise SystemExit(f"datatrove failed:\n{ended.stderr[-2000:]}")
                    found = json.loads(ended.stdout.split("RESULT ")[1])
                    keep(way, found | load)


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "min": round(min(values), 3),
        "median": round(statistics.median(values), 3),
        "max": round(max(values), 3),
    }


def chart(result: dict[str, Any], path: Path) -> None:
    """Tokens a second by way, with the spread over repetitions, and CPU time per call."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ways = [w for w in ("raw", "shard", "datatrove", "datatrove-chained") if w in result]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    for axis, key, title in (
        (axes[0], "tokens_per_s", "output tokens a second"),
        (axes[1], "cpu_ms_per_call", "client CPU, ms a call"),
    ):
        values = [result[w][key] for w in ways]
        middle = [v["median"] for v in values]
        spread = [
            [m - v["min"] for m, v in zip(middle, values, strict=True)],
            [v["max"] - v["median"] for v in values],
        ]
        axis.barh(ways, middle, xerr=spread, color=["#999", "#27c", "#c72", "#c93"][: len(ways)], capsize=3)
        axis.set_title(title, fontsize=10)
        axis.invert_yaxis()
    figure.suptitle(
        f"{result['calls']} calls of {result['samples']} samples, {result['times']} times", fontsize=10
    )
    figure.tight_layout()
    figure.savefig(path, dpi=120)


# ---- our process alone ---------------------------------------------------------------------------------------------


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
        Record(
            f"{i:032x}",
            f"Question {i}?",
            "An answer. " * 20,
            "qa",
            ("one", f"{i}", "three"),
            "A question. " * 5,
        )
        for i in range(args.samples)
    ]
    units = list(slice_of(config, round_plan, Pool(anchors, {"qa": anchors}), 0))
    # A sample in flight has about 1.5 calls in flight: the latency sets the rate.
    latency = 1.5 * min(config.launch.window, len(units)) / args.rate
    async with simulated_node(names, latency) as (node, base):
        plan.models.update({n: SimulatedPin(n) for n in names})  # type: ignore[dict-item]
        done = await drive(RunDir(base), config, plan, round_plan, units, node, base)
    milliseconds = 1000 * done["cpu_seconds"] / done["calls"]
    return {
        "calls": done["calls"],
        "calls_per_s": round(done["calls"] / done["seconds"]),
        "cpu_ms_per_call": round(milliseconds, 3),
        "cores_at_rate": {args.rate: round(milliseconds * args.rate / 1000, 3)},
        "loop": type(asyncio.get_running_loop()).__module__,
    }


@dataclass(frozen=True)
class SimulatedPin:
    """Stands for a model that lies nowhere."""

    identity: str


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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    one = commands.add_parser("compare", help="the same calls, three ways")
    one.add_argument("run", type=Path, help="a run whose first round is published")
    one.add_argument("--samples", type=int, default=0, help="the first samples only (default: all)")
    one.add_argument("--times", type=int, default=5)
    one.add_argument("--peer", metavar="PYTHON", help="also datatrove, with this interpreter")
    peers = ["datatrove", "datatrove-chained"]
    one.add_argument(
        "--peer-ways", nargs="+", choices=peers, default=peers, help="in stages, or a rollout per sample"
    )
    one.add_argument("--port", type=int, default=28731, help="loopback port of the peer's server")
    one.add_argument("--png", type=Path)
    two = commands.add_parser("cpu", help="our CPU time per call, flow and journal included")
    two.add_argument("--samples", type=int, default=2000)
    two.add_argument("--rate", type=int, default=600, help="calls a second")
    three = commands.add_parser("clients", help="our client beside the openai package")
    three.add_argument("--calls", type=int, default=2000)
    for p in (two, three):
        p.add_argument("--uvloop", action="store_true")
    args = parser.parse_args()
    if args.what == "compare":
        result = compare(args)
        if args.png:
            chart(result, args.png)
    else:
        factory = None
        if args.uvloop:
            import uvloop

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            result = runner.run({"cpu": cpu, "clients": clients}[args.what](args))
    print(json.dumps(result | {"load": round(os.getloadavg()[0], 1)}, indent=2))


if __name__ == "__main__":
    main()
