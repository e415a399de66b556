"""Nodes of simulated servers for tests, and what is left of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from gra_hpc.config.settings import EngineConfig, ModelConfig
from gra_hpc.engines import guard
from gra_hpc.engines.node import Node
from gra_hpc.flows.calls import Request, Sampling
from gra_hpc.placement.placement import EnginePlace, Placement
from tools.simulated.server import Faults, launcher


def request(text: str = "hello", model: str = "m", seed: int = 0) -> Request:
    return Request(model, "identity", ({"role": "user", "content": text},), Sampling(0.2, 0.9, 64, seed))


class Gate:
    """Holds answers back, so that calls are in flight for as long as a test needs them there."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path
        self.holds = Faults(answer_when=str(path))
        """A server that answers a call once it is let through."""

    def let_through(self, *texts: str) -> None:
        """Have calls of these texts answered, now and later."""
        for text in texts:
            (self.path / text).touch()


def places(*models: str, replicas: int = 1) -> Placement:
    return Placement(tuple(EnginePlace(m, r, ()) for m in models for r in range(replicas)), "cpu")


class Host:
    """Makes nodes of simulated servers below one short directory, and says what is left of them."""

    def __init__(self, base: Path) -> None:
        self.base, self.logs = base, base / "logs"

    def node(
        self,
        faults: Faults = Faults(),
        *,
        placement: Placement | None = None,
        by_model: dict[str, Faults] | None = None,
        **config: Any,
    ) -> Node:
        placement = placement or places("m")
        models = {e.model: ModelConfig(path=e.model, max_model_len=512) for e in placement.engines}
        settings = EngineConfig(start_timeout_s=60, **config)
        return Node(models, placement, settings, self.base, self.logs, launcher(faults, by_model))

    def gate(self) -> Gate:
        return Gate(self.base / "gate")

    def log(self) -> str:
        return "".join(p.read_text() for p in sorted(self.logs.glob("*.log")))

    def processes(self) -> list[int]:
        """Processes that work below our directory: guards, engines, whatever they started."""
        found = []
        for pid in (int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if str(self.base).encode() in words and guard.start_time(pid) and pid != os.getpid():
                found.append(pid)
        return found

    def assert_clean(self) -> None:
        assert self.processes() == []
        assert [p.name for p in self.base.iterdir() if p.name.startswith(f"gra-{os.getuid()}-")] == []


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def engine_pid(node: Node, index: int = 0) -> int:
    """Pid of the server process of an engine."""
    process = node._replicas[index].process
    assert process is not None
    return next(p for p in guard.descendants(process.pid) if guard.stat_of(p)[0] == process.pid)  # type: ignore[index]
