"""One engine process: started under its guard, watched, ended. Knows nothing of calls; `replica.Replica` does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from gra_hpc.engines import guard, leftovers
from gra_hpc.engines.client import Client
from gra_hpc.engines.vllm_server import EngineSpec, Launch, last_error
from gra_hpc.storage import full_disk_as_error, new_file

log = logging.getLogger(__name__)

TERM_GRACE_S = 8.0
"""Seconds an engine gets between SIGTERM and SIGKILL (vLLM leaves 0.4 s after SIGTERM)."""


class EngineDied(Exception):
    """An engine ended, or did not start. The text is the cause, in one line, for the log and the user."""


class EngineProcess:
    """An engine that runs, or has run.

    Args:
        spec: what runs, and where its files lie.
        launch: command line and environment.
        state: file of the guard, beside the private directory.
        log_path: the engine's output; a new file for every start.
    """

    def __init__(self, spec: EngineSpec, launch: Launch, state: Path, log_path: Path) -> None:
        self.spec, self.launch, self.state, self.log_path = spec, launch, state, log_path
        self.client = Client(str(spec.socket), spec.place.model, spec.model.max_model_len)
        self.dead = asyncio.Event()
        """Set once the guard has ended: by then no process of the engine should be left."""
        self.cause = ""
        """Why we killed it, when we did."""
        self.exit_code: int | None = None
        self.was_ready = False
        """It has answered a health check."""
        self._guard: subprocess.Popen[bytes] | None = None
        self._guard_start = 0
        self._loop = asyncio.get_running_loop()

    @property
    def pid(self) -> int:
        """Pid of the guard, which is also the number of the engine's session."""
        return self._guard.pid if self._guard else 0

    def _spawn(self) -> None:
        spec = self.spec
        spec.private.mkdir(mode=0o700, parents=True)
        spec.cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with full_disk_as_error(self.log_path):
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            output = new_file(self.log_path)
        argv = [
            sys.executable, "-I", "-S", guard.__file__, "--state", str(self.state), "--private", str(spec.private),
            "--grace", str(TERM_GRACE_S), *(["--own-network"] if self.launch.own_network else []),
            *(["--cores", ",".join(map(str, self.launch.cores))] if self.launch.cores else []), "--",
            *self.launch.argv,
        ]  # fmt: skip
        with output:
            output.write(f"$ {shlex.join(self.launch.argv)}\n".encode())
            self._guard = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.launch.env,
                cwd=spec.private,
                start_new_session=True,
            )
        stat = guard.stat_of(self._guard.pid)  # it is our child: there is at least its zombie
        self._guard_start = stat[2] if stat else 0
        threading.Thread(target=self._wait, name=f"guard-{spec.place.name}", daemon=True).start()

    def _wait(self) -> None:
        assert self._guard is not None
        self.exit_code = self._guard.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self.dead.set)

    async def start(self, timeout: float) -> float:
        """Start the engine and wait for its first healthy answer.

        Args:
            timeout: seconds until it counts as failed.

        Returns:
            Seconds it took.

        Raises:
            EngineDied: it ended, or is not healthy in time; it has been ended and cleaned up after.
        """
        begin = time.monotonic()
        self._spawn()
        pause = 0.02
        try:
            while await self.client.health() != 200:
                if self.dead.is_set():
                    raise EngineDied(self.why())
                if time.monotonic() - begin > timeout:
                    self.cause = f"not healthy {timeout:g} s after its start (engine.start_timeout_s)"
                    raise EngineDied(self.why())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self.dead.wait()
                pause = min(0.5, pause * 1.3)
        except BaseException:
            await self.stop(grace=0.5)
            raise
        self.was_ready = True
        return time.monotonic() - begin

    @property
    def terminated(self) -> bool:
        """Whether somebody else ended it with SIGTERM: Slurm sends it to all processes of a job that it ends."""
        return self.exit_code == guard.TERMINATED and not self.cause

    def why(self) -> str:
        """Why the engine ended, in one line: our own reason, or its log's last error."""
        said = last_error(self.log_path)
        if self.cause:
            return f"{self.cause}; last in its log: {said}" if said else self.cause
        code = self.exit_code
        if self.terminated:
            return "ended by SIGTERM from outside (a job that is being ended?)"
        how = f"killed by signal {code - 128}" if code and code > 128 else f"exit code {code}"
        if code == 128 + signal.SIGKILL:
            how += " (out of memory?)"
        if code is not None and code < 0:
            how = f"guard killed by signal {-code}"
        return f"{how}; last in its log: {said}" if said else how

    def _say(self, word: bytes) -> None:
        if self._guard and self._guard.stdin:
            with contextlib.suppress(OSError, ValueError):
                self._guard.stdin.write(word)
                self._guard.stdin.flush()

    async def stop(self, grace: float | None = None) -> None:
        """End the engine and everything it started; returns when nothing of it is left on the node.

        Args:
            grace: seconds it gets to leave by itself, `TERM_GRACE_S` or less; below that it is killed at once.
        """
        grace = TERM_GRACE_S if grace is None else grace
        if self._guard is None:
            await self.client.close()
            return
        if not self.dead.is_set():
            self._say(guard.STOP if grace >= TERM_GRACE_S else guard.KILL)
            try:
                async with asyncio.timeout(grace + 4.0):
                    await self.dead.wait()
            except TimeoutError:
                log.warning("engine %s: its guard does not end; killing its session", self.spec.place.name)
        await self.client.close()
        await asyncio.to_thread(self._sweep)
        if self._guard.stdin:
            with contextlib.suppress(OSError):
                self._guard.stdin.close()

    async def kill(self, cause: str) -> None:
        """End the engine at once, for a reason that its users are told."""
        self.cause = self.cause or cause
        await self.stop(grace=0.0)

    def _sweep(self) -> None:
        """What the guard does itself unless it was killed."""
        assert self._guard is not None
        state: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            state = json.loads(self.state.read_bytes())
        leftovers.end_session({"shm": state.get("shm", {}), "pid": self._guard.pid, "start": self._guard_start})
        shutil.rmtree(self.spec.private, ignore_errors=True)
        for path in (self.state, self.spec.socket):
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108
