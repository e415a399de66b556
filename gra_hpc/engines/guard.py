"""The guard of one engine: a tiny process that outlives nothing and leaves nothing behind.

    python guard.py --state FILE --private DIR [--grace S] [--own-network] [--cores N,...] -- COMMAND...

A shard starts the guard in a session of its own; the guard starts the engine (`COMMAND`) and then only waits. It ends
the engine, with every process the engine ever started, when the shard dies in any way (its pipe closes, also after
kill -9), when the shard asks for it (SIGTERM, or the pipe), or when the engine's first process ends. Then it removes
the shared memory that these processes mapped and nobody else maps, and the engine's private directory, and exits with
the engine's code.

Only the standard library is used, and nothing of this package is imported: the guard runs with `python -I -S`, starts
in some 20 ms and holds 10 MB. Linux only (/proc, prctl).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
TERMINATED = 128 + signal.SIGTERM
"""Exit code of a guard that somebody else told to end (Slurm, when it ends a job step)."""
SHM = "/dev/shm/"
STOP, KILL = b"s", b"k"
"""What the shard may write to the guard's standard input: end the engine orderly, or at once."""


def prctl(option: int, value: int) -> None:
    """Linux prctl(2); a refusal is ignored (the other nets still hold)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def own_network() -> bool:
    """Move this process into a network namespace with nothing but a loopback device.

    The parts of an engine talk over TCP ports on the loopback device, which every user of a node can reach. Here only
    they can. Unix sockets with a path still lead in and out.

    Returns:
        Whether it is done; False when the kernel does not allow it. Half done is possible: try in a fork first.
    """
    import fcntl
    import socket
    import struct

    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    try:
        if libc.unshare(CLONE_NEWNET) != 0:  # only root may; others need a user namespace, with themselves in it
            if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
                return False
            Path("/proc/self/setgroups").write_text("deny", encoding="utf-8")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", encoding="utf-8")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", encoding="utf-8")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    except (OSError, AttributeError):
        return False
    return True


def can_have_own_network(cuda: bool = False) -> bool:
    """Whether `own_network` works here, tried in a fork.

    Args:
        cuda: and CUDA's driver in it; without a driver there is nothing to try.
    """
    pid = os.fork()
    if pid == 0:
        works = own_network()
        if works and cuda:
            with contextlib.suppress(OSError, AttributeError):
                works = ctypes.CDLL("libcuda.so.1").cuInit(0) == 0
        os._exit(0 if works else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def stat_of(pid: int) -> tuple[int, int, int, str] | None:
    """Parent, session, start time (clock ticks since boot) and state of a process; none when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(fields[1]), int(fields[3]), int(fields[19]), fields[0].decode()


