#!/usr/bin/env python3
"""What `shard.py` starts beside itself: vLLM offline, a peer's pipeline, and a look at a server's load.

    PYTHON tools/bench/shard_ways.py raw IN OUT              PYTHON has vllm; two named pipes, JSON lines in and out
    PYTHON tools/bench/shard_ways.py datatrove CALLS DIR URLS [MOST] [in-turns]
                                                             PYTHON has datatrove[io] aiofiles httpx
    PYTHON tools/bench/shard_ways.py watch ADDRESS...        counts running calls until its input is closed

CALLS is the JSON that `shard.py` captures: a list of samples, each a list of calls in the order they were asked.
URLS: JSON, a server by model. MOST: calls in flight of a runner. in-turns: one model at a time, not all of a stage.
"""

from __future__ import annotations

import asyncio
import json
import re
import select
import socket
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

STAGES = {"generator": "generate", "reviewer": "review", "adjudicator": "adjudicate", "summarizer": "adjudicate"}
"""The peer's three stages by the seat that is asked; the summary belongs to the last one."""


def raw(questions: Path, results: Path) -> None:
    """Offline `LLM.chat`, in vLLM's default mode: all calls in one batch, those with the longest answers first."""
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    began = time.perf_counter()
    lines, out = questions.open(encoding="utf-8"), results.open("w", encoding="utf-8")
    llm = LLM(**json.loads(lines.readline()))
    print(json.dumps({"start_seconds": time.perf_counter() - began}), file=out, flush=True)
    for line in lines:
        calls = sorted(json.loads(line), key=lambda c: -c["completion_tokens"])
        settings = []
        for c in calls:
            schema = c.get("schema")
            settings.append(
                SamplingParams(
                    **c["sampling"], structured_outputs=StructuredOutputsParams(json=schema) if schema else None
                )
            )
        llm.reset_prefix_cache()
        began, cpu = time.perf_counter(), time.process_time()
        answers = llm.chat([c["messages"] for c in calls], settings, use_tqdm=False)
        seconds = time.perf_counter() - began
        result = {
            "seconds": seconds,
            "cpu_seconds": time.process_time() - cpu,
            "tokens": sum(len(a.outputs[0].token_ids) for a in answers),
            "same": sum(a.outputs[0].text == c["text"] for a, c in zip(answers, calls, strict=True)),
        }
        print(json.dumps(result), file=out, flush=True)


def datatrove(calls: Path, work: Path, urls: dict[str, str], most: int = 500, in_turns: bool = False) -> dict[str, Any]:
    """The same calls as three stages of `InferenceRunner`. A runner has one model, so every stage has one runner for
    each, in processes of their own, all at once; a stage begins when the one before it has ended, since its prompts
    hold what others have answered.

    Args:
        most: calls in flight of a runner.
        in_turns: one runner after another, as where each model has all devices while it runs.
    """
    samples = json.loads(calls.read_text(encoding="utf-8"))
    seconds, sums = 0.0, {"cpu_seconds": 0.0, "tokens": 0, "calls": 0, "same": 0, "passes": 0}
    with ProcessPoolExecutor(1 if in_turns else len(urls)) as processes:
        began = time.perf_counter()
        for stage in ("generate", "review", "adjudicate"):
            for models in [[m] for m in urls] if in_turns else [list(urls)]:
                runners = []
                for m in models:
                    source = work / "in" / f"{stage}-{m}"
                    write_documents(source, samples, stage, m)
                    runners.append(processes.submit(run_stage, source, work, stage, m, urls[m], most))
                found = [r.result() for r in runners]
                asked = [f for f in found if f["calls"]]
                seconds += max((f["last"] for f in asked), default=0) - min((f["first"] for f in asked), default=0)
                sums["passes"] += bool(asked)
                for key in sums.keys() - {"passes"}:
                    sums[key] += sum(f[key] for f in found)
        whole = time.perf_counter() - began
    return {"seconds": seconds, "whole_seconds": whole, **sums}


