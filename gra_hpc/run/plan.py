"""The plan: what a run will do, frozen and digested. Attempts, resumes and merges refuse another fingerprint."""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gra_hpc import __version__
from gra_hpc.config import presets
from gra_hpc.config.frozen import differences, fingerprinted
from gra_hpc.config.settings import Flow, RunConfig
from gra_hpc.errors import FingerprintError, GraError, SeedError
from gra_hpc.flows.render import prompts_digest
from gra_hpc.records import digest
from gra_hpc.run import disk_space
from gra_hpc.run.code import code_digest
from gra_hpc.run.directory import RoundDir, RunDir
from gra_hpc.run.pins import ModelPin, pin_embed, pin_models
from gra_hpc.sources import benchmarks as benchmark_files
from gra_hpc.sources.benchmarks import BenchmarkPin
from gra_hpc.storage import fsync_dir, fsync_file, read_object, room, to_json, write_atomic

log = logging.getLogger(__name__)

FORMAT = 3
READABLE = (2, FORMAT)
"""Format 2 did not note the models' sizes."""
SEEDS_PER_SHARD_0 = 2000
"""Seeds that one shard of round 0 describes: one call each, where a candidate takes about ten."""


@dataclass(frozen=True)
class Plan:
    """`plan.json`."""

    fingerprint: str
    frozen: dict[str, Any]
    """What the fingerprint digests: method, committee, models, merge, seeds, prompts, code version."""
    version: str
    created: float
    """Unix time, in seconds."""
    shards: int
    seeds: int
    seed_rejects: int
    undescribed: int
    """Seeds that stage 0 has to describe."""
    models: dict[str, ModelPin]
    embed: ModelPin | None
    format: int = FORMAT
    benchmarks: dict[str, BenchmarkPin] = field(default_factory=dict)
    """Sources of the decontamination."""

    @classmethod
    def load(cls, run: RunDir) -> Plan:
        """The plan of a run.

        Raises:
            GraError: when it was made by an incompatible version.
        """
        data, then = read_object(run.plan), f"gra plan {run.path}-2 ..."
        if data.get("format") not in READABLE:
            raise GraError(
                f"{run.plan}: plan format {data.get('format')}, this version reads {READABLE[0]} to {FORMAT}", then
            )
        try:
            data["models"] = {k: ModelPin(**v) for k, v in data["models"].items()}
            data["embed"] = ModelPin(**data["embed"]) if data["embed"] else None
            data["benchmarks"] = {k: BenchmarkPin(**v) for k, v in data["benchmarks"].items()}
            return cls(**data)
        except (AttributeError, KeyError, TypeError) as e:
            raise GraError(f"{run.plan}: not a plan ({e})", then) from None

    def verify(self, config: RunConfig, run: RunDir) -> None:
        """Refuse a configuration with another fingerprint, or another number of shards.

        Raises:
            FingerprintError: with the keys that differ.
        """
        if config.launch.shards not in (0, self.shards):
            raise FingerprintError(
                f"{run.path}: launch.shards={config.launch.shards}, planned with {self.shards}",
                f"plan a new run: gra plan {run.path}-2 ...",
            )
        now = frozen(
            config, self.frozen["seeds"], {k: v.identity for k, v in self.models.items()}, self.embed, self.benchmarks
        )
        if digest(now) != self.fingerprint:
            raise FingerprintError(
                f"{run.path}: planned with other settings: {'; '.join(differences(self.frozen, now))}",
                f"plan a new run: gra plan {run.path}-2 ...",
            )


def frozen(
    config: RunConfig, seeds: str, models: dict[str, str], embed: ModelPin | None, benchmarks: dict[str, BenchmarkPin]
) -> dict[str, Any]:
    """Everything that the samples of a run depend on, without where and how they are computed."""
    out: dict[str, Any] = fingerprinted(config)
    for name, model in out["models"].items():
        del model["path"], model["revision"], model["licence"]
        model["identity"] = models[name]
    del out["merge"]["embed_model"]
    out["merge"]["embed_identity"] = embed.identity if embed else ""
    out["merge"]["benchmarks"] = {source: pin.sha256 for source, pin in benchmarks.items()}
    out |= {"seeds": seeds, "prompts": prompts_digest(), "version": __version__}
    out["code"] = code_digest()
    return out