def start_time(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 when there is no such process, or only its zombie."""
    s = stat_of(pid)
    return s[2] if s and s[3] not in "ZX" else 0


def _stats() -> dict[int, tuple[int, int, int, str]]:
    pids = [int(p) for p in os.listdir("/proc") if p.isdigit()]  # noqa: PTH208  (one system call, no objects)
    return {pid: s for pid in pids if (s := stat_of(pid))}


def descendants(root: int) -> list[int]:
    """Living processes below `root`, without it. Orphans are among them when `root` is a subreaper."""
    stats = _stats()
    found: list[int] = []
    layer = {root}
    while layer:
        layer = {pid for pid, s in stats.items() if s[0] in layer}
        found += layer
    return [pid for pid in found if stats[pid][3] not in "ZX"]


def session_members(leader: int, leader_start: int) -> list[int]:
    """Living processes of a session, by the pid and start time of the process that led it.

    The kernel gives no new process the number of a session that still has members. So when the number now belongs to
    another process, the session is empty.
    """
    now = start_time(leader)
    if now and now != leader_start:
        return []
    uid = os.getuid()
    members = []
    for pid, (_, session, started, state) in _stats().items():
        if session == leader and started >= leader_start and state not in "ZX":
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}").stat().st_uid == uid:
                    members.append(pid)
    return members


def send(pids: Iterable[int], number: int) -> None:
    """Signal processes; those already gone are skipped."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def mapped_shm(pids: Iterable[int]) -> dict[str, int]:
    """Shared memory that processes map now: name to inode. Already removed files are left out.

    POSIX shared memory and semaphores lie directly in /dev/shm and are mapped shared and writable. They are told by
    inode: a semaphore is made under another name, by which its maps go on calling it. Weights that somebody keeps there
    are mapped for reading, and are nobody's leftovers.
    """
    inodes: set[int] = set()
    needle = SHM.encode()
    for pid in pids:
        try:
            maps = Path(f"/proc/{pid}/maps").read_bytes()
        except OSError:
            continue
        if needle not in maps:
            continue
        for line in maps.splitlines():
            fields = line.split(None, 5)
            if len(fields) < 6 or not fields[5].startswith(needle) or b"/" in fields[5][len(needle) :]:
                continue
            if fields[1].startswith(b"rw") and fields[1].endswith(b"s"):
                inodes.add(int(fields[4]))
    if not inodes:
        return {}
    with contextlib.suppress(OSError), os.scandir(SHM) as entries:
        return {e.path: e.inode() for e in entries if e.inode() in inodes}
    return {}


def unlink_shm(names: dict[str, int]) -> list[str]:
    """Remove shared memory files that nobody maps any more.

    A file is removed only if it is still the same inode, belongs to this user, and no living process maps it.
    """
    uid = os.getuid()
    left = {}
    for name, inode in names.items():
        with contextlib.suppress(OSError):
            status = os.lstat(name)
            if status.st_ino == inode and status.st_uid == uid and os.path.dirname(name) + "/" == SHM:  # noqa: PTH120
                left[name] = inode
    if left:
        used = mapped_shm(_stats())
        left = {name: inode for name, inode in left.items() if used.get(name) != inode}
    for name in left:
        with contextlib.suppress(OSError):
            os.unlink(name)  # noqa: PTH108
    return sorted(left)


def end(find: Callable[[], list[int]], grace: float, reap: Callable[[], object] = lambda: None) -> bool:
    """SIGTERM, then SIGKILL after `grace` seconds, until `find()` finds nobody.

    Args:
        find: the living processes to end; asked again and again, since they may bear new ones meanwhile.
        grace: seconds; 0 kills at once.
        reap: called in between, to collect ended children where they are the caller's own.

    Returns:
        Whether nobody is left.
    """
    if grace > 0:
        send(find(), signal.SIGTERM)
    deadline = time.monotonic() + grace
    pause = 0.005
    while time.monotonic() < deadline and find():
        reap()
        time.sleep(pause)
        pause = min(0.1, pause * 1.5)
    for _ in range(500):
        reap()
        rest = find()
        if not rest:
            return True
        send(rest, signal.SIGKILL)
        time.sleep(0.01)
    return False


def _reap() -> dict[int, int]:
    """Collect ended children: pid to wait status."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status


class Guard:
    """One engine's guard; `run()` is its whole life."""

    def __init__(self, command: list[str], state: Path, private: Path, grace: float, isolate: bool = False) -> None:
        self.command, self.state, self.private, self.grace = command, state, private, grace
        self.isolate = isolate and can_have_own_network()
        self.before = {path.name for path in Path(SHM).glob("*")}
        """Names in shared memory before the engine: not its own, whatever it maps."""
        self.shm: dict[str, int] = {}
        self.strays: dict[int, int] = {}
        """Descendants that left our session, by pid, with their start times."""
        self.saved = b""
        self.engine = 0
        self.code = 0

    def save(self) -> None:
        """Write who we are and what the engine maps, for the sweep that follows if all of us are killed at once."""
        me = os.getpid()
        record = {"pid": me, "start": start_time(me), "shm": self.shm, "strays": self.strays}
        text = json.dumps(record).encode()
        if text != self.saved:
            temporary = self.state.with_name(f"{self.state.name}.{os.urandom(8).hex()}.tmp")  # nobody can foresee it
            try:
                with temporary.open("xb") as f:  # exclusively: a planted link is not followed
                    f.write(text)
                temporary.replace(self.state)
                self.saved = text
            except OSError:  # a full disk must not end the engine
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)

    def look(self) -> None:
        """Note the shared memory that the engine's processes map, and processes that a session does not show."""
        me = os.getpid()
        pids = descendants(me)
        self.shm.update({k: v for k, v in mapped_shm(pids).items() if k[len(SHM) :] not in self.before})
        found = {pid: s for pid in pids if (s := stat_of(pid))}
        self.strays = {pid: s[2] for pid, s in found.items() if s[1] != me}
        self.save()

    def run(self) -> int:
        parent = os.getppid()
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        # Slurm's warning is meant for the shard, and would end the engine; what is ignored stays so after exec.
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        wake_r, wake_w = os.pipe()
        os.set_blocking(wake_w, False)
        stops: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: stops.append(number))
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        me = os.getpid()

        def child() -> None:  # runs in the engine's process, before exec
            os.setpgid(0, 0)
            if self.isolate:
                own_network()
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after it: the kernel clears this when credentials change
            if os.getppid() != me:
                os._exit(70)

        self.save()
        try:
            engine = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, preexec_fn=child)
        except OSError as e:
            print(f"guard: ERROR: cannot start {self.command[0]}: {e.strerror}", file=sys.stderr, flush=True)
            return self.clean(127)
        self.engine = engine.pid

        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(wake_r, select.POLLIN)
        with contextlib.suppress(OSError, AttributeError):  # an old kernel: the pipe and getppid are enough
            poll.register(os.pidfd_open(parent), select.POLLIN)
        grace, pause = self.grace, 0.25
        look_at = time.monotonic() + pause
        while True:
            events = dict(poll.poll(1000 * min(1.0, max(0.0, look_at - time.monotonic()))))
            if wake_r in events:
                os.read(wake_r, 4096)
            ended = _reap()
            if self.engine in ended:
                self.code = os.waitstatus_to_exitcode(ended[self.engine])
                grace = min(grace, 2.0)  # nothing orderly is left to wait for
                break
            if 0 in events:
                word = os.read(0, 64)
                grace = 0.0 if KILL in word else grace
                break
            if stops or os.getppid() != parent or len(events) > (wake_r in events):
                break
            if time.monotonic() >= look_at:
                self.look()
                pause = min(10.0, pause * 1.5)
                look_at = time.monotonic() + pause
        self.look()
        end(lambda: descendants(me), grace, _reap)
        if stops:
            self.code = TERMINATED
        return self.clean(self.code if self.code >= 0 else 128 - self.code)

    def clean(self, code: int) -> int:
        """Remove what the engine leaves on this node."""
        removed = unlink_shm(self.shm)
        if removed:
            print(f"guard: removed shared memory {' '.join(removed)}", file=sys.stderr, flush=True)
        shutil.rmtree(self.private, ignore_errors=True)
        self.state.unlink(missing_ok=True)
        return code


def main(argv: list[str]) -> int:
    """Command line of the guard; returns the engine's exit code."""
    head, _, command = argv, None, []
    if "--" in argv:
        cut = argv.index("--")
        head, command = argv[:cut], argv[cut + 1 :]
    parser = argparse.ArgumentParser(description="Starts an engine and ends it with whoever started the guard.")
    parser.add_argument("--state", type=Path, required=True, help="file that says who runs here")
    parser.add_argument("--private", type=Path, required=True, help="directory to remove at the end")
    parser.add_argument("--grace", type=float, default=10.0, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("--own-network", action="store_true", help="no network but a loopback, where possible")
    parser.add_argument("--cores", default="", help="numbers, with commas: cores that all processes stay on")
    args = parser.parse_args(head)
    if not command:
        parser.error("expected -- COMMAND")
    if args.cores:
        with contextlib.suppress(OSError):  # a core that was taken from the job meanwhile
            os.sched_setaffinity(0, [int(n) for n in args.cores.split(",")])
    return Guard(command, args.state, args.private, args.grace, args.own_network).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
