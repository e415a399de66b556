#!/usr/bin/env python3
"""A simulated server of models that answers at the pace of the performance model: a real process, real sockets.

    python -m tools.simulated.paced_server --port 8001 --models a,b --gpus 8 --device a100 --memory 80 --speed 0.25

SIMULATED: answers are made up (`gra_hpc.engines.simulated`), the same for the same call; how long they are is drawn
around the method's stated means by the call itself. Their pace (`pace.py`) is that of models of 8 billion parameters on
the named device. It speaks what vLLM's server speaks of OpenAI's protocol: /v1/chat/completions, /v1/completions,
/v1/models, /health, /metrics, /reset_prefix_cache.

`--speed`: device seconds in a second of ours. Below 1 a device is slowed down so that what a client and this process
spend in Python is little beside it; all of its times are to be multiplied by the speed. `late_s` in its report says by
how much this machine could not keep the pace.

With `--gpus N` one address stands for N engines, a model's replicas (vLLM's `--data-parallel-size`): a call goes to the
least loaded one. Engines of a placement are described by `--engines` instead (`described`, JSON).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from gra_hpc.engines.simulated import simulate
from gra_hpc.engines.vllm_server import EngineSpec, Launch, environment
from gra_hpc.flows.calls import Answer, Request, Sampling
from gra_hpc.placement.hosts import Host
from gra_hpc.placement.performance import GB, Constants, Need, constants_for
from gra_hpc.placement.workload import ModelLoad, sizes
from gra_hpc.records import digest
from tools.simulated.node import Lengths, step_of
from tools.simulated.pace import Figures, Neighbours, PacedEngine, blocks_of


@dataclass(frozen=True)
class Described:
    """One engine of a server, JSON-able."""

    figures: Figures
    alone: Figures
    """Its model's on one device of its own: what its work is counted by."""
    devices: tuple[int, ...] = ()
    slot: int = 0
    """Its number among the node's engines."""

    @classmethod
    def read(cls, text: str) -> list[Described]:
        """Of `--engines`."""
        return [
            cls(Figures(**d["figures"]), Figures(**d["alone"]), tuple(d["devices"]), d["slot"])
            for d in json.loads(text)
        ]


def alone(need: Need, constants: Constants, memory_gb: float) -> Figures:
    """A model's pace on one device of its own: what weights leave of its memory is KV cache."""
    free = constants.device_share * memory_gb * GB - need.fixed_bytes(1, constants)
    return Figures.of(need, 1, free, constants)


def described(hosts: Sequence[Host], constants: Constants, memory_gb: float) -> list[Described]:
    """The engines of a placement, in its order."""
    return [
        Described(Figures.of_host(h, constants), alone(h.need, constants, memory_gb), tuple(h.devices), slot)
        for slot, h in enumerate(hosts)
    ]


def arguments(engines: Sequence[Described], shared: Path, loss: float, speed: float, report: Path) -> list[str]:
    """The part of a command line that says the pace."""
    told = json.dumps([asdict(e) for e in engines])
    return [
        "--engines", told, "--shared", str(shared), "--loss", str(loss), "--speed", str(speed), "--report", str(report),
    ]  # fmt: skip


def launcher(arguments_of: Mapping[str, list[str]]) -> Callable[[EngineSpec], Launch]:
    """A `command` for `node.Node` that hosts paced servers.

    Args:
        arguments_of: by the engine's name in the placement.
    """

    def launch(spec: EngineSpec) -> Launch:
        usual = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
        argv = [sys.executable, "-m", "tools.simulated.paced_server", "--uds", str(spec.socket)]
        argv += ["--models", spec.place.model, *arguments_of[spec.place.name]]
        return Launch(argv, environment(replace(spec, kind="gpu"), usual), own_network=True)

    return launch


def request_of(fields: Mapping[str, Any], messages: Sequence[Mapping[str, str]]) -> Request:
    """A call as the simulated engine knows it. One without a seed gets one from what it asks."""
    said = tuple({"role": str(m["role"]), "content": str(m["content"])} for m in messages)
    form = fields.get("response_format") or {}
    schema = form["json_schema"]["schema"] if form.get("type") == "json_schema" else None
    sampling = Sampling(
        fields.get("temperature", 1.0),
        fields.get("top_p", 1.0),
        int(fields.get("max_completion_tokens") or fields.get("max_tokens") or 4096),
        fields.get("seed") or int(digest(fields["model"], said, schema, size=4), 16) & 0x7FFFFFFF,
        fields.get("repetition_penalty", 1.0),
        0,
        fields.get("top_k", 0),
        tuple(fields.get("stop") or ()),
    )
    return Request(fields["model"], "", said, sampling, schema)