def make(path: Path, config: RunConfig, before_writing: Callable[[RunConfig, Plan], object] | None = None) -> RunDir:
    """Plan a run: read the seeds, pin the models, digest it all, and write the run directory whole.

    Planning again with the same settings changes nothing but what is allowed to change (placement, site, ...).

    Args:
        before_writing: called with the plan; if it raises, nothing is written.

    Raises:
        SeedError, EngineError, StorageError: what cannot be read or written.
        FingerprintError: the directory holds a run with other settings.
    """
    from gra_hpc.sources import seeds as seed_module

    run = RunDir(path.absolute())
    if run.path.exists() and not run.plan.exists() and any(run.path.iterdir()):
        raise GraError(f"{path}: exists and is not a run", "choose another directory")
    seed_set = seed_module.load(config.seeds, scratch=config.site.scratch)
    if not seed_set.seeds:
        first = seed_set.rejects[0]  # there is one: a source without records is refused before
        raise SeedError(
            f"{config.seeds.path}: no usable record; {len(seed_set.rejects)} rejected, the first at"
            f" {first.file} line {first.line}: {first.reason}: {first.detail}",
            "check seeds.path and seeds.fields",
        )
    pins, embed = pin_models(config), pin_embed(config)
    sources = config.merge.decontamination.sources
    benchmarks = {s: benchmark_files.find(s, config.site.scratch) for s in sources}
    what = frozen(config, seed_set.digest, {k: v.identity for k, v in pins.items()}, embed, benchmarks)
    undescribed = sum(not s.described for s in seed_set.seeds) if config.method.flow is not Flow.seeds else 0
    plan = Plan(
        fingerprint=digest(what),
        frozen=what,
        version=__version__,
        created=time.time(),
        shards=config.launch.shards or -(-len(seed_set.seeds) // config.launch.seeds_per_shard),
        seeds=len(seed_set.seeds),
        seed_rejects=len(seed_set.rejects),
        undescribed=undescribed,
        models=pins,
        embed=embed,
        benchmarks=benchmarks,
    )
    if run.plan.exists():
        before = Plan.load(run)
        before.verify(config, run)
        if before.frozen != what:
            raise FingerprintError(
                f"{path}: planned with other seeds or models: {'; '.join(differences(before.frozen, what))}",
                "give this plan another directory, or bring back what it was planned with",
            )
        if before_writing:
            before_writing(config, plan)
        write_atomic(run.config, presets.dump(config).encode())
        return run
    if plan.shards > plan.seeds:
        raise GraError(
            f"launch.shards={plan.shards}: more shards than seeds ({plan.seeds})", f"launch.shards={plan.seeds}"
        )
    if before_writing:
        before_writing(config, plan)
    run.path.parent.mkdir(parents=True, exist_ok=True)
    disk_space.check(run.path, disk_space.needed(config, first_round(config, plan).candidates, plan.shards))
    with room(run.path):
        temporary = Path(tempfile.mkdtemp(prefix=f".{run.name}.", dir=run.path.parent))
        try:
            draft = RunDir(temporary)
            for d in (draft.logs, draft.submissions, draft.round(1).path):
                d.mkdir(parents=True)
            draft.config.write_text(presets.dump(config), encoding="utf-8")
            seed_module.write_records(draft.seeds, seed_set.seeds)
            seed_module.write_rejects(draft.seed_rejects, seed_set.rejects)
            if undescribed:
                draft.round(0).path.mkdir(parents=True)
                RoundPlan(0, undescribed, min(plan.shards, -(-undescribed // SEEDS_PER_SHARD_0))).save(draft.round(0))
            first_round(config, plan).save(draft.round(1))
            draft.plan.write_bytes(to_json(asdict(plan)))
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o777 & ~mask)
            for file in temporary.rglob("*"):
                if file.is_file():
                    fsync_file(file)  # or a power loss could leave a run with an empty plan
            if run.path.exists():
                run.path.rmdir()
            temporary.rename(run.path)
            fsync_dir(run.path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return run


@dataclass(frozen=True)
class RoundPlan:
    """`round.json`: how many candidates a round makes. Round 0 describes the seeds that need it, one unit each."""

    round: int
    candidates: int
    shards: int
    target: int = 0
    """Rows wanted after the merge; 0: all that survive."""
    acceptance: float | None = None
    """Share of candidates expected to survive, from which `candidates` was computed for a target."""

    @classmethod
    def load(cls, directory: RoundDir) -> RoundPlan:
        """The plan of a round.

        Raises:
            GraError: when the round before it has not been merged yet.
        """
        run = directory.path.parent.parent
        if not directory.plan.is_file():
            if directory.number <= 1 or directory.shards.is_dir():
                raise GraError(f"{directory.plan}: is missing", f"bring it back, or gra plan {run}-2 ...")
            raise GraError(
                f"round {directory.number} is not planned yet: round {directory.number - 1} has not been merged",
                f"gra status {run}",
            )
        data = read_object(directory.plan, "round", "candidates", "shards")
        try:
            return cls(**data)
        except TypeError as e:
            raise GraError(f"{directory.plan}: not the plan of a round ({e})", f"gra plan {run}-2 ...") from None

    def save(self, directory: RoundDir) -> None:
        directory.path.mkdir(parents=True, exist_ok=True)
        write_atomic(directory.plan, to_json(asdict(self)))


def first_round(config: RunConfig, plan: Plan) -> RoundPlan:
    """Round 1: `samples_per_seed`, or enough for the target at the stated acceptance."""
    return size_round(1, config, plan.seeds, plan.shards, config.method.expected_acceptance)


def size_round(number: int, config: RunConfig, seeds: int, shards: int, acceptance: float) -> RoundPlan:
    """How many candidates a round needs.

    Args:
        acceptance: share of candidates that survive, stated or measured so far. For a target, as many more candidates
            are planned as make a shortfall rare: two standard deviations of the survivors, at least a twentieth.
    """
    target = config.method.target_accepted
    if not target:
        return RoundPlan(number, seeds * config.method.samples_per_seed, shards)
    rate = max(acceptance, 1e-3)
    margin = max(0.05, 2 * math.sqrt((1 - rate) / target)) if rate < 1 else 0.05
    return RoundPlan(number, math.ceil((1 + margin) * target / rate), shards, target, acceptance)
