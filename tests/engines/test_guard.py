"""The guard with real processes and real signals: whatever dies, nothing is left."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gra_hpc.engines import guard, leftovers
from tests.waiting import until

# An "engine": a child that ignores SIGTERM, a grandchild in a session of its own, and shared memory nobody removes, a
# semaphore among it.
LITTER = """
import _multiprocessing, mmap, os, signal, subprocess, sys, time
kind = sys.argv[1]
if kind == "engine":
    subprocess.Popen([sys.executable, __file__, "stubborn"])
    subprocess.Popen([sys.executable, __file__, "stray"])
if kind == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if kind == "stray":
    os.setsid()
if kind == "stubborn":
    name = f"/dev/shm/sem.gra_test_{os.getpid()}"
    semaphore = _multiprocessing.SemLock(0, 0, 1, f"/gra_test_{os.getpid()}", False)
else:
    name = f"/dev/shm/gra_test_{os.getpid()}"
    f = open(name, "w+b")
    f.truncate(4096)
    m = mmap.mmap(f.fileno(), 4096)
os.write(1, f"{kind} {os.getpid()} {name}\\n".encode())  # whole, also under PYTHONUNBUFFERED
time.sleep(600)
"""

# A "shard": starts a guard and waits.
SHARD = """
import os, subprocess, sys, time
p = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, start_new_session=True)
os.write(1, f"guard {p.pid}\\n".encode())
time.sleep(600)
"""


class Scene:
    """A littering engine under a guard: what runs, and where its files are."""

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        self.private, self.state, self.log = tmp / "private", tmp / "e.state", tmp / "log"
        self.private.mkdir()
        (self.private / "file").write_text("x")
        self.script = tmp / "litter.py"
        self.script.write_text(LITTER)
        self.options: tuple[str, ...] = ()
        self.pids: dict[str, int] = {}
        self.shm: list[Path] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    def command(self, *words: str) -> list[str]:
        engine = list(words) or [sys.executable, str(self.script), "engine"]
        options = ["--state", str(self.state), "--private", str(self.private), "--grace", "0.5"]
        return [sys.executable, "-I", "-S", guard.__file__, *options, *self.options, "--", *engine]

    def start(self, *words: str, via: str = "") -> subprocess.Popen[bytes]:
        command = self.command(*words)
        if via:
            command = [sys.executable, "-c", via, *command]
        with self.log.open("wb") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=out, stderr=out, start_new_session=not via
            )
        self.processes.append(process)
        return process

    def littered(self) -> None:
        """Wait until all three processes run and the guard has seen what they map."""

        def complete() -> bool:
            for line in self.log.read_text().splitlines(keepends=True):
                if not line.endswith("\n"):
                    continue
                kind, pid, *name = line.split()
                self.pids[kind] = int(pid)
                if name and Path(name[0]) not in self.shm:
                    self.shm.append(Path(name[0]))
            seen = {}
            with contextlib.suppress(OSError, ValueError):
                seen = json.loads(self.state.read_bytes())["shm"]
            return len(self.shm) == 3 and len(seen) == 3

        until(complete)

    def clean(self) -> bool:
        processes = [k for k in ("engine", "stubborn", "stray") if guard.start_time(self.pids.get(k, 0))]
        return not processes and not any(p.exists() for p in self.shm)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    for process in scene.processes:
        process.kill()
        process.wait()
    guard.send(scene.pids.values(), signal.SIGKILL)
    for path in scene.shm:
        path.unlink(missing_ok=True)


def test_passes_the_exit_code_on_and_removes_the_private_directory(scene: Scene) -> None:
    assert scene.start(sys.executable, "-c", "raise SystemExit(7)").wait() == 7
    assert not scene.private.exists()
    assert not scene.state.exists()


def test_a_signal_that_ended_the_engine_is_in_the_exit_code(scene: Scene) -> None:
    assert scene.start(sys.executable, "-c", "import os; os.kill(os.getpid(), 9)").wait() == 128 + 9


def test_a_command_that_does_not_exist_is_named(scene: Scene) -> None:
    assert scene.start("/does/not/exist").wait() == 127
    assert "guard: ERROR: cannot start /does/not/exist: No such file or directory" in scene.log.read_text()


def test_engine_ignores_usr2_and_is_no_leader_of_the_guards_group(scene: Scene) -> None:
    process = scene.start(
        sys.executable, "-c", "import os; print(open('/proc/self/status').read(), os.getpgid(0), os.getsid(0))"
    )
    assert process.wait() == 0
    text = scene.log.read_text()
    ignored = int(next(line for line in text.splitlines() if line.startswith("SigIgn")).split()[1], 16)
    assert ignored & (1 << (signal.SIGUSR2 - 1))
    group, session = map(int, text.split()[-2:])
    assert session == process.pid
    assert group != process.pid


def test_the_engine_stays_on_its_cores(scene: Scene) -> None:
    core = max(os.sched_getaffinity(0))
    scene.options = ("--cores", str(core))
    assert scene.start(sys.executable, "-c", f"import os; assert os.sched_getaffinity(0) == {{{core}}}").wait() == 0
    scene.options = ("--cores", "99999")  # taken from the job meanwhile
    assert scene.start("true").wait() == 0


def test_own_network_has_a_loopback_and_nothing_else(scene: Scene) -> None:
    code = (
        "import os, socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname());"
        "print(os.readlink('/proc/self/ns/net'), *(n for _, n in socket.if_nameindex()))"
    )
    scene.options = ("--own-network",)
    assert scene.start(sys.executable, "-c", code).wait() == 0
    namespace, *devices = scene.log.read_text().split()
    if guard.can_have_own_network():
        assert namespace != os.readlink("/proc/self/ns/net")  # noqa: PTH115
        assert "lo" in devices
        assert not {"eth0", "ens5"} & set(devices)
    else:
        assert namespace == os.readlink("/proc/self/ns/net")  # noqa: PTH115


def test_without_permission_the_engine_keeps_the_network(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "own_network", lambda: False)
    assert guard.Guard(["true"], scene.state, scene.private, 1.0, isolate=True).isolate is False


@pytest.mark.parametrize("how", ["close the pipe", "stop", "kill", "SIGTERM", "engine dies"])
def test_ends_everything(scene: Scene, how: str) -> None:
    process = scene.start()
    assert process.stdin is not None
    scene.littered()
    if how == "close the pipe":
        process.stdin.close()
    elif how == "SIGTERM":
        process.terminate()
    elif how == "engine dies":
        os.kill(scene.pids["engine"], signal.SIGKILL)
    else:
        process.stdin.write(guard.STOP if how == "stop" else guard.KILL)
        process.stdin.flush()
    code = process.wait()
    assert scene.clean()
    assert not scene.private.exists()
    assert code == {"engine dies": 137, "SIGTERM": guard.TERMINATED}.get(how, 0)


def test_kill_of_the_shard_leaves_nothing(scene: Scene) -> None:
    shard = scene.start(via=SHARD)
    scene.littered()
    shard.kill()
    until(scene.clean)
    until(lambda: not guard.start_time(scene.pids["guard"]))
    assert not scene.private.exists()


def test_a_fork_that_holds_the_pipe_does_not_keep_the_engine_alive(scene: Scene) -> None:
    forking = SHARD.replace("time.sleep", "import os\nos.fork() or time.sleep(30)\ntime.sleep", 1)
    shard = scene.start(via=forking)
    scene.littered()
    children = [pid for pid in guard.descendants(shard.pid) if guard.stat_of(pid)[1] == guard.stat_of(shard.pid)[1]]  # type: ignore[index]
    shard.kill()
    try:
        until(scene.clean)
    finally:
        guard.send(children, signal.SIGKILL)


def test_kill_of_the_guard_takes_the_engine_with_it_and_its_owner_does_the_rest(scene: Scene) -> None:
    process = scene.start()
    scene.littered()
    state = json.loads(scene.state.read_bytes())
    process.kill()
    process.wait()
    until(lambda: not guard.start_time(scene.pids["engine"]))  # by its parent-death signal
    assert guard.start_time(scene.pids["stubborn"])
    killed = leftovers.end_session(state)
    assert {scene.pids["stubborn"], scene.pids["stray"]} <= set(killed)
    assert scene.clean()


def test_shared_memory_that_somebody_else_maps_stays(scene: Scene) -> None:
    process = scene.start()
    scene.littered()
    with scene.shm[0].open("r+b") as f, mmap.mmap(f.fileno(), 4096):
        process.terminate()
        process.wait()
        assert scene.shm[0].exists()
    assert [p for p in scene.shm if p.exists()] == [scene.shm[0]]


def test_files_that_somebody_keeps_in_dev_shm_are_not_shared_memory() -> None:
    """Weights lie there for speed; an engine that maps them must not take them with it."""
    mine = Path(f"/dev/shm/gra_test_mine_{os.getpid()}")
    weights = Path(f"/dev/shm/gra_test_weights_{os.getpid()}.safetensors")
    below = Path(f"/dev/shm/gra_test_dir_{os.getpid()}") / "model.safetensors"
    below.parent.mkdir()
    try:
        with contextlib.ExitStack() as stack:
            for path, access in ((mine, mmap.ACCESS_WRITE), (weights, mmap.ACCESS_READ), (below, mmap.ACCESS_WRITE)):
                path.write_bytes(bytes(4096))
                file = stack.enter_context(path.open("r+b"))
                stack.enter_context(mmap.mmap(file.fileno(), 4096, access=access))
            found = {n for n in guard.mapped_shm([os.getpid()]) if "gra_test" in n}
        assert found == {str(mine)}
    finally:
        for path in (mine, weights, below):
            path.unlink(missing_ok=True)
        below.parent.rmdir()


def test_what_was_in_shared_memory_before_the_engine_stays(scene: Scene) -> None:
    guarding = guard.Guard([], scene.state, scene.private, 0.0)
    assert {p.name for p in Path("/dev/shm").iterdir()} >= guarding.before
    name = f"gra_test_before_{os.getpid()}"
    guarding.before.add(name)
    path = Path("/dev/shm") / name
    code = f"import mmap; f = open({str(path)!r}, 'r+b'); m = mmap.mmap(f.fileno(), 0); print(1, flush=True); input()"
    path.write_bytes(bytes(4096))
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline()
        assert str(path) in guard.mapped_shm([child.pid])
        guarding.look()
        assert str(path) not in guarding.shm
    finally:
        child.kill()
        child.wait()
        path.unlink()


def test_a_reused_name_in_shared_memory_stays(tmp_path: Path) -> None:
    path = Path(f"/dev/shm/gra_test_reused_{os.getpid()}")
    path.write_bytes(b"x")
    try:
        assert guard.unlink_shm({str(path): path.stat().st_ino + 1}) == []
        (tmp_path / "mine").touch()
        through = f"/dev/shm/../..{tmp_path}/mine"
        assert guard.unlink_shm({through: Path(through).stat().st_ino}) == []
        assert guard.unlink_shm({str(tmp_path): tmp_path.stat().st_ino}) == []
        assert path.exists()
        assert guard.unlink_shm({str(path): path.stat().st_ino}) == [str(path)]
    finally:
        path.unlink(missing_ok=True)


def test_a_session_number_in_other_hands_has_no_members_of_ours() -> None:
    me = os.getpid()
    session = os.getsid(0)
    assert me in guard.session_members(session, guard.start_time(session))
    assert guard.session_members(me, guard.start_time(me) - 1) == []


def test_starts_small(scene: Scene) -> None:
    """So it starts fast: 0.03 s on a quiet machine."""
    assert scene.start("/bin/true").wait() == 0
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, guard.__file__], capture_output=True, text=True, check=True
    )
    assert not {"gra_hpc", "asyncio", "aiohttp"} & set(loaded.stdout.split())
