"""Checks of a site file against what Slurm says, and of the very script that would be submitted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from gra_hpc.config.settings import RunConfig
from gra_hpc.config.site import SiteConfig
from gra_hpc.doctor.finding import Finding, failure, ok, warning
from gra_hpc.errors import LaunchError, SlurmDownError, nearest
from gra_hpc.launch.arrays import merge_executor, refuse_refused, shard_executor
from gra_hpc.run.directory import RunDir
from gra_hpc.site.cluster import ClusterInfo, NodeKind, Partition


def against(site: SiteConfig, info: ClusterInfo) -> Iterable[Finding]:
    """A site file against a cluster."""
    yield ok(f"Slurm {info.version}, cluster {info.name or '?'}")
    chosen = [p for p in info.partitions if p.name in site.partition.split(",")] if site.partition else []
    for name in filter(None, [*site.partition.split(","), site.merge_partition]):
        yield from _partition(name, info, "merge_" if name == site.merge_partition else "")
    if not site.partition:
        default = info.default_partition
        chosen = [default] if default and not (site.qos or site.constraint) else list(info.partitions)
        yield ok(f"partition: left to Slurm{f' ({default.name})' if default else ''}")
    yield from _association("account", site.account, info.accounts, info.default_account)
    yield from _association("qos", site.qos, info.qos, "")
    for partition in chosen[:1] if site.partition else []:
        yield from _partition_takes(site, partition, info)
    yield from _nodes(site, [n for p in chosen for n in p.nodes])
    yield from _limits(site, info)


def _partition(name: str, info: ClusterInfo, prefix: str) -> Iterable[Finding]:
    names = [p.name for p in info.partitions]
    if name not in names:
        yield failure(
            f"site.{prefix}partition={name}: no such partition{nearest(name, names)}", f"one of {', '.join(names)}"
        )
    elif not next(p for p in info.partitions if p.name == name).up:
        yield failure(f"site.{prefix}partition={name}: it is down", f"sinfo -p {name}, or choose another")
    else:
        yield ok(f"partition {name} is up")


def _association(key: str, value: str, mine: tuple[str, ...], default: str) -> Iterable[Finding]:
    if value and mine and value not in mine:
        yield failure(f"site.{key}={value}: not yours{nearest(value, mine)}", f"one of {', '.join(mine)}")
    elif value and mine:
        yield ok(f"{key} {value}")
    elif value:
        yield ok(f"{key} {value} (Slurm does not say whether it is yours)")
    elif mine:
        yield ok(f"{key}: your default{f' ({default})' if default else ''}; yours: {', '.join(mine)}")


def _partition_takes(site: SiteConfig, p: Partition, info: ClusterInfo) -> Iterable[Finding]:
    if p.time_limit_min is not None and max(site.time_minutes, 0) > p.time_limit_min:
        yield failure(
            f"site.time_minutes={site.time_minutes}: partition {p.name} allows {p.time_limit_min}",
            f"site.time_minutes={p.time_limit_min}",
        )
    else:
        yield ok(f"time limit {site.time_minutes} min (partition: {p.time_limit_min or 'none'})")
    known = not info.accounts or site.account in info.accounts
    if site.account and known and p.accounts and site.account not in p.accounts:
        yield failure(f"partition {p.name} does not take account {site.account}", f"one of {', '.join(p.accounts)}")
    if site.qos and p.qos and site.qos not in p.qos:
        yield failure(f"partition {p.name} does not take QOS {site.qos}", f"one of {', '.join(p.qos)}")
    if "CANCEL" in p.preempt_mode.upper():
        yield warning(f"partition {p.name} cancels preempted jobs", "after a preemption: gra resume RUN")


def _nodes(site: SiteConfig, kinds: list[NodeKind]) -> Iterable[Finding]:
    if not kinds:
        return
    features = {f for k in kinds for f in k.features}
    for word in re.findall(r"[\w.+-]+", site.constraint):
        if features and not word.isdigit() and word not in features:
            yield failure(
                f"site.constraint: no node has the feature {word}{nearest(word, sorted(features))}",
                f"features: {', '.join(sorted(features))}",
            )
    if site.gpus_per_node:
        counts = {(g.type, g.count) for k in kinds for g in k.gpus}
        fits = [c for t, c in counts if not site.gpu_type or t == site.gpu_type]
        types = sorted({t for t, _ in counts if t})
        if not counts:
            yield failure(f"site.gpus_per_node={site.gpus_per_node}: no node here has GPUs", "choose another partition")
        elif not fits:
            hint = f"one of {', '.join(types)}" if types else "site.gpu_type=''  (this site gives GPUs no type)"
            yield failure(f"site.gpu_type={site.gpu_type}: no node has it{nearest(site.gpu_type, types)}", hint)
        elif max(fits) < site.gpus_per_node:
            yield failure(
                f"site.gpus_per_node={site.gpus_per_node}: nodes have at most {max(fits)}",
                f"site.gpus_per_node={max(fits)}",
            )
        else:
            yield ok(f"{site.gpus_per_node} GPUs per node")
        if site.gpu_memory_gb <= 0:
            yield replace(
                failure(
                    "site.gpu_memory_gb=0: placement needs it",
                    "gra doctor SITE --job asks a node",
                ),
                waits=True,
            )
    cpus, memory = max(k.cpus for k in kinds), max(k.memory_mb for k in kinds) / 1024
    if site.task_cpus > cpus:
        yield failure(f"site.cpus_per_task={site.task_cpus}: nodes have {cpus}", f"site.cpus_per_task={cpus}")
    if site.task_memory_gb > memory:
        yield failure(
            f"site.memory_gb={site.task_memory_gb:g}: nodes have {memory:.0f}", f"site.memory_gb={int(memory)}"
        )


def _limits(site: SiteConfig, info: ClusterInfo) -> Iterable[Finding]:
    if info.max_array_size < 2:
        yield failure("this site takes no job arrays (MaxArraySize)", "use slurm/synthesize.sbatch, one job per shard")
    elif site.max_array_size > info.max_array_size:
        yield failure(
            f"site.max_array_size={site.max_array_size}: the site takes {info.max_array_size}",
            f"site.max_array_size={info.max_array_size}",
        )
    else:
        yield ok(f"arrays of {info.max_array_size} (MaxArraySize); larger rounds are split")
    if info.preempt_mode.upper() not in ("OFF", ""):
        sent = "is sent" if info.user_signal else "is not sent (SIGTERM only: answered calls are kept all the same)"
        yield ok(f"preemption {info.preempt_mode}: a job's own signal {sent}")
    yield ok("requeue allowed" if info.requeue else "requeue off by default; jobs ask for it (--requeue)")
    if info.wckeys and not site.wckey:
        yield warning("this site tracks wckeys", "site.wckey=true, if it refuses jobs without one")
    elif site.wckey and not info.wckeys:
        yield warning("site.wckey=true, but this site does not track wckeys", "site.wckey=false: some sites reject it")


def submittable(config: RunConfig, directory: Path) -> Iterable[Finding]:
    """Show Slurm the script of a shard, without submitting it (`sbatch --test-only`)."""
    run = RunDir(directory / "RUN")
    for what, executor in (
        ("a shard", shard_executor(run, config, "gra:doctor")),
        ("a merge", merge_executor(run, config, "gra:doctor")),
    ):
        try:
            refuse_refused(executor)
        except SlurmDownError:
            raise
        except LaunchError as e:
            yield failure(f"sbatch would refuse {what}: {e.what.removeprefix('sbatch refused: ')}", e.then)
            return
    yield ok("sbatch would take a shard's job and a merge's (--test-only)")
