#!/usr/bin/env python3
"""One engine's start-up and speed: output tokens a second by calls in flight, for tensor parallel sizes, and a chart.

    python tools/bench/engine.py [MODEL_DIR ...] [--tp 1 2] [--batch 1 4 16 64] [--seconds 8] [--png FILE] [--gpu]

The engine is the one that a shard hosts (vLLM's server on a Unix socket, behind `Node`), asked in a closed loop: so
many calls are in flight, each for 64 tokens, prompts all different. A size that a model's heads do not allow is left
out, and said so. Without MODEL_DIR: `models/smollm2-135m` with its weights, and `models/tiny-llama` with random ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gra_hpc.config.settings import EngineConfig, ModelConfig
from gra_hpc.engines.node import Node
from gra_hpc.flows.calls import Request, Sampling
from gra_hpc.models.facts import read_facts
from gra_hpc.placement.placement import EnginePlace, Placement

TOKENS = 64
"""Longest answer, in tokens."""


def request(number: int) -> Request:
    """A prompt of about 60 tokens that no other call shares."""
    text = f"Story {number}: write a long story about {number} ships, {number + 1} storms and a lighthouse. " * 2
    return Request("m", "", ({"role": "user", "content": text},), Sampling(0.7, 0.95, TOKENS, number))


async def speed(node: Node, batch: int, seconds: float, first: int) -> dict[str, float]:
    """Output tokens a second with so many calls in flight, over at least the given time."""
    numbers = iter(range(first, first + 10**6))
    began = time.perf_counter()
    tokens = calls = 0

    async def worker() -> None:
        nonlocal tokens, calls
        while time.perf_counter() - began < seconds:
            answer = await node.ask(request(next(numbers)))
            tokens += answer.completion_tokens
            calls += 1

    await asyncio.gather(*(worker() for _ in range(batch)))
    took = time.perf_counter() - began
    return {"batch": batch, "tokens_per_s": round(tokens / took, 1), "calls": calls, "seconds": round(took, 1)}


async def measure(model: Path, tensor_parallel: int, args: argparse.Namespace) -> dict[str, Any]:
    """Start one engine, measure it, end it."""
    weights = any(model.glob("*.safetensors"))
    config = ModelConfig(
        str(model),
        dtype=args.dtype,
        max_model_len=1024,
        load_format="auto" if weights else "dummy",
        kv_cache_gb=0.0 if args.gpu else 0.5,
    )
    devices = tuple(range(tensor_parallel if args.gpu else len(os.sched_getaffinity(0))))
    placement = Placement((EnginePlace("m", 0, devices, tensor_parallel),), "gpu" if args.gpu else "cpu")
    with tempfile.TemporaryDirectory(prefix="gb-", dir="/tmp") as temporary:
        base = Path(temporary)
        began = time.perf_counter()
        async with Node({"m": config}, placement, EngineConfig(), base, base / "logs") as node:
            await node.start()
            start = time.perf_counter() - began
            await asyncio.gather(*(node.ask(request(-i)) for i in range(1, 5)))  # warm
            rows = [await speed(node, b, args.seconds, n * 10**6) for n, b in enumerate(args.batch)]
            ending = time.perf_counter()
        stop = time.perf_counter() - ending
    return {
        "model": model.name,
        "tensor_parallel": tensor_parallel,
        "random_weights": not weights,
        "start_s": round(start, 1),
        "stop_s": round(stop, 1),
        "speeds": rows,
    }


def chart(results: list[dict[str, Any]], path: Path) -> None:
    """Tokens a second over calls in flight, and the seconds each engine took to start."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), width_ratios=(2, 1))
    names = []
    for r in results:
        name = f"{r['model']}{' (random)' if r['random_weights'] else ''}, TP={r['tensor_parallel']}"
        names.append(name)
        speeds = r["speeds"]
        left.plot([s["batch"] for s in speeds], [s["tokens_per_s"] for s in speeds], "o-", label=name)
    left.set(xscale="log", xlabel="calls in flight", ylabel="output tokens a second")
    left.set_xscale("log", base=2)
    left.set_yscale("log")
    left.legend(fontsize=7)
    right.barh(names, [r["start_s"] for r in results])
    right.set_xlabel("start, seconds")
    right.tick_params(axis="y", labelsize=7)
    right.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure and print one line of JSON per engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parents[2] / "models"
    parser.add_argument("models", type=Path, nargs="*", default=[here / "smollm2-135m", here / "tiny-llama"])
    parser.add_argument("--tp", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=8.0, help="least time per batch")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--gpu", action="store_true", help="on GPUs 0 to TP-1 instead of this process's cores")
    parser.add_argument("--png", type=Path)
    args = parser.parse_args()
    results = []
    for model in args.models:
        facts = read_facts(model, args.dtype)
        for tensor_parallel in args.tp:
            if not facts.can_split(tensor_parallel):
                print(f"{model.name}: {facts.heads} heads cannot be split by {tensor_parallel}", file=sys.stderr)
                continue
            results.append(asyncio.run(measure(model.absolute(), tensor_parallel, args)))
            print(json.dumps(results[-1] | {"load": round(os.getloadavg()[0], 1)}), flush=True)
    if args.png:
        chart(results, args.png)


if __name__ == "__main__":
    main()
