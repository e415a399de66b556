#!/usr/bin/env python3
"""A shard's speed: against raw vLLM and a peer's pipeline on the same calls.

    python tools/bench/shard.py RUN [--samples N] [--times 5] [--peer PYTHON] [--png FILE]

Captures every call of a published run and asks the same calls again: offline (`LLM.chat`, one batch for each model,
longest answers first: no dependence between calls, so an upper bound), through a worker over the same engines (all
shards, several open at a time, to their publication; with `--samples` one slice's flow, journal and routing alone), and
(PYTHON: an interpreter that has datatrove) through datatrove's `InferenceRunner` in three stages, one runner for
each model. Every way has one engine for each model of the run, with the same settings on the same cores; engines are
started once, prefix caches are emptied before each replay, start-up is not counted. Each call is asked as it was; the
flow then goes on with the recorded answer, so that every way asks the same.

Our process alone, without engines beside it: tools/bench/client.py.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gra_hpc.engines import guard, vllm_server
from gra_hpc.engines.node import Node
from gra_hpc.engines.vllm_server import EngineSpec
from gra_hpc.placement.placement import Placement
from gra_hpc.run.engines import pinned_models, plan_engines
from tools.bench.replay import Captured, Replayed, drive, work

SCRIPT = Path(__file__).with_name("shard_ways.py")
WAYS = ("raw", "shard", "datatrove")
FIGURES = ("seconds", "tokens_per_s", "cpu_ms_per_call", "idle_share", "mean_running", "whole_seconds")


def specs_of(captured: Captured, directory: Path) -> list[EngineSpec]:
    """The engines of a run, one for each model, as its placement has them; their prefix caches can be emptied."""
    placement = plan_engines(captured.config, captured.plan).placement
    if placement.takes_turns or len({e.model for e in placement.engines}) < len(placement.engines):
        names = ", ".join(e.name for e in placement.engines)
        raise SystemExit(
            f"{captured.run.path}: wants a run with one engine for each model, all awake; this one has {names}"
        )
    captured.config.engine.env |= {"VLLM_SERVER_DEV_MODE": "1"}
    models = pinned_models(captured.config, captured.plan)
    specs = []
    for n, place in enumerate(placement.engines):
        private, cache = directory / f"{n}", directory / f"{n}-cache"
        for path in (private, cache):
            path.mkdir(parents=True)
        socket, port = directory / f"{n}.s", 29500 + 32 * n
        model, engine = models[place.model], captured.config.engine
        beside = placement.beside(place)
        specs.append(EngineSpec(place, model, engine, placement.kind, socket, private, cache, port, beside))
    return specs


@contextlib.contextmanager
def guarded(spec: EngineSpec, argv: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with an engine, under the guard of a shard's engines: it ends with us, however we end, and leaves no
    process and no shared memory."""
    state = spec.private.with_suffix(".json")
    command = [sys.executable, "-I", "-S", guard.__file__, "--state", str(state), "--private", str(spec.private)]
    cores = vllm_server.kept_to(spec, sorted(os.sched_getaffinity(0)))
    command += ["--cores", ",".join(map(str, cores))] if cores else []
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [*command, "--", *argv],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=vllm_server.environment(spec, os.environ),
            start_new_session=True,
        )
    assert process.stdin is not None
    try:
        yield process
    finally:
        process.stdin.close()  # which the guard notices
        process.wait()


def died(what: str, log: Path) -> SystemExit:
    """An engine that ended by itself."""
    return SystemExit(f"{what} ended:\n{log.read_text(encoding='utf-8')[-2000:]}")


