"""The whole examination: login node, Slurm, compute node; lines for people, or JSON."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from gra_hpc.config.settings import RunConfig
from gra_hpc.config.site import Executor
from gra_hpc.doctor import directories, job, slurm_site, software
from gra_hpc.doctor.finding import FAILURE, Finding, examine, warning, worst


def login_node(config: RunConfig, base: Path) -> Iterator[Finding]:
    """Checks that need no job."""
    slurm = config.site.executor is Executor.slurm
    places = [base, *([Path(config.site.scratch)] if config.site.scratch else [])]
    yield from examine(
        [
            software.python,
            software.packages,
            functools.partial(software.interpreter, config.site),
            functools.partial(software.engine_installed, config),
            *(functools.partial(directories.shared, d, slurm) for d in dict.fromkeys(places)),
            functools.partial(directories.clock, base),
            functools.partial(_later, software.models, config),
        ]
    )
    if slurm:
        yield from examine([functools.partial(_slurm, config, base)])


def _later(check: Callable[[RunConfig], Iterable[Finding]], config: RunConfig) -> Iterable[Finding]:
    """What a check finds, none of which keeps a job from looking at a node."""
    yield from (replace(f, waits=True) for f in check(config))


def _slurm(config: RunConfig, base: Path) -> Iterable[Finding]:
    from gra_hpc.site.cluster import cluster_info

    yield from slurm_site.against(config.site, cluster_info())
    yield from slurm_site.submittable(config, base)


def examination(
    config: RunConfig, base: Path, with_job: bool, on_this: bool, wait_s: float, say: Callable[[str], None]
) -> Iterator[tuple[str, Finding]]:
    """Findings with where they were made.

    Args:
        base: directory in which runs would lie.
        with_job: also examine a compute node, by a job.
        on_this: examine this machine as a compute node.
        wait_s: longest wait for the job.
        say: told how the job gets on.
    """
    host = socket.gethostname()
    slurm = config.site.executor is Executor.slurm
    if on_this:
        name, findings = job.here(config, base)
        yield from ((f"node {name}", f) for f in findings)
        return
    login: list[Finding] = []
    for f in login_node(config, base):
        login.append(f)
        yield f"login node {host}" if slurm else f"this machine ({host})", f
    if not slurm:
        checks = job.node_checks(config, base)[2:]  # Python and packages were checked already
        seen = {f.what for f in login}
        yield from ((f"this machine ({host})", f) for f in examine(checks) if f.what not in seen)
    elif with_job and worst(f for f in login if not f.waits) == FAILURE:
        yield "compute node", warning("not examined", "mend the failures above first")
    elif with_job:
        node, found = job.examine_node(config, base, wait_s, say)
        yield from ((f"compute node {node}" if node else "compute node", f) for f in found)
