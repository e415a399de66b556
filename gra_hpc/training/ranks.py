"""The ranks of a training job on one node: started with their rendezvous, watched, signalled, and ended together.

One launcher runs per node: Slurm starts it, or a person on this machine. What the ranks need to find each other comes
from Slurm's environment, so that nobody has to type a host name; there is no network beyond the job's own nodes.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gra_hpc.errors import LaunchError, OwnershipError
from gra_hpc.log_tail import last_words
from gra_hpc.permissions import closed_directory
from gra_hpc.run.attempts import job_id, restart_count
from gra_hpc.signals import Signals
from gra_hpc.storage import new_file
from gra_hpc.terminal import say, word
from gra_hpc.training.config import Meeting
from gra_hpc.workers import child_environment, die_with_parent

POLL_S = 0.2
REPEAT_S = 1.0
"""A signal is sent again so often: a rank that has just started ignores it still."""
MEETING = "GRA_MEETING"
"""Variable that tells a rank the file in which it meets the others; without it they meet at a port, as torchrun's."""
GRACE_S = 5.0
"""After one rank has failed, the others get this long after SIGTERM (they may hang in a collective)."""


@dataclass(frozen=True)
class Rendezvous:
    """Where the ranks of all nodes meet."""

    node: int
    nodes: int
    attempt: str
    """Name of this attempt, the same on all nodes."""
    file: str = ""
    """Name of the file in which they write their addresses, the same on all nodes. Empty: at a port."""
    address: str = ""
    port: int = 0


def rendezvous(nodes: int, number: int, meeting: Meeting = Meeting.file) -> Rendezvous:
    """This node's place among the job's nodes.

    Args:
        number: of this attempt, if it runs outside Slurm.
        meeting: where the ranks of several nodes meet; those of one node do in a file.

    Raises:
        LaunchError: the job has another number of nodes.
    """
    name = f"job-{job_id()}.{restart_count()}" if job_id() else f"local-{number:05d}-{os.getpid()}"
    if nodes == 1:
        return Rendezvous(0, 1, name, name)
    env = os.environ
    got = int(env.get("SLURM_STEP_NUM_NODES") or env.get("SLURM_JOB_NUM_NODES") or 1)
    if got != nodes or "SLURM_NODEID" not in env:
        raise LaunchError(
            f"launch.nodes={nodes}, but this is {got} node{'s' * (got > 1)} of a Slurm job step",
            f"sbatch --nodes={nodes} slurm/finetune.sbatch OUT, or launch.nodes={got}",
        )
    node = int(env["SLURM_NODEID"])
    if meeting is Meeting.file:
        return Rendezvous(node, nodes, name, f"{name}.{env.get('SLURM_STEP_ID', 0)}")
    # derived, since all nodes must know it without talking; another one for each restart, should it be taken
    port = 20000 + zlib.crc32(name.encode()) % 12000
    return Rendezvous(node, nodes, name, address=first_address(), port=port)


@contextmanager
def place(where: Rendezvous, shared: Path) -> Iterator[int | None]:
    """The directory of the file in which the ranks meet, open; none if they meet at a port.

    Nothing listens there, and nobody else can enter it: who reads the file could talk to the ranks, who writes it would
    be talked to. Ranks get it open, so that nobody who may write beside it puts another one in its place.

    Args:
        shared: where it lies for several nodes. For one it lies on this machine, and goes.

    Raises:
        OwnershipError: others can enter it.
    """
    if not where.file:
        yield None
        return
    path = closed_directory(shared, mode=0o700) if where.nodes > 1 else Path(tempfile.mkdtemp(prefix="gra-ranks-"))
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(directory)
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise OwnershipError(
                f"{path}: others can enter it, and could join the ranks", f"mv {word(path)} {word(path)}.old"
            )
        yield directory
    finally:
        os.close(directory)
        if where.nodes == 1:
            shutil.rmtree(path, ignore_errors=True)


