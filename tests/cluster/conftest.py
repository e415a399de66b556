"""A real Slurm cluster of four nodes on this host, started by tools/mini_slurm.sh, for the session."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "mini_slurm.sh"
NODES = 4
PORTS = NODES + 3
BINARIES = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "munged")
ACCOUNTING_BINARIES = ("slurmdbd", "sacct", "mariadbd")


class MiniSlurm:
    """A running cluster: its environment, its clients, its faults."""

    def __init__(self, directory: Path, accounting: bool, port: int, **knobs: Any) -> None:
        self.directory = directory
        self.nodes = NODES
        self.gpus = 8
        self.knobs = {"MS_ACCT": str(int(accounting)), "MS_PORT": str(port)}
        self.knobs |= {f"MS_{k.upper()}": str(v) for k, v in knobs.items()}
        self.accounting = accounting
        sbin = "/usr/sbin:/sbin"
        self.env = {
            "SLURM_CONF": str(directory / "etc" / "slurm.conf"),
            "PATH": f"{directory / 'bin'}:{os.environ['PATH']}:{sbin}",
        }

    def tool(self, command: str, *args: object, timeout: float = 120) -> str:
        """Run tools/mini_slurm.sh; what it says on failure is the error."""
        done = subprocess.run(
            ["bash", str(TOOL), command, str(self.directory), *map(str, args)],
            env={**os.environ, **self.knobs},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if done.returncode:
            raise RuntimeError(f"mini_slurm.sh {command}: {done.stderr.strip()}\n{done.stdout}")
        return done.stdout

    def start(self) -> None:
        """Start whatever does not run; all nodes idle when it returns."""
        self.tool("start", self.nodes, self.gpus)

    def run(self, *args: object, timeout: float = 30, check: bool = True, **env: str) -> str:
        """A client command's output, without the last newline."""
        done = subprocess.run(
            [str(a) for a in args],
            env={**os.environ, **self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(map(str, args))}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.rstrip("\n")

    def sbatch(self, *args: object, timeout: float = 30) -> int:
        """Submit; the job's id. Output is thrown away unless `--output` is among the arguments."""
        words = [str(a) for a in args]
        if not any(w.startswith("--output") for w in words):
            words.insert(0, "--output=/dev/null")
        return int(self.run("sbatch", "--parsable", *words, timeout=timeout).partition(";")[0])

    def states(self, job: int | str) -> dict[str, str]:
        """State by task id (`7_0`, or `7`), also of tasks that ended lately."""
        lines = self.run("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%i %T", check=False).splitlines()
        return dict(line.split() for line in lines)

    def wait_state(self, job: int | str, state: str, timeout: float = 60) -> None:
        """Until every task of the job is in the state."""
        self.wait_until(lambda: set(self.states(job).values()) == {state}, timeout, lambda: self.states(job))

    def wait_until(
        self, predicate: Callable[[], Any], timeout: float, detail: Callable[[], Any] | None = None
    ) -> float:
        """Seconds until the predicate holds. A busy machine is not wrong: only the test's own limit ends the wait.

        Args:
            timeout: after so many seconds what is seen is printed, for whoever reads why the test was ended.
        """
        start, tell = time.monotonic(), timeout
        while not predicate():
            if time.monotonic() - start > tell:
                seen = detail() if detail else self.run("squeue", "-r", "-t", "all", check=False)
                print(f"still waiting after {time.monotonic() - start:.0f} s; last seen: {seen}", flush=True)
                tell *= 2
            time.sleep(0.2)
        return time.monotonic() - start

    def kill_node(self, node: int) -> None:
        """Power loss: the node's daemon and everything that runs on it."""
        self.tool("kill-node", node)

    def kill_slurmd(self, node: int) -> None:
        """Only the node's daemon; its jobs live on."""
        self.tool("kill-slurmd", node)

    def start_node(self, node: int) -> None:
        self.tool("start-node", node)

    def kill_ctld(self, saved: bool = True) -> None:
        """SIGKILL for the controller.

        Args:
            saved: once it has saved its jobs, at most 5 s after a change. A younger job would be forgotten, and its
                number given to another one, which no node starts while the first runs there.
        """
        asked, file = time.time(), self.directory / "spool" / "ctld" / "job_state"
        while saved and time.time() - asked < 6 and not (file.exists() and file.stat().st_mtime > asked):
            time.sleep(0.1)
        self.tool("kill-ctld")

    def start_ctld(self) -> None:
        self.tool("start-ctld")

    def clear(self) -> None:
        """No jobs, all nodes idle: for the next test."""
        self.start()
        jobs = self.run("squeue", "-h", "-o", "%A").split()
        if jobs:
            self.run("scancel", *sorted(set(jobs)), check=False)
            self.wait_until(lambda: not self.run("squeue", "-h"), 60)

    def stop(self) -> None:
        self.tool("stop")


def free_port_block(stack: ExitStack) -> int:
    """First of PORTS free ports in a row, below the ephemeral range and locked against other test sessions."""
    locks = Path(tempfile.gettempdir()) / f"gra-slurm-ports-{os.getuid()}"
    locks.mkdir(exist_ok=True)
    for base in range(17000, 30000, 20):
        lock: IO[str] = stack.enter_context((locks / str(base)).open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        if all(_is_free(port) for port in range(base, base + PORTS)):
            return base
    raise RuntimeError("no free ports between 17000 and 30000")


def _is_free(port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("", port))
        except OSError:
            return False
        return True


@contextmanager
def mini_slurm(accounting: bool = False, **knobs: Any) -> Iterator[MiniSlurm]:
    """A cluster for a `with` block; stopped and removed at its end, and also if this process is killed.

    Args:
        accounting: slurmdbd and sacct; without, a stand-in for sacct that asks squeue.
        knobs: of tools/mini_slurm.sh (`user_signal=0`, `grace=20`, `array=11`).
    """
    missing = [b for b in BINARIES + (ACCOUNTING_BINARIES if accounting else ()) if not _which(b)]
    if missing:
        pytest.skip(f"Slurm is not installed: no {', '.join(missing)} (see .ci/run)")
    with ExitStack() as stack:
        port = free_port_block(stack)
        # Slurm's socket names must stay short, so not pytest's own directory.
        directory = Path(tempfile.mkdtemp(prefix="gra-slurm-", dir="/tmp"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        directory.chmod(0o755)
        cluster = MiniSlurm(directory, accounting, port, **knobs)
        try:
            cluster.start()
            # A killed test session must not leave daemons: this process outlives it, and stops them.
            watch = subprocess.Popen(
                ["bash", str(TOOL), "watch", str(directory), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            stack.callback(watch.wait)
            stack.callback(watch.kill)
            yield cluster
        finally:
            if (directory / "etc" / "settings").exists():
                cluster.stop()


def _which(binary: str) -> str | None:
    return shutil.which(binary, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@pytest.fixture(scope="session")
def cluster() -> Iterator[MiniSlurm]:
    """Four nodes with eight fake GPUs each; no accounting (sacct asks squeue)."""
    with mini_slurm() as running:
        yield running


@pytest.fixture(scope="session")
def cluster_acct() -> Iterator[MiniSlurm]:
    """The same with slurmdbd behind sacct and sacctmgr."""
    with mini_slurm(accounting=True) as running:
        yield running


@pytest.fixture(scope="session")
def cluster_term() -> Iterator[MiniSlurm]:
    """A site that preempts with SIGTERM instead of the job's own signal, as most do."""
    with mini_slurm(user_signal=0) as running:
        yield running


@pytest.fixture(autouse=True)
def _left_clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test: its jobs cancelled, what it killed running again."""
    yield
    for name in ("cluster", "cluster_acct", "cluster_term"):
        if name in request.fixturenames:
            request.getfixturevalue(name).clear()


@pytest.fixture
def slurm_env(cluster: MiniSlurm, monkeypatch: pytest.MonkeyPatch) -> MiniSlurm:
    """The cluster, with this process's environment pointing to it (for submitit and gra_hpc.launch)."""
    for key, value in cluster.env.items():
        monkeypatch.setenv(key, value)
    return cluster


@pytest.fixture(scope="session")
def runs_dir(tiny_llama: Path) -> Iterator[Path]:
    """Where runs are made: in memory where there is room, since these tests are about Slurm, not about a slow disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="gra-runs-", dir=memory if memory.is_dir() else None, ignore_cleanup_errors=True
    ) as path:
        yield Path(path)


@pytest.fixture(scope="session")
def reference(runs_dir: Path) -> Any:
    """A run of eight shards made without Slurm and without a fault."""
    from slurm_runs import made_reference

    return made_reference(runs_dir / "reference")


@pytest.fixture
def slurm_run(runs_dir: Path, reference: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes a planned run of eight shards on a cluster, whose environment this process takes over."""
    from slurm_runs import planned

    def make(cluster: MiniSlurm, *overrides: str) -> Any:
        for key, value in cluster.env.items():
            monkeypatch.setenv(key, value)
        number = len(list(runs_dir.glob("run-*/plan.json")))
        return planned(cluster, runs_dir / f"run-{number:03d}", reference, *overrides)

    return make
