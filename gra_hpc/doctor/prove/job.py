"""A proof here, or as one job on a node: the same route as a shard's, and a report that grows piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gra_hpc.config import presets
from gra_hpc.config.settings import EngineKind, RunConfig
from gra_hpc.config.site import Executor
from gra_hpc.doctor.finding import Finding
from gra_hpc.doctor.prove.outcome import CPU_PATIENCE, TITLES
from gra_hpc.doctor.prove.proof import TOTAL_S, new_directory, read_report
from gra_hpc.doctor.prove.run import prove_here
from gra_hpc.doctor.prove.subject import chosen
from gra_hpc.doctor.waiting import await_job
from gra_hpc.errors import ConfigError, EngineError, nearest
from gra_hpc.launch.arrays import shard_executor, submit_one
from gra_hpc.launch.tasks import start_job
from gra_hpc.models.files import model_directory
from gra_hpc.run.directory import RunDir
from gra_hpc.storage import OWN, write_atomic
from gra_hpc.terminal import say

MINUTES = 20
"""Time limit of the job on GPUs; the site's of a shard if that is shorter."""

SPARE_S = 180.0
"""Of the time limit: what a node takes to begin, and to end."""


@dataclass(frozen=True)
class ProveNode:
    """The job: proves its node."""

    directory: str
    """Of the proof, on the shared file system, with the configuration as `run.yaml`."""
    model: str
    only: tuple[str, ...]
    total_s: float
    """Time that it has."""

    def __call__(self) -> str:
        start_job()
        run = RunDir(Path(self.directory))
        report = prove_here(presets.load(run.config_file, own=True), self.model, run.path, self.only, say, self.total_s)
        return f"{len(report['pieces'])} pieces"


def prove(
    config: RunConfig,
    base: Path,
    model: str = "",
    only: Collection[str] = (),
    on_this: bool = False,
    wait_s: float = 900,
    note: Callable[[str], None] = lambda _: None,
) -> tuple[Path, dict[str, Any], Finding | None]:
    """Prove a node of the site.

    Args:
        config: a preset on its site.
        base: directory for the proof's.
        model: as `subject.chosen`.
        only: the pieces that are wanted; empty: all.
        on_this: this machine, also where the site's jobs go to Slurm.
        wait_s: longest wait until the job runs.
        note: told how it gets on.

    Returns:
        The proof's directory, its report (empty if no piece ended), and why the job has no whole one; none: it has.

    Raises:
        GraError: no model is here, no such piece, simulated engines; or Slurm refused the job.
    """
    for piece in only:
        if piece not in TITLES:
            raise ConfigError(
                f"--only {piece}: no such piece{nearest(piece, list(TITLES))}", f"one of {', '.join(TITLES)}"
            )
    if config.engine.kind is EngineKind.simulated:
        raise ConfigError("engine.kind=simulated: nothing to prove", "gra doctor SITE --prove engine.kind=vllm")
    name, entry = chosen(config, model)
    config.models[name] = entry
    config.merge.embed_model = _here(config)
    directory = new_directory(base, config.site.name)
    if on_this or config.site.executor is Executor.local:
        return directory, prove_here(config, name, directory, only, note), None
    return directory, *_submitted(config, name, directory, only, wait_s, note)


def _here(config: RunConfig) -> str:
    """The embedding model's directory, which a job finds from wherever it begins; as it was if it is not here."""
    named = config.merge.embed_model
    try:
        return str(model_directory(named, "", config.site.scratch)) if named else ""
    except EngineError:
        return named


def _submitted(
    config: RunConfig, name: str, directory: Path, only: Collection[str], wait_s: float, note: Callable[[str], None]
) -> tuple[dict[str, Any], Finding | None]:
    """One job on one node; its report, and why that is not whole."""
    run = RunDir(directory)
    write_atomic(run.config_file, presets.dump(config).encode(), mode=OWN)
    patience = 1.0 if config.site.gpus_per_node else CPU_PATIENCE
    minutes = min(round(MINUTES * patience), config.site.time_minutes)
    total = min(TOTAL_S, max(60.0, 60.0 * minutes - SPARE_S) / patience)
    brief = replace(config.site, time_minutes=minutes, signal_lead_s=min(config.site.signal_lead_s, 12 * minutes))
    executor = shard_executor(run, replace(config, site=brief), "gra:doctor")
    executor.update_parameters(job_name="gra-prove")
    job = submit_one(executor, ProveNode(str(run.path), name, tuple(only), total))
    note(f"job {job} submitted; its log: {run.logs / job}")
    told = 0

    def done() -> bool:
        nonlocal told
        report = read_report(directory)
        pieces = report.get("pieces", [])
        for row in pieces[told:]:
            note(f"{row['piece']}: {row['state']} after {row['seconds']:.0f} s")
        told = len(pieces)
        return bool(report.get("done"))

    wrong = await_job(job, run.logs / job / f"{job}_0_log.out", done, wait_s, note)
    return read_report(directory), wrong
