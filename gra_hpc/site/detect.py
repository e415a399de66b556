"""Site files: a first version from what the cluster says about itself, and what a site file comes to."""

from __future__ import annotations

import os
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra_hpc.config.settings import RunConfig
from gra_hpc.config.site import SiteConfig
from gra_hpc.errors import ConfigError
from gra_hpc.placement.devices import named
from gra_hpc.site.cluster import ClusterInfo, NodeKind, Partition

HOURS = 4
"""Time limit that is written where the partition allows more: short jobs start sooner, and resume costs nothing."""

SCRATCH = ("SCRATCH", "PSCRATCH", "WORK", "SCRATCHDIR", "PROJECT")
"""Environment variables by which sites name a user's shared scratch directory."""


@dataclass(frozen=True)
class Setting:
    """One key of a site file."""

    key: str
    value: Any
    why: str
    """Comment: where the value comes from, or what else there is."""


def detect(info: ClusterInfo, partition: str = "", environ: Mapping[str, str] = os.environ) -> list[Setting]:
    """Settings of a site, from what Slurm says.

    Args:
        partition: the partition to use; empty: chosen (GPUs before CPUs, then the default one, then the larger).
        environ: this process's environment.

    Raises:
        ConfigError: no such partition, or none that this user may use.
    """
    chosen = choose(info, partition)
    kind = max(chosen.nodes, key=lambda n: (_gpus(n), n.count), default=NodeKind(0, 0, 0, (), ()))
    limit = chosen.time_limit_min
    minutes = min(limit or 60 * HOURS, 60 * HOURS)
    return [
        Setting("name", info.name or "cluster", f"Slurm {info.version}"),
        Setting("executor", "slurm", ""),
        _account(info, chosen),
        Setting("partition", chosen.name, _others(info)),
        _merge_partition(info, chosen),
        _qos(info, chosen),
        *_gpu_settings(info, kind),
        *_sizes(chosen, kind),
        Setting("time_minutes", minutes, f"the partition allows {_limit(limit)}; a killed shard resumes"),
        Setting("merge_time_minutes", minutes, ""),
        Setting("signal_lead_s", min(90, 12 * minutes), _preemption(info, chosen)),
        Setting("max_array_size", info.max_array_size, "MaxArraySize; larger rounds are split"),
        Setting("wckey", info.wckeys, "TrackWCKey"),
        _scratch(environ),
        Setting("local_dir", "", "node-local directory: set what your site names it, like $SLURM_TMPDIR"),
        Setting("modules", [], "what a job must load first, like [python/3.11, cuda/12.4]"),
        Setting("setup", [], "shell lines run in the job before Python, like [source /path/to/env.sh]"),
        Setting("container", "", _containers()),
        _proxy(environ),
    ]


def choose(info: ClusterInfo, name: str = "") -> Partition:
    """The partition to use."""
    if name:
        found = next((p for p in info.partitions if p.name == name), None)
        if found is None:
            names = ", ".join(p.name for p in info.partitions)
            raise ConfigError(
                f"partition {name}: not on this cluster, which has {names}", "gra site detect --partition NAME"
            )
        return found
    usable = [p for p in info.partitions if p.up and _allowed(info, p)]
    if not usable:
        names = ", ".join(p.name for p in info.partitions) or "none"
        raise ConfigError(
            f"no partition is up and open to your accounts (partitions: {names})", "ask your site's support"
        )
    return max(usable, key=lambda p: (_has_gpus(p), p.default, sum(n.count for n in p.nodes)))


def _allowed(info: ClusterInfo, partition: Partition) -> bool:
    return not (partition.accounts and info.accounts) or bool({*partition.accounts} & {*info.accounts})


def _gpus(kind: NodeKind) -> int:
    return max((g.count for g in kind.gpus), default=0)


def _has_gpus(partition: Partition) -> bool:
    return any(n.gpus for n in partition.nodes)


def _memory(kind: NodeKind) -> int:
    return int(kind.memory_mb * 0.95 / 1024)


def _limit(minutes: int | None) -> str:
    if minutes is None:
        return "any time"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def _shape(kind: NodeKind) -> str:
    gpus = " + ".join(f"{g.count} {g.type or 'GPU'}" for g in kind.gpus)
    return f"{kind.count} x {kind.cpus} CPUs, {kind.memory_mb // 1024} GB{f', {gpus}' if gpus else ''}"


def _shapes(partition: Partition) -> str:
    return "; ".join(_shape(n) for n in partition.nodes) or "no node"


