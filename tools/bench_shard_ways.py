#!/usr/bin/env python3
"""What `bench_shard.py` starts beside itself: vLLM offline, a peer's pipeline, and a look at a server's load.

    PYTHON tools/bench_shard_ways.py raw                     PYTHON has vllm; reads JSON lines, answers JSON lines
    PYTHON tools/bench_shard_ways.py datatrove CALLS DIR URL MODEL [--chained]   PYTHON has datatrove[io] aiofiles httpx
    PYTHON tools/bench_shard_ways.py watch ADDRESS           counts running calls until its input is closed

CALLS is the JSON that `bench_shard.py` captures: a list of samples, each a list of calls in the order they were asked.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any

STAGES = {
    "generator": "generate",
    "reviewer": "review",
    "adjudicator": "adjudicate",
    "summarizer": "adjudicate",
}
"""The peer's three stages by the seat that is asked; the summary belongs to the last one."""


def raw() -> None:
    """Offline `LLM.chat`, in vLLM's default mode: all calls in one batch, those with the longest answers first."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM talks on stdout
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    began = time.perf_counter()
    llm = LLM(**json.loads(sys.stdin.readline()))
    print(json.dumps({"start_seconds": time.perf_counter() - began}), file=out, flush=True)
    for line in sys.stdin:
        calls = sorted(json.loads(line), key=lambda c: -c["completion_tokens"])
        settings = []
        for c in calls:
            schema = c.get("schema")
            settings.append(
                SamplingParams(
                    **c["sampling"],
                    structured_outputs=StructuredOutputsParams(json=schema) if schema else None,
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


def datatrove(calls: Path, work: Path, url: str, model: str, chained: bool) -> dict[str, Any]:
    """The same calls as three stages of `InferenceRunner`, as its examples write them: a stage reads what the stage
    before it has written. `chained`: one stage, whose rollout asks all calls of a sample."""
    import asyncio

    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    spans: list[list[float]] = []
    counted = {"tokens": 0, "calls": 0, "same": 0}

    async def ask(generate: Any, call: dict[str, Any]) -> str:
        payload = {"messages": call["messages"], **call["sampling"]}
        if call.get("schema"):
            form = {"name": "answer", "schema": call["schema"], "strict": True}
            payload["response_format"] = {"type": "json_schema", "json_schema": form}
        now = time.perf_counter()
        spans[-1][0] = min(spans[-1][0], now)
        result = await generate(payload)
        spans[-1][1] = max(spans[-1][1], time.perf_counter())
        counted["tokens"] += result.usage["completion_tokens"]
        counted["calls"] += 1
        counted["same"] += result.text == call["text"]
        return str(result.text)

    def rollout(stage: str) -> Any:
        async def one(document: Document, generate: Any) -> list[str]:
            waves: dict[int, list[dict[str, Any]]] = {}
            for call in document.metadata["calls"]:
                if stage in ("", STAGES[call["role"]]):
                    waves.setdefault(call["wave"], []).append(call)
            texts: list[str] = []
            for wave in sorted(waves):  # the calls of a wave do not depend on each other
                texts += await asyncio.gather(*(ask(generate, c) for c in waves[wave]))
            return texts

        return one

    stages = [""] if chained else ["generate", "review", "adjudicate"]
    source = work / "in"
    source.mkdir(parents=True)
    with (source / "samples.jsonl").open("w") as f:
        for n, sample in enumerate(json.loads(calls.read_text())):
            f.write(json.dumps({"id": str(n), "text": "sample", "metadata": {"calls": sample}}) + "\n")
    began, cpu = time.perf_counter(), time.process_time()
    for stage in stages:
        spans.append([float("inf"), 0.0])
        target = work / (stage or "chained")
        config = InferenceConfig(
            server_type="endpoint",
            endpoint_url=url,
            model_name_or_path=model,
            model_max_context=2048,
            use_chat=True,
        )
        LocalPipelineExecutor(
            [
                JsonlReader(str(source)),
                InferenceRunner(rollout(stage), config, JsonlWriter(str(target), compression=None)),
            ],
            logging_dir=str(work / "logs" / (stage or "chained")),
        ).run()
        source = target
    return {
        "seconds": sum(last - first for first, last in spans),
        "whole_seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
        **counted,
    }


def watch(address: str, pause: float = 0.5) -> dict[str, float]:
    """Share of looks at which a server computed nothing, and the mean number of calls that it computed.

    Args:
        address: path of a Unix socket, or HOST:PORT.
        pause: seconds between two looks.
    """
    seen: list[float] = []
    while not select.select([sys.stdin], [], [], pause)[0]:
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
        running = re.findall(rb"^vllm:num_requests_running(?:\{[^}]*\})? ([0-9.eE+-]+)$", text, re.MULTILINE)
        seen.append(sum(map(float, running)))
    return {
        "idle_share": sum(n == 0 for n in seen) / max(1, len(seen)),
        "mean_running": sum(seen) / max(1, len(seen)),
    }


if __name__ == "__main__":
    kind, *rest = sys.argv[1:]
    if kind == "raw":
        raw()
    elif kind == "watch":
        print(json.dumps(watch(rest[0])))
    else:
        result = datatrove(Path(rest[0]), Path(rest[1]), rest[2], rest[3], "--chained" in rest)
        print("RESULT " + json.dumps(result))
