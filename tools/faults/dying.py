"""Run a script, and die by SIGKILL at one of its write boundaries: just before the N-th change below a directory.

    python tools/faults/dying.py --below DIR --at N [--only write] [--torn] SCRIPT [ARGUMENTS]
    python tools/faults/dying.py --below DIR --after REGEX SCRIPT [ARGUMENTS]   at the next one after such a boundary
    python tools/faults/dying.py --below DIR --list FILE SCRIPT [ARGUMENTS]     note every boundary in FILE, and live
    python tools/faults/dying.py --serve                        fork scripts on demand (see faults.Nursery)

A boundary is a system call that changes what lies on the disk: a file opened for writing, written to by os.write,
synced, renamed, linked or removed, a directory made or removed, a batch of rows handed to a Parquet writer. To die just
before each of them in turn is to die between any two. With --torn, an os.write writes half of its bytes first.
Heartbeats are no boundaries: they are written by the clock, and only inform.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from gra_hpc import whole_directory
from gra_hpc.engines.simulated import SimulatedEngine
from gra_hpc.errors import EngineError
from gra_hpc.flows.calls import Answer, Request

_EVENTS = {
    "os.rename": "rename", "os.link": "link", "os.remove": "remove", "os.mkdir": "mkdir", "os.rmdir": "rmdir",
    "shutil.rmtree": "rmtree", "os.truncate": "truncate",
}  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Boundaries:
    """Counts boundaries below a directory; kills this process at one of them, or notes them all."""

    def __init__(
        self,
        below: Path,
        at: int = 0,
        only: str = "",
        torn: bool = False,
        listing: Path | None = None,
        number: int = signal.SIGKILL,
        after: str = "",
        clock: float = 0.0,
    ) -> None:
        """
        Args:
            at: the boundary to die at, from 1; 0: none.
            only: boundaries of other kinds do not count.
            torn: write half first, where the boundary is a write.
            listing: a file for the boundaries, a line each: kind and path below the directory.
            number: the signal.
            after: die at the boundary that follows the first whose line begins so (a regular expression).
            clock: seconds by which a simulated clock steps, back and forth, at every fifth boundary; `time.time` alone.
        """
        self.below, self.at, self.only, self.torn = f"{below.absolute()}/", at, only, torn
        self.count, self.number, self.clock = 0, number, clock
        self.after, self._passed = re.compile(after) if after else None, False
        self._open, self._write, self._fsync, self._readlink = os.open, os.write, os.fsync, os.readlink
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._listing = self._open(listing, flags, 0o666) if listing else -1

    def install(self) -> None:
        """Watch this process from now on; there is no way back."""
        sys.addaudithook(self._audit)
        if self.clock:
            now = time.time
            time.time = lambda: now() + self.clock * (self.count // 5 % 2)
        os.write, os.fsync = self._os_write, self._os_fsync  # type: ignore[assignment]
        write_table: Callable[..., Any] = pq.ParquetWriter.write_table

        def watched(writer: Any, table: Any, *args: Any, **kwargs: Any) -> Any:
            self.pass_("write_table", str(getattr(writer.where, "name", writer.where)))
            return write_table(writer, table, *args, **kwargs)

        pq.ParquetWriter.write_table = watched
        exchange = whole_directory._exchange

        def exchanged(a: Path, b: Path) -> bool:
            self.pass_("exchange", str(b))
            return exchange(a, b)

        whole_directory._exchange = exchanged

    def pass_(self, what: str, path: str, torn: Callable[[], object] | None = None) -> None:
        """One boundary: where this process may end."""
        if not path.startswith(self.below) or Path(path).name.lstrip(".").startswith("heartbeat."):
            return
        line = f"{what} {path.removeprefix(self.below)}"
        if self._listing >= 0:
            self._write(self._listing, f"{line}\n".encode())
        if self.only and self.only != what:
            return
        self.count += 1
        here, self._passed = self._passed, self._passed or bool(self.after and self.after.match(line))
        if self.count == self.at or here:
            if self.torn and torn is not None:
                torn()
            # to this very thread: another one could take it, and this one run on past the boundary
            signal.pthread_kill(threading.get_ident(), self.number)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if isinstance(path, (str, bytes)) and (flags or 0) & _WRITING:
                self.pass_("open", str(Path(os.fsdecode(path)).absolute()))
        elif event in _EVENTS and isinstance(args[0], (str, bytes, os.PathLike)):
            within = args[1] if event in ("os.remove", "os.rmdir") else -1  # rmtree names files by their directory
            directory = self._name(within) if within >= 0 else ""
            self.pass_(_EVENTS[event], str(Path(directory, os.fsdecode(args[0])).absolute()))

    def _os_write(self, fd: int, data: bytes) -> int:
        half = bytes(data[: len(data) // 2])
        self.pass_("write", self._name(fd), lambda: self._write(fd, half))
        return self._write(fd, data)

    def _os_fsync(self, fd: int) -> None:
        self.pass_("fsync", self._name(fd))
        self._fsync(fd)

    def _name(self, fd: int) -> str:
        try:
            return self._readlink(f"/proc/self/fd/{fd}")
        except OSError:
            return ""


def mortal_engines(orders: Path) -> None:
    """Have simulated engines of this process die once a file is there: a JSON list of how many answers each one still
    gives before it is gone, the one that is open first. Those behind the last of them live."""
    ask = SimulatedEngine.ask
    given: dict[int, list[Any]] = {}  # by engine, which is kept so that its id is not used again

    async def mortal(engine: SimulatedEngine, request: Request) -> Answer:
        answer = await ask(engine, request)
        if id(engine) not in given and orders.is_file():
            left = json.loads(orders.read_bytes())
            given[id(engine)] = [engine, left[0] if left else math.inf]
            orders.write_text(json.dumps(left[1:]), encoding="utf-8")
        if mine := given.get(id(engine)):
            mine[1] -= 1
            if mine[1] < 0:
                raise EngineError("engine: a simulated death", "none: this is a test")
        return answer

    SimulatedEngine.ask = mortal  # type: ignore[method-assign]


def run(script: str, args: list[str]) -> None:
    """Run a script as `python SCRIPT ARGS` would."""
    sys.argv = [script, *args]
    runpy.run_path(script, run_name="__main__")


def serve() -> None:
    """Fork scripts on demand, from a process that has imported what they need: JSON lines in, JSON lines out.

    `{"start": {script, args, log, env, below, at, ...}}` is answered by a pid, `{"wait": pid}` by the exit
    code (negative: the signal) once the process has ended, or, with `"poll": true`, by null while it runs.
    """
    import gra_hpc.launch.tasks
    import gra_hpc.merge.described_seeds
    import gra_hpc.merge.round
    import gra_hpc.release.build
    import gra_hpc.run.shard  # noqa: F401

    out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    for line in sys.stdin:
        order = json.loads(line)
        if "start" in order:
            pid = os.fork()
            if pid == 0:
                _become(order["start"])
            out.write(f"{pid}\n")
            continue
        found, status = os.waitpid(order["wait"], os.WNOHANG if order.get("poll") else 0)
        out.write(f"{json.dumps(os.waitstatus_to_exitcode(status) if found else None)}\n")


def _become(order: dict[str, Any]) -> None:
    """In the fork: run the script, and leave by its exit code."""
    code = 1
    try:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        null = os.open(os.devnull, os.O_RDONLY)
        for fd, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(fd, target)
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115
        os.environ.update(order.get("env", {}))
        if order.get("engines"):
            mortal_engines(Path(order["engines"]))
        if order.get("below"):
            listing = order.get("listing")
            Boundaries(
                Path(order["below"]),
                order.get("at", 0),
                order.get("only", ""),
                order.get("torn", False),
                Path(listing) if listing else None,
                order.get("number", signal.SIGKILL),
                order.get("after", ""),
                order.get("clock", 0.0),
            ).install()
        run(order["script"], order["args"])
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help="fork scripts on demand")
    parser.add_argument("--below", type=Path, help="directory whose changes are counted")
    parser.add_argument("--at", type=int, default=0, help="the boundary to die at, from 1")
    parser.add_argument("--after", default="", help="die at the boundary after one that begins so (a regex)")
    parser.add_argument("--clock", type=float, default=0.0, help="seconds a simulated clock steps back and forth")
    parser.add_argument("--only", default="", help="count only boundaries of this kind: write, fsync, rename, ...")
    parser.add_argument("--signal", type=int, default=signal.SIGKILL, help="send another signal than SIGKILL")
    parser.add_argument("--torn", action="store_true", help="write half first, where the boundary is a write")
    parser.add_argument("--list", type=Path, help="file for the boundaries")
    parser.add_argument("script", nargs="?")
    parser.add_argument("args", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if args.serve:
        return serve()
    if not args.script or not args.below:
        parser.error("SCRIPT and --below are needed")
    Boundaries(args.below, args.at, args.only, args.torn, args.list, args.signal, args.after, args.clock).install()
    return run(args.script, args.args)


if __name__ == "__main__":
    main()