def first_address() -> str:
    """The address of the job's first node: its name if that resolves, else where srun was started (the same node)."""
    host = first_host(os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_JOB_NODELIST"])
    try:
        socket.getaddrinfo(host, None)
        return host
    except OSError:
        return os.environ.get("SLURM_LAUNCH_NODE_IPADDR") or host


def first_host(nodelist: str) -> str:
    """`node[003-005,9],x1` -> `node003`. Slurm lists the step's nodes in the order of their ids."""
    depth, end = 0, len(nodelist)
    for i, c in enumerate(nodelist):
        depth += (c == "[") - (c == "]")
        if c == "," and not depth:
            end = i
            break
    return re.sub(r"\[([^],-]*)[^]]*\]", r"\1", nodelist[:end])


def run_ranks(
    command: Sequence[str],
    per_node: int,
    where: Rendezvous,
    logs: Path,
    signals: Signals,
    interface: str = "",
    meet_in: int | None = None,
) -> list[int]:
    """Run the ranks of this node to their end.

    The first rank of all speaks on our standard output; each has a log of its own. SIGUSR2 and SIGTERM are passed on.
    When one fails, the others are ended: they would wait for it for ever.

    Args:
        interface: of the network between nodes; on one node they talk over the loopback device.
        meet_in: the open directory of the file in which they meet (`place`).

    Returns:
        Exit codes by rank on this node.

    Raises:
        LaunchError: a rank failed; with the end of its log.
    """
    logs.mkdir(parents=True, exist_ok=True)
    first = where.node * per_node
    files = [logs / f"rank-{first + i:04d}.log" for i in range(per_node)]
    ranks = [_start(command, first + i, i, per_node, where, files[i], interface, meet_in) for i in range(per_node)]
    voice = threading.Thread(target=_copy, args=(ranks[0].stdout, files[0]), daemon=True)
    if first == 0:
        voice.start()
    try:
        codes = _watch(ranks, signals)
    finally:
        _end(ranks)
        if first == 0:
            voice.join(5)  # its last lines
    # a rank that we or Slurm ended says less than the one that failed by itself
    failed = sorted((c < 0, i) for i, c in enumerate(codes) if c not in (0, os.EX_TEMPFAIL))
    if failed:
        number = failed[0][1]
        last = last_words(files[number], r"^finetune: (.*)")
        how = f"{_ended(codes[number])}{': ' if last else ''}{last}"
        raise LaunchError(f"rank {first + number}: {how} (log: {files[number]})")
    return codes


def _start(
    command: Sequence[str],
    rank: int,
    local: int,
    per_node: int,
    where: Rendezvous,
    log: Path,
    interface: str,
    meet_in: int | None,
) -> subprocess.Popen[bytes]:
    env = child_environment(
        RANK=str(rank),
        LOCAL_RANK=str(local),
        WORLD_SIZE=str(where.nodes * per_node),
        LOCAL_WORLD_SIZE=str(per_node),
        GROUP_RANK=str(where.node),
        **(
            {"MASTER_ADDR": where.address, "MASTER_PORT": str(where.port)}
            if meet_in is None
            else {MEETING: f"/proc/self/fd/{meet_in}/{where.file}"}
        ),
        GRA_ATTEMPT=where.attempt,
        TOKENIZERS_PARALLELISM="false",
        TQDM_DISABLE="1",
        PYTHONUNBUFFERED="1",
    )
    env.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // per_node)))
    between = interface or ("lo" if where.nodes == 1 else "")
    if between:
        for library in ("NCCL", "GLOO"):
            env.setdefault(f"{library}_SOCKET_IFNAME", between)
    return subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if rank == 0 else new_file(log),
        stderr=subprocess.STDOUT,
        pass_fds=() if meet_in is None else (meet_in,),
        start_new_session=True,  # Ctrl-C is for the launcher, which lets the ranks save
        preexec_fn=functools.partial(in_child, os.getpid()),
    )


def in_child(launcher: int) -> None:
    """In the child, before exec: it dies with its launcher, and ignores the warning until it can handle it."""
    die_with_parent(launcher)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _copy(pipe: IO[bytes], log: Path) -> None:
    with new_file(log) as f:
        for line in pipe:
            f.write(line)
            say(line.decode(errors="replace"), lines=True)


def _watch(ranks: Sequence[subprocess.Popen[bytes]], signals: Signals) -> list[int]:
    """Until all have ended, or one has failed."""
    sent = 0.0
    while None in (codes := [r.poll() for r in ranks]):
        if any(c not in (None, 0, os.EX_TEMPFAIL) for c in codes):
            break
        if signals.first and time.monotonic() - sent > REPEAT_S:
            for r in ranks:
                if r.poll() is None:
                    r.send_signal(signals.first)
            sent = time.monotonic()
        time.sleep(POLL_S)
    return [-signal.SIGKILL if c is None else c for c in (r.poll() for r in ranks)]


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + GRACE_S
    for r in ranks:
        if r.poll() is None:
            r.terminate()
    while any(r.poll() is None for r in ranks) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for r in ranks:
        if r.poll() is None:
            r.kill()
        r.wait()


def _ended(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
