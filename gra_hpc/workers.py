"""Worker processes of the merge: they run functions on items, import no torch, and never outlive their parent.

Run as a module this is a worker: it reads pickled `(function, item)` from stdin and answers on stdout.

Tried on concurrent.futures.ProcessPoolExecutor (spawn), which would be some sixty lines less, and left: a worker there
gets this process's environment as it is, runs its main program again, and cannot be ended without private names;
semaphores need a tracker process, which outlives a parent that is killed, and complains on the user's terminal. It took
twice as long to a first result (0.5 s for 0.3 s), and 0.35 ms an item for 0.05 ms.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

from gra_hpc.errors import GraError

Item = TypeVar("Item")
Result = TypeVar("Result")

_LENGTH = struct.Struct("<Q")
_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int = 0) -> None:
    """Ask the kernel to kill this process when its parent dies, however it dies (Linux).

    Args:
        parent: its process id; 0: whoever is the parent now, if this comes too late for one that is gone.
    """
    parent = parent or os.getppid()
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:  # it died before the request
        os._exit(1)


def child_environment(**more: str) -> dict[str, str]:
    """This process's environment, with this package importable."""
    package = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(p for p in (package, os.environ.get("PYTHONPATH", "")) if p)
    return {**os.environ, "PYTHONPATH": path, **more}


class Workers:
    """A few processes that apply functions to items, in order. With `count` 1 or less, this process does the work."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        for p in self._processes:
            if kind is not None:
                p.kill()
            if p.stdin:
                p.stdin.close()
        for p in self._processes:
            p.wait()
            if p.stdout:
                p.stdout.close()
        self._processes.clear()

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Results in the order of the items.

        Args:
            function: a function at the top level of a module.
            items: what it is applied to; picklable.

        Raises:
            GraError: a worker was killed.
            Exception: the first exception of the function.
        """
        if self.count <= 1 or len(items) <= 1:
            yield from map(function, items)
            return
        while len(self._processes) < self.count:
            self._processes.append(_start())
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        for i in range(len(items)):
            todo.put(i)
        done: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()
        stop = threading.Event()

        def feed(process: subprocess.Popen[bytes]) -> None:
            while not stop.is_set():
                try:
                    i = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    assert process.stdin and process.stdout
                    _write(process.stdin, (function, items[i]))
                    ok, value = _read(process.stdout)
                    done.put((i, value, None) if ok else (i, None, value))
                except (OSError, EOFError, pickle.PickleError) as e:
                    code = process.poll()
                    done.put(
                        (
                            i,
                            None,
                            GraError(
                                f"a merge worker ended ({e or 'no answer'}; exit code {code})",
                                "more memory (site.merge_memory_gb), then gra merge RUN",
                            ),
                        )
                    )
                    return

        threads = [threading.Thread(target=feed, args=(p,), daemon=True) for p in self._processes]
        for t in threads:
            t.start()
        waiting: dict[int, Any] = {}
        try:
            for i in range(len(items)):
                while i not in waiting:
                    j, value, error = done.get()
                    if error is not None:
                        raise error
                    waiting[j] = value
                yield waiting.pop(i)
        finally:
            stop.set()
            for t in threads:
                t.join()


def _start() -> subprocess.Popen[bytes]:
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return subprocess.Popen(
        [sys.executable, "-m", "gra_hpc.workers", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=child_environment(**one),
    )


def _write(stream: IO[bytes], value: object) -> None:
    data = pickle.dumps(value, protocol=5)
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def _read(stream: IO[bytes]) -> Any:
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return pickle.loads(data)


def leave_signals_to_parent() -> None:
    """Ignore what a terminal or Slurm sends to all processes of a step: the parent decides, and we die with it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def main(parent: int) -> None:
    """Answer requests until stdin closes."""
    die_with_parent(parent)
    leave_signals_to_parent()
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a stray print must not break the answers
    while True:
        try:
            function, item = _read(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer: tuple[bool, Any] = (True, function(item))
        except Exception as e:
            try:
                pickle.loads(pickle.dumps(e))
                answer = (False, e)
            except Exception:
                answer = (False, RuntimeError(f"{type(e).__name__}: {e}"))
        try:
            _write(results, answer)
        except BrokenPipeError:
            return


if __name__ == "__main__":
    main(int(sys.argv[1]))
