"""The doctor on a compute node: a two-minute job through the same route as a shard's, and its report."""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gra_hpc.config import presets
from gra_hpc.config.settings import RunConfig
from gra_hpc.doctor import devices, directories, node, software
from gra_hpc.doctor.finding import Check, Finding, examine, failure, ok
from gra_hpc.doctor.waiting import await_job
from gra_hpc.launch.arrays import shard_executor, submit_one
from gra_hpc.run.directory import RunDir
from gra_hpc.storage import write_atomic

MINUTES = 10
"""Time limit of the job: it takes two minutes, but `import vllm` from a cold file system may take longer."""


def node_checks(config: RunConfig, directory: Path) -> list[Check]:
    """What is checked on the machine that will run engines."""
    return [
        software.python,
        software.packages,
        functools.partial(directories.local, config.site),
        functools.partial(directories.clock, directory),
        functools.partial(node.cores, config),
        functools.partial(devices.gpus, config),
        node.machine,
        functools.partial(node.own_network, config),
        node.requeueing,
        node.network,
        functools.partial(software.models, config),
        functools.partial(software.vllm_import, config),
    ]


@dataclass(frozen=True)
class ExamineNode:
    """The job: examines its node and writes a report."""

    config: Path
    """The configuration, as `run.yaml`."""
    directory: Path
    """Shared directory, with a file that the login node wrote."""
    token: str

    def __call__(self) -> str:
        config = presets.load(self.config)
        findings = [self._shared(), *examine(node_checks(config, self.directory))]
        report = {"host": socket.gethostname(), "at": time.time(), "findings": [asdict(f) for f in findings]}
        write_atomic(self.directory / "report.json", json.dumps(report).encode())
        return "examined"

    def _shared(self) -> Finding:
        try:
            found = (self.directory / "token").read_text(encoding="utf-8")
        except OSError as e:
            return failure(f"{self.directory}: not visible on this node ({e.strerror})", "use a shared directory")
        if found != self.token:
            return failure(f"{self.directory}: holds other files than on the login node", "use a shared directory")
        return ok(f"{self.directory} is shared with the login node")


def examine_node(config: RunConfig, base: Path, wait_s: float, say: Callable[[str], None]) -> tuple[str, list[Finding]]:
    """Submit the job and wait for its report.

    Args:
        base: shared directory for the job's files.
        wait_s: longest wait until it runs; then the job is cancelled.
        say: told now and then what the job waits for.

    Returns:
        The node's name (empty if the job never ran), and the findings.

    Raises:
        LaunchError: Slurm refused the job.
    """
    directory = Path(tempfile.mkdtemp(prefix="gra-doctor-", dir=base))
    token = os.urandom(8).hex()
    (directory / "token").write_text(token, encoding="utf-8")
    (directory / "run.yaml").write_text(presets.dump(config), encoding="utf-8")
    run = RunDir(directory)
    minutes = min(MINUTES, config.site.time_minutes)
    brief = replace(config.site, time_minutes=minutes, signal_lead_s=min(config.site.signal_lead_s, 12 * minutes))
    executor = shard_executor(run, replace(config, site=brief), "gra:doctor")
    executor.update_parameters(job_name="gra-doctor")
    job = submit_one(executor, ExamineNode(run.config_file, directory, token))
    log = run.logs / job / f"{job}_0_log.out"
    say(f"job {job} submitted; waiting for it")
    wrong = await_job(job, log, (directory / "report.json").exists, wait_s, say)
    if wrong:
        return "", [wrong]
    report = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    shutil.rmtree(directory, ignore_errors=True)
    return report["host"], [Finding(**f) for f in report["findings"]]


def here(config: RunConfig, base: Path) -> tuple[str, Iterable[Finding]]:
    """The same checks on this machine: for an interactive allocation, or without Slurm."""
    return socket.gethostname(), examine(node_checks(config, base))