def write_documents(source: Path, samples: list[list[dict[str, Any]]], stage: str, model: str) -> None:
    """A document for each sample that a model is asked of in a stage, with its calls."""
    source.mkdir(parents=True)
    with (source / "samples.jsonl").open("w", encoding="utf-8") as f:
        for n, sample in enumerate(samples):
            if asked := [c for c in sample if (STAGES[c["role"]], c["model"]) == (stage, model)]:
                f.write(json.dumps({"id": str(n), "text": "sample", "metadata": {"calls": asked}}) + "\n")


def run_stage(source: Path, work: Path, stage: str, model: str, url: str, most: int) -> dict[str, Any]:
    """One model's calls of a stage, through one `InferenceRunner`, as its examples write them.

    Returns:
        `first` and `last`: when the first question was asked and the last one answered, on this host's steady clock.
    """
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    counted: dict[str, Any] = {"first": float("inf"), "last": 0.0, "tokens": 0, "calls": 0, "same": 0}

    async def ask(generate: Any, call: dict[str, Any]) -> str:
        payload = {"messages": call["messages"], **call["sampling"]}
        if call.get("schema"):
            form = {"name": "answer", "schema": call["schema"], "strict": True}
            payload["response_format"] = {"type": "json_schema", "json_schema": form}
        counted["first"] = min(counted["first"], time.perf_counter())
        result = await generate(payload)
        counted["last"] = max(counted["last"], time.perf_counter())
        counted["tokens"] += result.usage["completion_tokens"]
        counted["calls"] += 1
        counted["same"] += result.text == call["text"]
        return str(result.text)

    async def rollout(document: Document, generate: Any) -> list[str]:
        waves: dict[int, list[dict[str, Any]]] = {}
        for call in document.metadata["calls"]:
            waves.setdefault(call["wave"], []).append(call)
        texts: list[str] = []
        for wave in sorted(waves):  # the calls of a wave do not depend on each other
            texts += await asyncio.gather(*(ask(generate, c) for c in waves[wave]))
        return texts

    name = f"{stage}-{model}"
    config = InferenceConfig(
        server_type="endpoint",
        endpoint_url=url,
        model_name_or_path=model,
        model_max_context=2048,
        use_chat=True,
        max_concurrent_generations=most,
    )
    writer = JsonlWriter(str(work / name), compression=None)
    cpu = time.process_time()
    LocalPipelineExecutor(
        [JsonlReader(str(source)), InferenceRunner(rollout, config, writer)], logging_dir=str(work / "logs" / name)
    ).run()
    return {**counted, "cpu_seconds": time.process_time() - cpu}


def watch(addresses: list[str], pause: float = 0.5) -> dict[str, float]:
    """Share of looks at which a server computed nothing (the mean over servers), and the mean number of calls that
    all of them computed.

    Args:
        addresses: paths of Unix sockets, or HOST:PORT.
        pause: seconds between two looks.
    """
    seen: list[list[float]] = []
    while not select.select([sys.stdin], [], [], pause)[0]:
        seen.append([running(a) for a in addresses])
    looks = max(1, len(seen) * len(addresses))
    return {
        "idle_share": sum(n == 0 for row in seen for n in row) / looks,
        "mean_running": sum(map(sum, seen)) / max(1, len(seen)),
    }


def running(address: str) -> float:
    """Calls that a server computes now."""
    if address.startswith("/"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address)
    else:
        host, port = address.split(":")
        connection = socket.create_connection((host, int(port)))
    with connection:
        connection.settimeout(60)
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n")
        text = b""
        while block := connection.recv(1 << 16):
            text += block
    found = re.findall(rb"^vllm:num_requests_running(?:\{[^}]*\})? ([0-9.eE+-]+)$", text, re.MULTILINE)
    return sum(map(float, found))


if __name__ == "__main__":
    kind, *rest = sys.argv[1:]
    if kind == "raw":
        raw(Path(rest[0]), Path(rest[1]))
    elif kind == "watch":
        print(json.dumps(watch(rest)))
    else:
        calls, directory, urls, *more = rest
        most = int(more[0]) if more else 500
        result = datatrove(Path(calls), Path(directory), json.loads(urls), most, "in-turns" in more)
        print("RESULT " + json.dumps(result))