class Offline:
    """vLLM's `LLM` in a process of its own, with the server's settings; a context manager."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
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
            settings |= {"enforce_eager": True, "enable_chunked_prefill": False, "max_num_batched_tokens": longest}
        settings |= {str(k).replace("-", "_"): v for k, v in spec.model.engine_args.items()}
        self.settings = settings
        self.log = spec.private.with_suffix(".raw.log")

    def __enter__(self) -> Offline:
        pipes = [self.spec.private.with_suffix(end) for end in (".in", ".out")]
        for pipe in pipes:
            os.mkfifo(pipe)
        with contextlib.ExitStack() as stack:
            argv = [sys.executable, str(SCRIPT), "raw", *map(str, pipes)]
            self.process = stack.enter_context(guarded(self.spec, argv, self.log))
            # For reading and writing, or opening would wait for the other side, which may have died.
            self.ours = [stack.enter_context(os.fdopen(os.open(p, os.O_RDWR), "r+b", 0)) for p in pipes]
            self.say(self.settings)
            self.hear()  # it has started
            self.ends = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self.ends.close()

    def say(self, what: Any) -> None:
        self.ours[0].write(json.dumps(what).encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        while not select.select([self.ours[1]], [], [], 1.0)[0]:
            if self.process.poll() is not None:
                raise died("raw vLLM", self.log)
        found: dict[str, Any] = json.loads(self.ours[1].readline())
        return found


def ask_offline(offline: Sequence[Offline], calls: list[dict[str, Any]]) -> dict[str, Any]:
    """Each model's calls as one batch, all models at once: the time is that of the slowest."""
    for one in offline:
        one.say([c for c in calls if c["model"] == one.spec.place.model])
    found = [one.hear() for one in offline]
    return {k: (max if k == "seconds" else sum)(f[k] for f in found) for k in found[0]}


@contextlib.contextmanager
def tcp_server(spec: EngineSpec, port: int) -> Iterator[str]:
    """The same server on a TCP port of the loopback device, for clients that know no Unix sockets."""
    argv = list(vllm_server.launch(spec).argv)
    at = argv.index("--uds")
    argv[at : at + 2] = ["--host", "127.0.0.1", "--port", str(port)]
    spec = replace(spec, private=spec.private.with_name(f"{spec.private.name}-tcp"))
    spec.private.mkdir()
    log = spec.private.with_suffix(".log")
    url = f"http://127.0.0.1:{port}"
    with guarded(spec, argv, log) as process:
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=2):
                break
            if process.poll() is not None:
                raise died("server", log)
            time.sleep(0.5)
        yield url


