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
import re
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

from gra_hpc.errors import GraError

Item = TypeVar("Item")
Result = TypeVar("Result")

PASSED = re.compile(
    # who and where
    r"PATH|HOME|USER|LOGNAME|SHELL|HOSTNAME|LANG|LANGUAGE|LC_\w+|TZ|TERM|COLUMNS|LINES|TMPDIR|TMP|TEMP|XDG_\w+"
    # Python, and what loads and builds its libraries
    r"|PYTHON\w+|VIRTUAL_ENV|CONDA_PREFIX|LD_LIBRARY_PATH|LD_PRELOAD|LIBRARY_PATH|CPATH|C_INCLUDE_PATH"
    r"|CPLUS_INCLUDE_PATH|CC|CXX|CFLAGS|CXXFLAGS|LDFLAGS|MAX_JOBS|GRA_\w+|MPL\w+|NUMBA_\w+|COVERAGE_\w+"
    # devices, threads, communication
    r"|CUDA\w*|NVIDIA_\w+|HIP_\w+|ROC\w+|HSA_\w+|ZE_\w+|GPU_\w+|NCCL_\w+|RCCL_\w+|GLOO_\w+|UCX_\w+|FI_\w+"
    r"|OMP_\w+|KMP_\w+|GOMP_\w+|MKL_\w+|OPENBLAS_\w+|NUMEXPR_\w+|MALLOC_\w+"
    # the libraries that models run in, and their caches
    r"|VLLM_\w+|TORCH\w+|PYTORCH_\w+|TRITON_\w+|FLASHINFER_\w+|HF_\w+|HUGGINGFACE_\w+|TRANSFORMERS_\w+"
    r"|TOKENIZERS_\w+|SENTENCE_TRANSFORMERS_\w+|DS_\w+|DEEPSPEED_\w+|ACCELERATE_\w+|TQDM_\w+|NLTK_DATA|DO_NOT_TRACK"
    # the job's place
    r"|SLURM_(?:ARRAY_)?(?:JOB|TASK)_(?:ID|GPUS)|SLURM_(?:NODEID|LOCALID|PROCID|CPUS_PER_TASK|RESTART_COUNT|TMPDIR)"
)
"""Variables that engines, benchmarks, ranks and workers are given; `engine.env` and `backend.env` add others."""
SECRET = re.compile(
    r"TOKEN(?!IZERS)|SECRET|PASSW|API_?KEY|ACCESS_KEY|CREDENTIAL|PRIVATE_KEY|JWT|(?:^|_)(?:PAT|KEY)(?:$|_)|AUTH|^AWS_|^KRB5",
    re.IGNORECASE,
)
"""Names of variables that hold secrets, also among those of the libraries above."""
_LOGIN = re.compile(r"//[^/@\s]+@")
"""A name or a password in an address."""

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


def passed(environ: Mapping[str, str]) -> dict[str, str]:
    """What a process of ours may know of an environment: `PASSED`, and nothing that looks like a secret.

    The current directory is on no path of its: whoever owns that directory would run code in it. An empty or relative
    entry of a path (`PYTHONPATH=:/x`) means the current directory too.
    """
    out = {k: v for k, v in environ.items() if PASSED.fullmatch(k) and not SECRET.search(k) and not _LOGIN.search(v)}
    for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH"):
        if name in out:
            out[name] = os.pathsep.join(p for p in out[name].split(os.pathsep) if p.startswith("/"))
    return out | {"PYTHONSAFEPATH": "1"}


def child_environment(**more: str) -> dict[str, str]:
    """The environment of a process of ours: what `passed` lets through, with this package importable."""
    env = passed(os.environ)
    package = str(Path(__file__).resolve().parent.parent)
    return env | {"PYTHONPATH": os.pathsep.join(p for p in (package, env.get("PYTHONPATH", "")) if p)} | more


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
        [sys.executable, "-P", "-m", "gra_hpc.workers", str(os.getpid())],
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
