"""Whether the process that made something is alive: asked of this kernel where it can tell, else by watching.

No clocks are compared, neither of two machines nor of one machine at two times: they differ, are set back, and stand
still while a machine is suspended. Where the kernel cannot tell (another node, another container), a thing counts as
abandoned once it has not changed for so long of this machine's own steady clock (`Sightings`). Even that can be wrong,
of an owner that was stopped meanwhile: so what is taken from an owner is taken in one step, which it notices.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import secrets
import stat
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

log = logging.getLogger(__name__)

BEAT_S = 30.0
BOOTS, PATHS = 16, 4096
"""So many boots, and things of each, are remembered: the ones looked at last."""
_START = 19
"""Place of the start time in /proc/PID/stat, counted behind the command's name."""


def steady() -> float:
    """Seconds of a clock that never steps, and is the same for all processes of one boot; suspension counts."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def start_time(pid: int) -> int:
    """Start time of a process in clock ticks since boot, whatever the clock was set to since; 0 when there is no such
    process, or only its zombie, or it is not shown to this user.

    `engines.guard` has the same: it runs without this package.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    fields = text[text.rindex(b")") + 2 :].split()  # the command's name may hold spaces and brackets
    return 0 if fields[0] in (b"Z", b"X") else int(fields[_START])


@dataclass(frozen=True)
class Owner:
    """A process, told from every other one, of any machine and any time."""

    host: str
    boot: str
    """The kernel's id of this boot: of two machines, or containers of two, with one name, each has its own."""
    namespace: str
    """Of process ids: containers of one machine have ids of their own. Empty: /proc shows another one's."""
    pid: int
    start: int
    """Clock ticks since boot: process ids are used again."""

    @classmethod
    def me(cls) -> Owner:
        """This process."""
        pid = os.getpid()
        return cls(*_here(), pid, start_time(pid))

    @classmethod
    def of(cls, data: Any) -> Owner | None:
        """From JSON; none unless it describes a process."""
        try:
            owner = cls(*(data[k] for k in ("host", "boot", "namespace", "pid", "start")))
        except (TypeError, KeyError):
            return None
        texts, numbers = (owner.host, owner.boot, owner.namespace), (owner.pid, owner.start)
        return owner if all(type(t) is str for t in texts) and all(type(n) is int and n > 0 for n in numbers) else None

    @classmethod
    def read(cls, path: Path) -> Owner | None:
        """From a file; none if it cannot be read, or describes no process."""
        try:
            with open(path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK)) as f:  # a FIFO would wait
                data = f.read() if stat.S_ISREG(os.fstat(f.fileno()).st_mode) else b""
            return cls.of(json.loads(data))
        except (OSError, ValueError):
            return None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def near(self) -> bool:
        """Whether its process id means here what it means there: one host, one boot, one namespace."""
        return bool(self.boot and self.namespace) and (self.host, self.boot, self.namespace) == _here()

    def alive(self) -> bool | None:
        """Whether it lives, stopped or not; none: that cannot be told from here."""
        if not self.near:
            return None
        started = start_time(self.pid)
        if started:
            return started == self.start
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's, of whom /proc shows nothing (hidepid)
            return None
        return False  # a zombie

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _here() -> tuple[str, str, str]:
    """Host, boot and namespace of process ids."""
    return os.uname().nodename, *_kernel(os.getpid())


@functools.cache
def _kernel(pid: int) -> tuple[str, str]:
    """Boot and namespace of this process, which it keeps; a child of it may have another namespace."""
    boot = namespace = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    with contextlib.suppress(OSError):
        if os.readlink("/proc/self") == str(pid):  # noqa: PTH115
            namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115
    return boot, namespace


class Beat:
    """Touches a file every few seconds, from a thread, as long as its owner lives: those that cannot look see that.

    An error (a file system that hesitates, a stale handle) is no reason to stop.
    """

    def __init__(self, path: Path, every_s: float = BEAT_S) -> None:
        self.path, self.every_s = path, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="beat", daemon=True)

    def __enter__(self) -> Beat:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        said = False
        while not self._stop.wait(self.every_s):
            try:
                os.utime(self.path)
                said = False
            except OSError as e:
                if not said:
                    log.warning("%s: heartbeat: %s; tried again", self.path, e.strerror)
                said = True


class Sightings:
    """Since when things have not changed, by this machine's own steady clock; remembered from one command to the next.

    Kept in one file of the user's, by boot. Of two processes that write it at once one loses what it saw: a thing
    counts as living for longer.
    """

    def __init__(self) -> None:
        self._boot = _here()[1]
        self._file = cache_directory() / "seen.json"
        self._boots: dict[str, dict[str, list[Any]]] | None = None
        self._changed = False

    def __enter__(self) -> Sightings:
        return self

    def _read(self) -> dict[str, dict[str, list[Any]]]:
        """What was seen, by boot; read when first asked, since mostly nothing is."""
        if self._boots is None:
            self._boots = {}
            with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
                found = json.loads(self._file.read_bytes())
                self._boots = {str(boot): dict(seen) for boot, seen in found.items()}
        return self._boots

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if not self._changed or not self._boot:
            return
        boots = self._read()
        mine = dict(list(boots.pop(self._boot, {}).items())[-PATHS:])
        kept = dict([*list(boots.items())[1 - BOOTS :], (self._boot, mine)])
        temporary = self._file.with_name(f".seen.{secrets.token_hex(4)}.tmp")
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with temporary.open("x", encoding="utf-8") as f:
                f.write(json.dumps(kept))
            temporary.replace(self._file)
        except OSError as e:
            log.debug("%s: %s: what was seen is not remembered", self._file, e.strerror)

    def unchanged_s(self, path: Path) -> float:
        """Seconds for which a file or directory is known not to have changed; 0 when it is seen for the first time, or
        cannot be looked at."""
        mark = _mark(path)
        if mark is None:
            return 0.0
        mine, key, now = self._read().setdefault(self._boot, {}), str(path.absolute()), steady()
        seen = mine.get(key)
        if isinstance(seen, list) and len(seen) == 2 and seen[0] == mark and isinstance(seen[1], int | float):
            return max(0.0, now - seen[1])
        mine.pop(key, None)  # to the end: the ones seen last stay
        mine[key] = [mark, now]
        self._changed = True
        return 0.0

    def dead(self, owner: Owner | None, beat: Path, silent_s: float) -> bool:
        """Whether an owner is gone: surely, where the kernel can tell, else by its silence.

        Args:
            owner: none: it left no word of itself.
            beat: what changes as long as it lives.
            silent_s: longer than it is ever silent while it lives and is not stopped.
        """
        alive = owner.alive() if owner else None
        return self.unchanged_s(beat) >= silent_s if alive is None else not alive


def _mark(path: Path) -> list[int] | None:
    """Another one whenever a file is written or touched; none when it cannot be looked at."""
    try:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except PermissionError:  # of another member of the group
            s = path.lstat()
        else:
            try:
                s = os.fstat(fd)  # of an open file: a network file system asks its server
            finally:
                os.close(fd)
    except OSError:
        return None
    return [s.st_mtime_ns, s.st_ctime_ns, s.st_size, s.st_ino]


def cache_directory() -> Path:
    """The user's own directory for what may be lost at any time: `$GRA_CACHE`, else below `$XDG_CACHE_HOME` or
    `~/.cache`."""
    if chosen := os.environ.get("GRA_CACHE"):
        return Path(chosen).absolute()
    general = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(general) if general.startswith("/") else Path.home() / ".cache") / "gra-hpc"
    except RuntimeError:  # a user without a home
        return Path("/nonexistent/gra-hpc")