@contextlib.contextmanager
def watched(addresses: list[str], found: dict[str, Any]) -> Iterator[None]:
    """Look at the engines' load meanwhile, from another process."""
    with subprocess.Popen(
        [sys.executable, "-I", str(SCRIPT), "watch", *addresses],
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
        (base / "calls.json").write_text(json.dumps(samples), encoding="utf-8")
        asyncio.run(_replay(args, captured, calls, base, rows))
    figures: dict[str, Any] = {
        way: {key: _spread([r[key] for r in found]) for key in FIGURES if key in found[0]}
        | {"tokens": found[0]["tokens"], "same_texts": min(r["same"] for r in found)}
        for way, found in rows.items()
    }
    for way, over in (("shard", "raw"), ("datatrove", "raw"), ("shard", "datatrove")):
        if way in rows and over in rows:
            pairs = zip(rows[way], rows[over], strict=True)
            figures[f"{way}_over_{over}"] = _spread([a["tokens_per_s"] / b["tokens_per_s"] for a, b in pairs])
    by_model: dict[str, int] = {}
    for c in calls:
        by_model[c["model"]] = by_model.get(c["model"], 0) + 1
    return {"samples": len(samples), "calls": by_model, "times": args.times, **figures}


async def _replay(
    args: argparse.Namespace,
    captured: Captured,
    calls: list[dict[str, Any]],
    base: Path,
    rows: dict[str, list[dict[str, Any]]],
) -> None:
    specs = specs_of(captured, base / "e")
    placement = Placement(tuple(s.place for s in specs), specs[0].kind)
    models = {s.place.model: s.model for s in specs}

    def keep(way: str, found: dict[str, Any]) -> None:
        found["tokens_per_s"] = found["tokens"] / found["seconds"]
        found["cpu_ms_per_call"] = 1000 * found["cpu_seconds"] / len(calls)
        rows.setdefault(way, []).append(found)
        print(f"{way:10} {json.dumps({k: round(v, 3) for k, v in found.items()})}", file=sys.stderr, flush=True)

    with contextlib.ExitStack() as stack:
        offline = [stack.enter_context(Offline(s)) for s in specs]
        urls = {}
        if args.peer:
            urls = {s.place.model: stack.enter_context(tcp_server(s, args.port + n)) for n, s in enumerate(specs)}
        async with Node(models, placement, captured.config.engine, base, base / "logs") as node:
            await node.start()
            processes = [r.process for r in node._replicas if r.process is not None]
            for n in range(args.times + 1):  # the first time warms up
                sink = keep if n else (lambda *_: None)
                sink("raw", ask_offline(offline, calls if n else calls[:40]))
                for process in processes:
                    await process.client._command("/reset_prefix_cache", 30.0)
                replayed = Replayed(captured.known, node)
                units = captured.units()
                load: dict[str, Any] = {}
                with watched([str(p.spec.socket) for p in processes], load):
                    if n and not args.samples:
                        done = await work(captured.run.path, replayed, base)
                    else:
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
                if args.peer and n:
                    keep("datatrove", _peer(args.peer, base, urls, n))


def _peer(python: str, base: Path, urls: dict[str, str], n: int) -> dict[str, Any]:
    """The peer's pipeline, once."""
    for url in urls.values():
        urllib.request.urlopen(urllib.request.Request(f"{url}/reset_prefix_cache", method="POST"))
    command = [python, str(SCRIPT), "datatrove", str(base / "calls.json"), str(base / f"peer{n}")]
    load: dict[str, Any] = {}
    with watched([u.removeprefix("http://") for u in urls.values()], load):
        ended = subprocess.run([*command, json.dumps(urls)], capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"datatrove failed:\n{ended.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(ended.stdout.split("RESULT ")[1])
    return found | load


def _spread(values: list[float]) -> dict[str, float]:
    return {"min": round(min(values), 3), "median": round(statistics.median(values), 3), "max": round(max(values), 3)}


def chart(result: dict[str, Any], path: Path) -> None:
    """Tokens a second by way, with the spread over repetitions, and CPU time per call."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ways = [w for w in WAYS if w in result]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    for axis, key, title in (
        (axes[0], "tokens_per_s", "output tokens a second"),
        (axes[1], "cpu_ms_per_call", "client CPU, ms a call"),
    ):
        values = [result[w][key] for w in ways]
        middle = [v["median"] for v in values]
        spread = [[m - v["min"] for m, v in zip(middle, values, strict=True)], [v["max"] - v["median"] for v in values]]
        axis.barh(ways, middle, xerr=spread, color=["#999", "#27c", "#c72"][: len(ways)], capsize=3)
        axis.set_title(title, fontsize=10)
        axis.invert_yaxis()
    figure.suptitle(
        f"{sum(result['calls'].values())} calls of {result['samples']} samples to {', '.join(result['calls'])},"
        f" {result['times']} times",
        fontsize=10,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run whose first round is published")
    parser.add_argument("--samples", type=int, default=0, help="the first samples only (default: all)")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--peer", metavar="PYTHON", help="also datatrove, with this interpreter")
    parser.add_argument("--port", type=int, default=28731, help="first loopback port of the peer's servers")
    parser.add_argument("--png", type=Path)
    args = parser.parse_args()
    if args.png and importlib.util.find_spec("matplotlib") is None:  # known before an hour's work, not after
        raise SystemExit("--png: matplotlib is not installed -> pip install matplotlib")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # engines end with us
    result = compare(args)
    if args.png:
        chart(result, args.png)
    print(json.dumps(result | {"load": round(os.getloadavg()[0], 1)}, indent=2))


if __name__ == "__main__":
    main()
