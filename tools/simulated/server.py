"""The simulated engine behind the protocol of a real one: `python -m tools.simulated.server --uds PATH`.

`node.Node` hosts it like vLLM's server (`command=simulated_server.launcher(...)`), so that deaths, hangs and swaps are
tested with real processes, real sockets and real signals, in seconds. It can misbehave on demand (`Faults`).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from gra_hpc.engines.simulated import simulate
from gra_hpc.engines.vllm_server import EngineSpec, Launch, environment
from gra_hpc.flows.calls import Request, Sampling

_VARIABLE = "GRA_SIMULATED_FAULTS"


@dataclass(frozen=True)
class Faults:
    """How a simulated server misbehaves; the defaults are good behaviour."""

    latency_s: float = 0.0
    """Seconds a call takes."""
    slots: int = 0
    """Calls computed at once; others wait in the server's queue. 0: no limit."""
    start_s: float = 0.0
    """Seconds until the server listens."""
    start_when: str = ""
    """A file: the server listens once it is there."""
    answer_when: str = ""
    """A directory: a call is answered once a file of its text is there."""
    refuse: str = ""
    """Print this as an error and exit with code 1 instead of listening."""
    die_after: int = 0
    """Kill itself (SIGKILL) on the call after this many."""
    hang_after: int = 0
    """From the call after this many on, answer nothing more, also no metrics."""
    die_on: str = ""
    """Kill itself on a call whose messages contain this text."""
    hang_on: str = ""
    """Hang on such a call."""
    once: str = ""
    """A file: the first fault makes it, and where it exists there are no more faults."""
    core_dies_on: str = ""
    """On such a call answer 500, and 503 to health checks from then on, as vLLM's front end without its engine core."""
    error_on: str = ""
    """On such a call answer 500, in good health."""
    litter: bool = False
    """Leave a process that ignores SIGTERM in a session of its own, and shared memory that nobody removes."""
    events: str = ""
    """A file to which one line per start, sleep and wake is appended."""