def _others(info: ClusterInfo) -> str:
    parts = []
    for p in info.partitions:
        notes = [_limit(p.time_limit_min), _shapes(p)]
        if p.default:
            notes.insert(0, "default")
        if not p.up:
            notes.insert(0, "down")
        if not _allowed(info, p):
            notes.insert(0, "not for your accounts")
        parts.append(f"{p.name} ({', '.join(notes)})")
    return f"there are {'; '.join(parts)}" if len(parts) > 1 else parts[0] if parts else ""


def _account(info: ClusterInfo, chosen: Partition) -> Setting:
    mine = [a for a in info.accounts if not chosen.accounts or a in chosen.accounts]
    if len(mine) == 1:
        return Setting("account", mine[0], "your only one here")
    if mine:
        value = info.default_account if info.default_account in mine else mine[0]
        return Setting("account", value, f"yours: {', '.join(mine)}; GPU hours are charged to it")
    if chosen.accounts:
        return Setting("account", "", f"Slurm does not say yours; this partition takes {', '.join(chosen.accounts)}")
    return Setting("account", "", "Slurm names none for you: leave it empty, or ask what to charge")


def _merge_partition(info: ClusterInfo, chosen: Partition) -> Setting:
    if not _has_gpus(chosen):
        return Setting("merge_partition", "", "as the shards")
    cpu = [p for p in info.partitions if p.up and p.nodes and not _has_gpus(p) and _allowed(info, p)]
    if not cpu:
        return Setting("merge_partition", "", "as the shards: no partition has nodes without GPUs")
    best = max(cpu, key=lambda p: (p.default, sum(n.count for n in p.nodes)))
    return Setting("merge_partition", best.name, "the merge needs no GPU")


def _qos(info: ClusterInfo, chosen: Partition) -> Setting:
    mine = [q for q in info.qos if not chosen.qos or q in chosen.qos]
    if chosen.qos and mine and "normal" not in mine:
        return Setting("qos", mine[0], f"this partition takes {', '.join(chosen.qos)}; yours: {', '.join(info.qos)}")
    return Setting("qos", "", f"yours: {', '.join(info.qos) or 'not told'}; empty is your default")


def _gpu_settings(info: ClusterInfo, kind: NodeKind) -> Iterator[Setting]:
    if not kind.gpus:
        yield Setting("gpu_style", "none", "no GPUs in this partition: engines run on CPUs")
        yield Setting("gpus_per_node", 0, "")
        return
    gpu = max(kind.gpus, key=lambda g: g.count)
    style = "gpus" if info.per_node_gpus else "gres"
    why = "--gpus-per-node" if info.per_node_gpus else "--gres: this Slurm does not select by GPU"
    yield Setting("gpu_style", style, why)
    yield Setting("gpu_type", gpu.type, "as Slurm names it" if gpu.type else "this site gives GPUs no type")
    yield Setting("gpus_per_node", gpu.count, "all of a node; fewer may start sooner")
    memory, why = gpu_memory(gpu.type, kind.features)
    yield Setting("gpu_memory_gb", memory, why)
    yield Setting("constraint", "", f"node features: {', '.join(kind.features) or 'none'}")


def gpu_memory(type_: str, features: tuple[str, ...]) -> tuple[float, str]:
    """Memory of one GPU in GB, and where the figure comes from; 0: unknown, to be filled in."""
    if part := re.search(r"\dg\.(\d+)gb", type_.lower()):
        return float(part[1]), "from its type: a slice of a GPU (MIG)"
    for text, where in ((type_, "its type"), *((f, f"node feature {f}") for f in features)):
        if found := re.search(r"(?<!\d)(\d{2,3})\s*gi?b?(?![a-z])", text.lower()):
            return float(found[1]), f"from {where}"
    for text in (type_, *features):
        if device := named(text):
            return float(device.memory_gb), f"the smallest {device.name.upper()}: check it, nvidia-smi says"
    return 0.0, "FILL IN: neither type nor node features say it; nvidia-smi on a node does"


def _preemption(info: ClusterInfo, chosen: Partition) -> str:
    if chosen.preempt_mode.upper() in ("OFF", "") and info.preempt_mode.upper() in ("OFF", ""):
        return "time to drain before the time limit; jobs here are not preempted"
    if info.user_signal:
        return f"also sent on preemption ({chosen.preempt_mode}, {chosen.grace_s} s of grace)"
    return (
        f"before the time limit; a preempted job ({chosen.preempt_mode}) gets only SIGTERM and {chosen.grace_s} s:"
        " the journal keeps what was answered"
    )


