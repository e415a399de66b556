"""Checks of a compute node: what the job got, its GPUs, and what engines need of a machine."""

from __future__ import annotations

import os
import resource
import shutil
import socket
from collections.abc import Iterable

from gra_hpc.config.settings import OwnNetwork, RunConfig
from gra_hpc.doctor.finding import Finding, failure, ok, warning
from gra_hpc.engines import guard

OPEN_FILES = 4096
SHM_GB = 1.0


def cores(config: RunConfig) -> Iterable[Finding]:
    """CPUs and memory that the job may use."""
    have, wanted = len(os.sched_getaffinity(0)), config.site.task_cpus
    if wanted > have:
        yield warning(f"{have} CPUs may be used, site.cpus_per_task={wanted}", f"site.cpus_per_task={have}")
    else:
        yield ok(f"{have} CPUs may be used")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    limit = _cgroup_limit()
    yield ok(f"memory: {pages:.0f} GB in the machine" + (f", {limit:.0f} GB for this job" if limit else ""))


def _cgroup_limit() -> float:
    """Memory limit of this job in GB; 0: none that can be seen."""
    from pathlib import Path

    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(file).read_text(encoding="utf-8").strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < 1 << 60:
            return int(text) / 1e9
    return 0.0


def machine() -> Iterable[Finding]:
    """Loopback ports, shared memory, open files: what engines need."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 5):
            pass
        yield ok("loopback ports open")
    except OSError as e:
        yield failure(f"127.0.0.1: {e.strerror}", "a tensor-parallel engine needs the loopback device: tell support")
    try:
        s = os.statvfs("/dev/shm")
        free = s.f_bavail * s.f_frsize / 1e9
        if free < SHM_GB:
            yield warning(f"/dev/shm: {free:.1f} GB free", "tensor-parallel engines need 1 GB: raise site.memory_gb")
        else:
            yield ok(f"/dev/shm: {free:.0f} GB free")
    except OSError:
        yield warning("/dev/shm: not there", "in a container: bind it")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        yield warning(f"open files: {hard}", "ask support for 4096 or more: each call in flight is a connection")
    else:
        yield ok(f"open files: {soft} (may be raised to {'any' if hard == resource.RLIM_INFINITY else hard})")


def own_network(config: RunConfig) -> Iterable[Finding]:
    """Whether engines get a network that no other user of the node reaches."""
    mode = config.engine.own_network
    if mode is OwnNetwork.never:
        yield ok("engines share the node's network (engine.own_network=never)")
        return
    if not guard.can_have_own_network():
        what = "this node's kernel gives engines no network of their own"
        if mode is OwnNetwork.always:
            yield failure(f"{what}, engine.own_network=always", "engine.own_network=auto, or other nodes")
        else:
            yield warning(
                f"{what}: other users of the node reach the loopback ports of their parts",
                "nodes for you alone (site.sbatch={exclusive: true}), or ask support for user namespaces",
            )
    elif config.site.gpus_per_node and not guard.can_have_own_network(cuda=True):
        yield warning(
            "CUDA does not start in a network of its own: engines share the node's", "engine.own_network=never"
        )
    else:
        yield ok("engines get a network of their own")


def requeueing() -> Iterable[Finding]:
    """Whether a job can put itself back in the queue: it runs scontrol on its own node."""
    if "SLURM_JOB_ID" not in os.environ:
        return
    if shutil.which("scontrol") is None:
        yield warning(
            "scontrol: not found on this node, so a shard cannot requeue itself at its time limit",
            "bind Slurm's client into the container (slurm/gra.def says how), or gra resume RUN after each limit",
        )
        return
    from gra_hpc.launch import slurm

    slurm.output_of(["scontrol", "show", "job", os.environ["SLURM_JOB_ID"]])
    yield ok("a job can requeue itself (scontrol answers on the node)")


def network() -> Iterable[Finding]:
    """Whether the node reaches the Hub; it need not."""
    from urllib.parse import urlparse

    from huggingface_hub import constants

    hub = urlparse(constants.ENDPOINT)
    try:
        with socket.create_connection((hub.hostname or "", hub.port or 443), timeout=3):
            yield ok("this node reaches the Hub; jobs do not use it")
    except OSError:
        yield ok("no way to the Hub from this node: fine, jobs ask nothing of the network (gra fetch)")