def launcher(faults: Faults = Faults(), by_model: dict[str, Faults] | None = None) -> Callable[[EngineSpec], Launch]:
    """A `command` for `node.Node` that hosts simulated servers."""

    def launch(spec: EngineSpec) -> Launch:
        mine = (by_model or {}).get(spec.place.model, faults)
        env = environment(
            replace(spec, kind="gpu"), {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
        )
        env[_VARIABLE] = orjson.dumps(asdict(mine)).decode()
        argv = [sys.executable, "-m", "tools.simulated.server", "--uds", str(spec.socket)]
        return Launch([*argv, "--served-model-name", spec.place.model], env, own_network=True)

    return launch


class Server:
    """State of one simulated server."""

    def __init__(self, model: str, faults: Faults) -> None:
        self.model, self.faults = model, faults
        self.calls = self.running = self.waiting = self.tokens = 0
        self.core_dead = self.hung = self.sleeping = False
        self.slots = asyncio.Semaphore(faults.slots or 1_000_000)

    def strike(self) -> bool:
        """Whether a fault may happen now (`Faults.once`)."""
        if not self.faults.once:
            return True
        try:
            os.close(os.open(self.faults.once, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        return True

    def note(self, event: str) -> None:
        if self.faults.events:
            with Path(self.faults.events).open("a", encoding="utf-8") as f:
                f.write(f"{event} {self.model}\n")

    async def chat(self, http: Any) -> Any:
        from aiohttp import web

        fields = orjson.loads(await http.read())
        text = "\n".join(m["content"] for m in fields["messages"])
        f = self.faults
        self.calls += 1
        if ((f.die_after and self.calls > f.die_after) or (f.die_on and f.die_on in text)) and self.strike():
            os.kill(os.getpid(), signal.SIGKILL)
        if ((f.hang_after and self.calls > f.hang_after) or (f.hang_on and f.hang_on in text)) and self.strike():
            self.hung = True
        if f.core_dies_on and f.core_dies_on in text and self.strike():
            self.core_dead = True
        if self.hung:
            await asyncio.sleep(86400)
        if self.core_dead:
            return web.json_response({"error": {"message": "EngineCore encountered an issue."}}, status=500)
        if f.error_on and f.error_on in text and self.strike():
            return web.json_response({"error": {"message": "a mishap"}}, status=500)
        if self.sleeping:
            return web.json_response({"error": {"message": "asked while asleep"}}, status=400)
        self.waiting += 1
        async with self.slots:
            self.waiting -= 1
            self.running += 1
            try:
                await asyncio.sleep(f.latency_s)
                while f.answer_when and not Path(f.answer_when, text).exists():
                    await asyncio.sleep(0.005)
            finally:
                self.running -= 1
        if self.hung:
            await asyncio.sleep(86400)
        sampling = Sampling(
            fields["temperature"], fields["top_p"], fields["max_tokens"], fields["seed"],
            fields.get("repetition_penalty", 1.0), 0, fields.get("top_k", 0), tuple(fields.get("stop", ())),
        )  # fmt: skip
        schema = fields["response_format"]["json_schema"]["schema"] if "response_format" in fields else None
        answer = simulate(Request(fields["model"], "", tuple(fields["messages"]), sampling, schema))
        self.tokens += answer.completion_tokens
        message = {"role": "assistant", "content": answer.text}
        if "thinking_token_budget" in fields:
            message["reasoning"] = "It was asked, so it is thought about."
        usage = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
        choice = {"index": 0, "message": message, "finish_reason": answer.finish}
        reply = {"object": "chat.completion", "model": self.model, "choices": [choice], "usage": usage}
        return web.Response(body=orjson.dumps(reply), content_type="application/json")

    async def embed(self, http: Any) -> Any:
        """Vectors of 8 numbers that follow from the text."""
        from aiohttp import web

        fields = orjson.loads(await http.read())
        self.calls += 1
        numbers = [b - 127.5 for b in hashlib.blake2b(fields["input"].encode(), digest_size=8).digest()]
        usage = {"prompt_tokens": len(fields["input"]) // 4 + 2}
        return web.json_response({"data": [{"index": 0, "embedding": numbers}], "usage": usage})

    async def health(self, _: Any) -> Any:
        from aiohttp import web

        return web.Response(status=503 if self.core_dead else 200)

    async def metrics(self, _: Any) -> Any:
        from aiohttp import web

        if self.hung:
            await asyncio.sleep(86400)
        label = f'{{engine="0",model_name="{self.model}"}}'
        values = {
            "num_requests_running": self.running, "num_requests_waiting": self.waiting, "kv_cache_usage_perc": 0.1,
            "prompt_tokens_total": 0, "generation_tokens_total": self.tokens,
        }  # fmt: skip
        return web.Response(text="".join(f"vllm:{k}{label} {float(v)}\n" for k, v in values.items()))

    async def sleep(self, http: Any) -> Any:
        """As vLLM documents it: POST /sleep?level=1."""
        from aiohttp import web

        if http.query.get("level") not in ("1", "2") or self.running:
            return web.json_response({"error": {"message": "level must be 1 or 2, and nothing running"}}, status=400)
        self.sleeping = True
        self.note("sleep")
        return web.json_response({"status": "sleeping", "level": int(http.query["level"])})

    async def wake(self, _: Any) -> Any:
        from aiohttp import web

        self.sleeping = False
        self.note("wake")
        return web.json_response({"status": "awake", "tags": None})


def _litter() -> None:
    """A process that is hard to end, and shared memory that stays."""
    code = (
        "import mmap, os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.setsid();"
        "f = open(f'/dev/shm/gra_simulated_{os.getpid()}', 'w+b'); f.truncate(4096); m = mmap.mmap(f.fileno(), 4096);"
        "print('littered', os.getpid(), flush=True); time.sleep(86400)"
    )
    subprocess.Popen([sys.executable, "-c", code])


async def serve(socket: str, model: str, faults: Faults) -> None:
    """Listen until SIGTERM."""
    from aiohttp import web

    server = Server(model, faults)
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/chat/completions", server.chat)
    app.router.add_post("/v1/embeddings", server.embed)
    app.router.add_get("/health", server.health)
    app.router.add_get("/metrics", server.metrics)
    app.router.add_post("/sleep", server.sleep)
    app.router.add_post("/wake_up", server.wake)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=3600, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, socket, backlog=2048).start()
    server.note("start")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description="A server of made-up answers, for tests.")
    parser.add_argument("--uds", required=True, help="path of the Unix socket")
    parser.add_argument("--served-model-name", default="simulated")
    args, _ = parser.parse_known_args()  # a real one takes more
    faults = Faults(**orjson.loads(os.environ.get(_VARIABLE, "{}")))
    if faults.litter:
        _litter()
    if faults.refuse:
        sys.exit(f"ERROR: {faults.refuse}")

    time.sleep(faults.start_s)
    while faults.start_when and not Path(faults.start_when).exists():
        time.sleep(0.01)
    asyncio.run(serve(args.uds, args.served_model_name, faults))


if __name__ == "__main__":
    main()
