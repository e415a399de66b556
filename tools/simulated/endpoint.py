"""The simulated engine as somebody else's server, over TCP: `python -m tools.simulated.endpoint --models a,b ...`.

It wants a key (of the variable GRA_SIMULATED_SECRET), says what it serves, and fails by turns if told to. Its log has a
line for each call: what became of it, and the call's sampling seed, which no two calls of a run share.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import signal
from pathlib import Path

import orjson
from aiohttp import web

from gra_hpc.engines.simulated import simulate
from gra_hpc.flows.calls import Request, Sampling

SECRET = "GRA_SIMULATED_SECRET"


class Server:
    """State of one server.

    Args:
        turns: what becomes of one call after another: `ok`, `drop`, or a status.
    """

    def __init__(self, models: list[str], log: Path, turns: list[str], latency_s: float) -> None:
        self.models, self.latency_s = models, latency_s
        self.secret = os.environ.get(SECRET, "")
        self.turns = itertools.cycle(turns)
        self.log = log.open("a", encoding="utf-8", buffering=1)

    def refused(self, http: web.Request) -> web.Response | None:
        if self.secret and http.headers.get("Authorization") != f"Bearer {self.secret}":
            return web.json_response({"error": {"message": "wrong key"}}, status=401)
        return None

    async def list(self, http: web.Request) -> web.Response:
        data = [{"id": m, "object": "model", "root": f"made-up/{m}", "max_model_len": 4096} for m in self.models]
        return self.refused(http) or web.json_response({"object": "list", "data": data})

    async def chat(self, http: web.Request) -> web.StreamResponse:
        if refused := self.refused(http):
            return refused
        fields = orjson.loads(await http.read())
        turn = next(self.turns)
        await asyncio.sleep(self.latency_s)
        self.log.write(json.dumps([turn, fields["seed"], fields["model"]]) + "\n")
        if turn == "drop":
            assert http.transport is not None
            http.transport.abort()
            return web.Response()
        if turn != "ok":  # as careless as some are: the key is repeated
            said = {"error": {"message": f"no luck with Bearer {self.secret}"}}
            return web.json_response(said, status=int(turn), headers={"Retry-After": "0.05"} if turn == "429" else {})
        sampling = Sampling(fields["temperature"], fields["top_p"], fields["max_tokens"], fields["seed"])
        schema = fields["response_format"]["json_schema"]["schema"] if "response_format" in fields else None
        answer = simulate(Request(fields["model"], "", tuple(fields["messages"]), sampling, schema))
        choice = {"index": 0, "message": {"content": answer.text}, "finish_reason": answer.finish}
        usage = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
        return web.Response(body=orjson.dumps({"choices": [choice], "usage": usage}), content_type="application/json")


async def serve(server: Server, port_file: Path) -> None:
    """Listen until SIGTERM; the port is in a file once it does."""
    app = web.Application(client_max_size=1 << 26)
    app.router.add_get("/v1/models", server.list)
    app.router.add_post("/v1/chat/completions", server.chat)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    new = port_file.with_suffix(".new")
    new.write_text(str(runner.addresses[0][1]), encoding="utf-8")
    new.replace(port_file)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description="A server of made-up answers that is not ours, for tests.")
    parser.add_argument("--models", required=True, help="names that it serves, with commas")
    parser.add_argument("--log", required=True, type=Path, help="a line for each call")
    parser.add_argument("--port-file", required=True, type=Path, help="where its port is written")
    parser.add_argument("--turns", default="ok", help="what becomes of calls, by turns: ok, drop, 429, 500, ...")
    parser.add_argument("--latency", default=0.0, type=float, help="seconds a call takes")
    args = parser.parse_args()
    asyncio.run(serve(Server(args.models.split(","), args.log, args.turns.split(","), args.latency), args.port_file))


if __name__ == "__main__":
    main()
