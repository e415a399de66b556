"""A node's engines as one: all replicas of all models behind the door (`flows.calls.Engine`)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from gra_hpc.config.settings import EngineConfig, ModelConfig, OwnNetwork
from gra_hpc.engines import kept_caches, leftovers, vllm_server
from gra_hpc.engines.dispatcher import Dispatcher
from gra_hpc.engines.process import EngineProcess
from gra_hpc.engines.replica import Call, Replica
from gra_hpc.engines.rotation import LEAST_PATIENCE_S, Rotation
from gra_hpc.engines.start_locks import StartingLocks
from gra_hpc.engines.vllm_server import EngineSpec, Launch
from gra_hpc.errors import EngineError
from gra_hpc.flows.calls import Answer, Draining, Request
from gra_hpc.models.files import fold_system
from gra_hpc.placement.placement import EnginePlace, Placement

log = logging.getLogger(__name__)

PORT_STRIDE = 32
"""TCP ports between two engines' first ones."""


class Node:
    """Hosts engines by a placement and answers calls; a context manager, so that nothing is left on any way out.

        async with Node(models, placement, config.engine, local_dir, log_dir) as node:
            answer = await node.ask(request)

    Args:
        models: the run's models by name; those without an engine in the placement cannot be asked.
        placement: where each engine runs.
        config: limits and timeouts.
        local_dir: node-local directory for sockets, temporary files and compile caches.
        log_dir: for the engines' logs, one file per start.
        command: how to start an engine; vLLM's server unless a test hosts another one.
        patience_s: how long a call waits at least before it forces another group's turn.
        parsers: vLLM's reasoning parsers of the models that think, by model.
        kept: where engines' compiled code is kept for other nodes and jobs (`kept_caches.home`); none: nowhere.
    """

    def __init__(
        self,
        models: Mapping[str, ModelConfig],
        placement: Placement,
        config: EngineConfig,
        local_dir: Path,
        log_dir: Path,
        command: Callable[[EngineSpec], Launch] = vllm_server.launch,
        patience_s: float = LEAST_PATIENCE_S,
        parsers: Mapping[str, str] | None = None,
        kept: Path | None = None,
    ) -> None:
        self.models, self.placement, self.config = models, placement, config
        self._local_dir, self._log_dir, self._command = Path(local_dir), Path(log_dir), command
        self._patience_s, self._parsers, self._kept = patience_s, parsers or {}, kept
        self._brought: dict[Path, str] = {}
        """Copies that were brought into caches, by cache."""
        self._suspect: set[Path] = set()
        """Caches of engines that did not start with their copies."""
        self._keep: dict[Replica, Callable[[], bool]] = {}
        """What each does once it is ready, the first time."""
        self._keeping: set[asyncio.Future[bool]] = set()
        self._keeps_no_more = threading.Event()
        self._dispatchers: dict[str, Dispatcher] = {}
        self._replicas: list[Replica] = []
        self._rotation: Rotation | None = None
        self._rotating: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._private: Path | None = None
        self._locks: list[int] = []
        self._opening: asyncio.Task[None] | None = None
        self._draining = False
        self._closed: EngineError | None = None

    async def __aenter__(self) -> Node:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ---- start and end -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the engines (with turns: the first group) and wait until they are ready. `ask` does it by itself.

        Raises:
            EngineError: a check failed, or an engine does not start.
        """
        await self._ensure_open()
        if self._rotation is not None:
            turn = min(self._rotation.groups)
            wanted = self._rotation.groups[turn]
            self._rotation.begin(turn)
        else:
            wanted = self._replicas
        while not all(r.ready for r in wanted):
            for replica in wanted:
                if replica.failed is not None:
                    raise replica.failed
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._changed.wait()
            self._changed.clear()

    async def _ensure_open(self) -> None:
        if self._closed is not None:
            raise self._closed
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        if not self._opening.done():
            await asyncio.shield(self._opening)
        self._opening.result()

    async def _open(self) -> None:
        """Sweep, make the private directory, check every engine, and begin to keep them."""
        await asyncio.to_thread(leftovers.sweep, self._local_dir)
        self._private = leftovers.private_directory(self._local_dir)
        self._changed = asyncio.Event()
        starting = StartingLocks()
        turns = self.placement.takes_turns
        can_sleep = turns and self.placement.kind == "gpu"
        base_port = 20000 + PORT_STRIDE * secrets.randbelow(360)
        for index, place in enumerate(self.placement.engines):
            if place.model not in self.models:
                raise EngineError(f"placement names model {place.model}, which is not in models")
            dispatcher = self._dispatchers.setdefault(place.model, Dispatcher(place.model, self._touched))
            spec = self._spec(index, place, base_port + PORT_STRIDE * index, can_sleep)
            launch = await asyncio.to_thread(self._command, spec)
            dispatcher.fold_system = launch.fold_system
            replica = Replica(
                place, self.config, self._builder(index, spec), starting.of(place), self._replica_changed, can_sleep
            )
            if self._kept is not None:
                name = await asyncio.to_thread(kept_caches.key, spec, launch.argv)
                if await asyncio.to_thread(kept_caches.fetch, self._kept, name, spec.cache):
                    self._brought[spec.cache] = name
                self._keep[replica] = partial(self._keep_caches, self._kept, name, spec.cache)
            dispatcher.replicas.append(replica)
            self._replicas.append(replica)
        if turns:
            self._rotation = Rotation(list(self._dispatchers.values()), self._patience_s)
            self._rotating = asyncio.create_task(self._rotation.run())
            self._tasks.append(self._rotating)
        else:
            for replica in self._replicas:
                replica.want(True)
        self._tasks += [asyncio.create_task(r.keep(), name=f"keep-{r.place.name}") for r in self._replicas]
        if self._draining:
            self.drain()

    def _spec(self, index: int, place: EnginePlace, port: int, can_sleep: bool) -> EngineSpec:
        assert self._private is not None
        # What is compiled on a GPU (minutes) or looked up (12 s of each start on a CPU) outlives the shard.
        cache, fd = leftovers.claim_cache(self._local_dir, place.name)
        self._locks.append(fd)
        return EngineSpec(
            place=place,
            model=self.models[place.model],
            engine=self.config,
            kind=self.placement.kind,
            socket=self._private / f"e{index:02d}.s",
            private=self._private / f"e{index:02d}",
            cache=cache,
            port=port,
            beside=self.placement.beside(place),
            can_sleep=can_sleep,
            parser=self._parsers.get(place.model, ""),
        )

    def _keep_caches(self, kept: Path, name: str, cache: Path) -> bool:
        """Leave a copy of a ready engine's caches; in place of one that it did not start with, and now does without."""
        if cache in self._suspect:
            kept_caches.remove(kept, name)
        return kept_caches.keep(kept, name, cache, self._keeps_no_more)

    def _builder(self, index: int, spec: EngineSpec) -> Callable[[int], EngineProcess]:
        """Makes the process of the n-th start: fresh paths each time, so that nothing of a dead engine is met again."""

        before: EngineProcess | None = None

        def build(n: int) -> EngineProcess:
            nonlocal before, spec
            assert self._private is not None
            if _fails_alone(before):
                log.warning("engine %s: without a network of its own from now on (engine.own_network)", spec.place.name)
                spec = replace(spec, shares_network=True)
            if self._kept and _did_not_start(before) and self._brought.pop(spec.cache, ""):
                log.warning("engine %s: without the compiled code of an earlier one from now on", spec.place.name)
                kept_caches.clear(spec.cache)
                self._suspect.add(spec.cache)
            name = f"e{index:02d}-{n}"
            fresh = replace(spec, socket=self._private / f"{name}.s", private=self._private / name)
            host = os.uname().nodename.split(".")[0]
            token = self._private.name[-8:]
            log_path = self._log_dir / f"engine-{spec.place.name}-{host}-{token}-{n}.log"
            before = EngineProcess(fresh, self._command(fresh), self._private / f"{name}.state", log_path)
            return before

        return build

    async def close(self) -> None:
        """End all engines and remove what they left; safe to call twice, finishes also when its caller is cancelled."""
        if self._closed is None:
            self._closed = EngineError("the node's engines are closed")
            self._closing = asyncio.create_task(self._close())
        while not self._closing.done():
            try:
                await asyncio.shield(self._closing)
            except asyncio.CancelledError:
                if self._closing.cancelled():
                    raise
                await asyncio.wait([self._closing])
                raise
        self._closing.result()

    async def _close(self) -> None:
        assert self._closed is not None
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        for dispatcher in self._dispatchers.values():
            dispatcher.fail(self._closed)
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                log.error("while ending engines: %r", result)
        if self._private is not None:
            await asyncio.to_thread(shutil.rmtree, self._private, True)
        self._keeps_no_more.set()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        for fd in self._locks:
            os.close(fd)
        self._locks.clear()

    # ---- calls -------------------------------------------------------------------------------------------------------

    async def ask(self, request: Request) -> Answer:
        """Answer a request; engines start with the first one.

        An answer with finish `error` means that this call cannot be answered: the engine refused it, or engines die
        of it (`dispatcher.py` says when that is taken for sure).

        Raises:
            EngineError: no engine for the model can be kept running.
            Draining: the node drains, and this call is not in flight.
        """
        if self._draining:
            raise Draining
        if self._opening is None or not self._opening.done() or self._closed is not None:
            await self._ensure_open()
        else:
            self._opening.result()
        dispatcher = self._dispatchers.get(request.model)
        if dispatcher is None:
            raise EngineError(
                f"model {request.model}: no engine in the placement", f"it has {', '.join(self._dispatchers)}"
            )
        messages = fold_system(request.messages) if dispatcher.fold_system else request.messages
        return await dispatcher.ask(Call(request, messages))

    def drain(self) -> None:
        """Take no more calls: those that wait, and later ones, end with `Draining`; calls in flight are answered.

        No engine is woken or swapped any more, and none is started that has not begun to.
        """
        self._draining = True
        if self._rotating is not None:
            self._rotating.cancel()
        for dispatcher in self._dispatchers.values():
            dispatcher.drain()
        for replica in self._replicas:
            if not replica.ready:
                replica.want(False)

    def _touched(self) -> None:
        if self._rotation is not None:
            self._rotation.touched()

    def _replica_changed(self, replica: Replica) -> None:
        self._changed.set()
        if replica.ready and (keep := self._keep.pop(replica, None)):
            self._keeping.add(asyncio.ensure_future(asyncio.to_thread(keep)))
        self._dispatchers[replica.place.model].changed(replica)
        self._touched()

    def guards(self) -> dict[str, int]:
        """The process of each engine's guard, by the engine's name; none of those that have no process now."""
        running = {r.place.name: r.process for r in self._replicas}
        return {name: p.pid for name, p in running.items() if p is not None and p.pid and not p.dead.is_set()}

    def _gpus(self, place: EnginePlace) -> int:
        return len(place.devices) if self.placement.kind == "gpu" else 0

    def stats(self) -> dict[str, Any]:
        """What the engines did so far, JSON-able: by engine, and the rotation's lost seconds."""
        rotation = self._rotation or Rotation([])
        return {
            "engines": {r.place.name: r.report() | {"gpus": self._gpus(r.place)} for r in self._replicas},
            "rotation": rotation.report(),
            "given_up": sum(p.quarantined for p in self._dispatchers.values()),
        }


def _did_not_start(process: EngineProcess | None) -> bool:
    """Whether an engine has ended before it was ready, and nobody ended it."""
    return process is not None and not process.was_ready and not process.terminated


def _fails_alone(process: EngineProcess | None) -> bool:
    """Whether an engine may not have started for its network's sake: no driver must keep a run from its engines."""
    if process is None or not _did_not_start(process) or not process.launch.own_network:
        return False
    return process.spec.kind == "gpu" and process.spec.engine.own_network is OwnNetwork.auto