def _sizes(chosen: Partition, kind: NodeKind) -> list[Setting]:
    """CPUs and memory: by GPU where there are GPUs, so that fewer GPUs ask for less."""
    shapes, gpus = _shapes(chosen), _gpus(kind)
    if not gpus:
        return [
            Setting("cpus_per_task", kind.cpus, f"all CPUs of a node ({shapes})"),
            Setting("memory_gb", _memory(kind), "most of a node's memory; 0: the site's default"),
        ]
    return [
        Setting("cpus_per_gpu", kind.cpus // gpus, f"a GPU's share of a node ({shapes})"),
        Setting("memory_per_gpu_gb", _memory(kind) // gpus, "most of its share; 0: the site's default"),
    ]


def _scratch(environ: Mapping[str, str]) -> Setting:
    for name in SCRATCH:
        path = environ.get(name, "")
        if path and Path(path).is_dir() and os.access(path, os.W_OK):
            return Setting("scratch", path, f"${name}; gra fetch puts the model cache here")
    user = environ.get("USER", "")
    for base in ("/scratch", "/lustre/scratch", "/p/scratch"):
        if user and (Path(base) / user).is_dir() and os.access(Path(base) / user, os.W_OK):
            return Setting("scratch", f"{base}/{user}", "gra fetch puts the model cache here")
    return Setting("scratch", "", "a large shared directory for the model cache; empty: Hugging Face's own cache")


def _containers() -> str:
    found = [name for name in ("apptainer", "singularity") if shutil.which(name)]
    if not found:
        return "none needed; apptainer:IMAGE or pyxis:IMAGE where Python cannot be installed"
    return f"{found[0]} is here: apptainer:IMAGE runs the jobs in one (slurm/gra.def)"


def _proxy(environ: Mapping[str, str]) -> Setting:
    proxy = environ.get("https_proxy") or environ.get("HTTPS_PROXY") or ""
    if re.search(r"//[^/]*@", proxy):
        return Setting(
            "proxy", "", "$https_proxy holds a password, which does not belong in a file: it is used as it is"
        )
    return Setting("proxy", proxy, "$https_proxy; for gra fetch" if proxy else "for gra fetch, where one is needed")


def text(settings: list[Setting]) -> str:
    """The site file."""
    import yaml

    lines = [
        "# Written by `gra site detect` from sinfo, scontrol and sacctmgr. Read it once; `gra doctor` checks it.",
        "site:",
    ]
    for s in settings:
        value = yaml.safe_dump(s.value, default_flow_style=True, width=1000).strip().removesuffix("...").strip()
        lines += (f"  # {line}" for line in textwrap.wrap(s.why, 110))
        lines.append(f"  {s.key}: {value}")
    return "\n".join(lines) + "\n"


def write(settings: list[Setting], name: str = "", force: bool = False) -> Path:
    """Write the site file `./configs/sites/NAME.yaml`.

    Args:
        name: of the file; empty: the cluster's.
        force: replace a file that is there.

    Raises:
        ConfigError: it is there already.
    """
    from gra_hpc.storage import write_atomic

    by_key = {s.key: s.value for s in settings}
    name = name or re.sub(r"[^\w.-]+", "-", str(by_key["name"]))
    path = Path("configs") / "sites" / f"{name}.yaml"
    if path.exists() and not force:
        raise ConfigError(f"{path}: is there already", "gra site detect --force, or --name OTHER, or --print")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text(settings).encode())
    return path


def show(site: SiteConfig, source: str) -> Iterator[str]:
    """A site's settings with their meaning, and the sbatch lines that they come to."""
    from gra_hpc.config.explain import explain
    from gra_hpc.launch.arrays import merge_executor, sbatch_text, script_of
    from gra_hpc.run.directory import RunDir

    yield f"# {source}"
    yield from explain(site)
    if site.executor.value != "slurm":
        return
    run, config = RunDir(Path("RUN")), RunConfig(site=site)
    yield ""
    yield "# a shard:"
    yield from _essence(sbatch_text(run, config, 1))
    yield ""
    yield "# a merge:"
    yield from _essence(script_of(merge_executor(run, config, "gra:RUN:SUBMISSION:0")))


def _essence(script: str) -> Iterator[str]:
    for line in script.splitlines():
        if line.strip() and not line.startswith(("#!", "# ")):
            yield f"#   {line}"