class PacedServer:
    """One address. Made within a running loop.

    Args:
        models: that it answers for.
        engines: they all answer for each of them.
    """

    def __init__(self, models: Sequence[str], engines: Sequence[PacedEngine]) -> None:
        self.models, self.engines = models, engines
        self._sizes = sizes()
        self._lengths = Lengths(self._sizes)
        self._schemas: dict[bytes, dict[str, Any]] = {}

    def app(self) -> web.Application:
        """What it answers."""
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/completions", self.complete)
        app.router.add_get("/v1/models", self.list)
        app.router.add_get("/health", self.health)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_post("/reset_prefix_cache", self.forget)
        return app

    async def answer(self, request: Request) -> tuple[Answer, int]:
        """The answer, when it is due; and how many tokens of its prompt were cached."""
        text = "\0".join(m["content"] for m in request.messages)
        step = step_of(request)
        # Made-up texts are shorter than real ones, and so are the prompts that hold them: a step's stated size counts.
        prompt = max(len(text) // 4 + 8, round(self._sizes[step].prompt_tokens))
        length = self._lengths(request)
        engine = min(self.engines, key=lambda e: 4 * e.waiting + e.running)
        cached = await engine.compute(prompt, length, blocks_of(request.model, text))
        return replace(simulate(request), prompt_tokens=prompt, completion_tokens=length), cached

    async def _asked(self, http: web.Request, chat: bool) -> web.Response:
        try:
            fields = orjson.loads(await http.read())
            if fields["model"] not in self.models:
                return _refused(404, f"model {fields['model']} is not served, but {', '.join(self.models)}")
            if fields.get("stream") or fields.get("n", 1) != 1:
                return _refused(400, "a simulated server: stream and n are not supported")
            messages = fields["messages"] if chat else [{"role": "user", "content": fields["prompt"]}]
            request = request_of(fields, messages)
        except (ValueError, LookupError, TypeError, AttributeError) as e:
            return _refused(400, f"not a completion's request ({type(e).__name__}: {e})")
        if request.schema is not None:  # the same object each time: it is compiled once
            said = orjson.dumps(request.schema)
            request = replace(request, schema=self._schemas.setdefault(said, request.schema))
        answer, cached = await self.answer(request)
        choice: dict[str, Any] = {"index": 0, "finish_reason": answer.finish}
        choice |= {"message": {"role": "assistant", "content": answer.text}} if chat else {"text": answer.text}
        usage = {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "total_tokens": answer.prompt_tokens + answer.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        kind = "chat.completion" if chat else "text_completion"
        reply = {"object": kind, "model": request.model, "choices": [choice], "usage": usage, "simulated": True}
        return web.Response(body=orjson.dumps(reply), content_type="application/json")

    async def chat(self, http: web.Request) -> web.Response:
        return await self._asked(http, True)

    async def complete(self, http: web.Request) -> web.Response:
        return await self._asked(http, False)

    async def list(self, _: web.Request) -> web.Response:
        data = [
            {"id": m, "object": "model", "owned_by": "simulated", "root": f"simulated/{m}", "max_model_len": 8192}
            for m in self.models
        ]
        return web.json_response({"object": "list", "data": data})

    async def health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def forget(self, _: web.Request) -> web.Response:
        for engine in self.engines:
            engine.prefixes.clear()
        return web.Response()

    async def metrics(self, _: web.Request) -> web.Response:
        lines = []
        for n, e in enumerate(self.engines):
            label = f'{{engine="{n}",model_name="{self.models[0]}"}}'
            values = {
                "num_requests_running": e.running, "num_requests_waiting": e.waiting, "kv_cache_usage_perc": e.kv_use,
                "prompt_tokens_total": e.counted.prompt_tokens,
                # of the steps too, so that long answers are seen to grow
                "generation_tokens_total": e.counted.answer_tokens + e.counted.steps,
            }  # fmt: skip
            lines += [f"vllm:{k}{label} {float(v)}\n" for k, v in values.items()]
        return web.Response(text="".join(lines))


def _refused(status: int, why: str) -> web.Response:
    return web.json_response({"error": {"message": why}}, status=status)


async def serve(args: argparse.Namespace) -> None:
    """Listen until SIGTERM; then write the report."""
    engines = []
    for d in args.engines:
        neighbours = Neighbours(args.shared, d.devices, d.slot, args.loss) if args.shared else None
        engines.append(PacedEngine(d.figures, args.speed, neighbours, d.alone))
    runner = web.AppRunner(
        PacedServer(args.models.split(","), engines).app(),
        access_log=None,
        keepalive_timeout=3600,
        shutdown_timeout=0.1,
    )
    await runner.setup()
    if args.uds:
        await web.UnixSite(runner, args.uds, backlog=4096).start()
    else:
        await web.TCPSite(runner, "127.0.0.1", args.port, backlog=4096).start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    if args.report:
        args.report.write_text(json.dumps([e.report() for e in engines]), encoding="utf-8")
    await runner.cleanup()


def usual(gpus: int, device: str, memory_gb: float) -> list[Described]:
    """So many engines of an 8-billion-parameter model, each on a device of its own."""
    from tools.simulated.simulation import MODEL

    constants = constants_for(device, memory_gb)
    figures = alone(Need("8b", MODEL, ModelLoad(), 8192), constants, memory_gb)
    return [Described(figures, figures)] * gpus


def main() -> None:
    """Parse, listen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--uds", help="path of the Unix socket")
    where.add_argument("--port", type=int, help="of the loopback device")
    parser.add_argument("--models", required=True, help="names that it serves, with commas")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--device", default="a100")
    parser.add_argument("--memory", type=float, default=80.0, help="of a GPU, in GB")
    parser.add_argument("--speed", type=float, default=1.0, help="device seconds in a second")
    parser.add_argument("--report", type=Path, help="a file for what its engines did, written at its end")
    parser.add_argument("--engines", type=Described.read, help=argparse.SUPPRESS)
    parser.add_argument("--shared", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--loss", type=float, default=0.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.engines = args.engines or usual(args.gpus, args.device, args.memory)
    asyncio.run(serve(args))


if __name__ == "__main__":
    main()
