"""What a cluster says about itself, for site detection: partitions, limits, GPUs, preemption, accounts."""

from __future__ import annotations

import getpass
import re
from dataclasses import dataclass

from gra_hpc.errors import LaunchError
from gra_hpc.launch.slurm import SEPARATOR, TIMEOUT_S, field_value, leading_number, output_of, seconds_of
from gra_hpc.launch.slurm import config as slurm_config


@dataclass(frozen=True, slots=True)
class Gpu:
    """GPUs of one node."""

    type: str
    """As Slurm names it; empty when the site gives GPUs no type."""
    count: int


@dataclass(frozen=True, slots=True)
class NodeKind:
    """Nodes of one partition that are alike."""

    count: int
    cpus: int
    memory_mb: int
    gpus: tuple[Gpu, ...]
    features: tuple[str, ...]
    """What `--constraint` can name."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition."""

    name: str
    default: bool
    up: bool
    time_limit_min: int | None
    """Longest time limit, in minutes; none: no limit."""
    default_time_min: int | None
    """Time limit of a job that names none; none: the longest."""
    priority_tier: int
    preempt_mode: str
    """What happens to its preempted jobs: REQUEUE, CANCEL, SUSPEND or OFF."""
    grace_s: int
    """Seconds between the first signal of a preemption and SIGKILL."""
    accounts: tuple[str, ...]
    """Accounts that may use it; empty: all."""
    qos: tuple[str, ...]
    """QOS that may be used in it; empty: all."""
    nodes: tuple[NodeKind, ...]


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    """What a site can be asked about itself from a login node."""

    name: str
    version: str
    max_array_size: int
    """Largest array (indices run from 0 to one less). 0 and 1: the site takes no arrays."""
    max_jobs: int
    """Jobs and array tasks that the controller holds at once, of all users."""
    user_signal: bool
    """Whether a job's own signal (--signal) is sent when its preemption starts. If not, it gets SIGTERM."""
    requeue: bool
    """Whether jobs may be requeued unless they say otherwise."""
    preempt_mode: str
    kill_wait_s: int
    """Seconds between SIGTERM and SIGKILL at the time limit and on scancel."""
    wckeys: bool
    """Whether the site tracks wckeys."""
    accounting: bool
    """Whether sacct has anything to tell."""
    per_node_gpus: bool
    """Whether --gpus-per-node is understood (select/cons_tres); otherwise --gres."""
    partitions: tuple[Partition, ...]
    accounts: tuple[str, ...]
    """Accounts of this user; empty when Slurm does not say."""
    default_account: str
    qos: tuple[str, ...]
    """QOS that this user may ask for; empty when Slurm does not say."""

    @property
    def default_partition(self) -> Partition | None:
        return next((p for p in self.partitions if p.default), None)


def cluster_info(timeout: float = TIMEOUT_S) -> ClusterInfo:
    """What Slurm says about itself: scontrol and sinfo, and sacctmgr where there is accounting."""
    config = slurm_config(timeout)
    accounting = config.get("AccountingStorageType", "").endswith("slurmdbd")
    accounts, default_account, qos = _associations(timeout) if accounting else ((), "", ())
    return ClusterInfo(
        name=config.get("ClusterName", ""),
        version=config.get("SLURM_VERSION", ""),
        max_array_size=leading_number(config.get("MaxArraySize", ""), 1001),
        max_jobs=leading_number(config.get("MaxJobCount", ""), 10000),
        user_signal="preempt_send_user_signal" in config.get("SlurmctldParameters", "").split(","),
        requeue=config.get("JobRequeue", "1") == "1",
        preempt_mode=config.get("PreemptMode", "OFF"),
        kill_wait_s=leading_number(config.get("KillWait", ""), 30),
        wckeys=config.get("TrackWCKey", "No").lower() == "yes",
        accounting=accounting,
        per_node_gpus=config.get("SelectType", "").endswith("cons_tres"),
        partitions=parse_partitions(
            output_of(["scontrol", "show", "partition", "--oneliner"], timeout),
            output_of(
                ["sinfo", "--noheader", f"--format={SEPARATOR.join(('%R', '%D', '%c', '%m', '%G', '%f'))}"], timeout
            ),
        ),
        accounts=accounts,
        default_account=default_account,
        qos=qos,
    )


def parse_partitions(partitions: str, nodes: str) -> tuple[Partition, ...]:
    """Partitions from `scontrol show partition --oneliner` and sinfo's lines of like nodes."""
    kinds: dict[str, dict[NodeKind, int]] = {}
    for line in nodes.splitlines():
        fields = [field_value(f) for f in line.split(SEPARATOR)]
        if len(fields) != 6:
            continue
        name, count, cpus, memory, gres, features = fields
        split = tuple(f for f in features.split(",") if f)
        kind = NodeKind(0, leading_number(cpus), leading_number(memory), parse_gpus(gres), split)
        alike = kinds.setdefault(name, {})  # sinfo splits by state too; here they are one kind
        alike[kind] = alike.get(kind, 0) + leading_number(count)
    found = []
    for line in partitions.splitlines():
        p = dict(re.findall(r"(\w+)=(\S*)", line))
        name = p.get("PartitionName", "")
        if not name:
            continue
        limit, default = seconds_of(p.get("MaxTime", "")), seconds_of(p.get("DefaultTime", ""))
        found.append(
            Partition(
                name=name,
                default=p.get("Default") == "YES",
                up=p.get("State", "UP") == "UP",
                time_limit_min=None if limit is None else limit // 60,
                default_time_min=None if default is None else default // 60,
                priority_tier=leading_number(p.get("PriorityTier", "")),
                preempt_mode=p.get("PreemptMode", "OFF"),
                grace_s=leading_number(p.get("GraceTime", "")),
                accounts=_allowed(p.get("AllowAccounts", "")),
                qos=_allowed(p.get("AllowQos", "")),
                nodes=tuple(
                    NodeKind(n, k.cpus, k.memory_mb, k.gpus, k.features) for k, n in kinds.get(name, {}).items()
                ),
            )
        )
    return tuple(found)


def _allowed(text: str) -> tuple[str, ...]:
    return () if text in {"", "ALL"} else tuple(text.split(","))


def parse_gpus(gres: str) -> tuple[Gpu, ...]:
    """GPUs in a GRES text: `gpu:a100:4(S:0-1),gpu:2,craynetwork:4`."""
    found = re.findall(r"(?:^|,)gpu:(?:([^:,()]*[^\d:,()][^:,()]*):)?(\d+)(?![\w.])", re.sub(r"\([^)]*\)", "", gres))
    return tuple(Gpu(type, int(count)) for type, count in found)


def _associations(timeout: float) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    """Accounts, default account and QOS of this user; empty where sacctmgr is missing or keeps silent."""
    user = getpass.getuser()
    try:
        rows = output_of(
            ["sacctmgr", "-nP", "show", "assoc", f"user={user}", "format=account,qos"], timeout
        ).splitlines()
        default = output_of(["sacctmgr", "-nP", "show", "user", user, "format=defaultaccount"], timeout).strip()
    except LaunchError:  # a site may forbid it, and a run needs none of it
        return (), "", ()
    accounts, qos = [], []
    for row in rows:
        account, _, allowed = row.partition("|")
        accounts.append(account)
        qos += allowed.split(",")
    return tuple(sorted({a for a in accounts if a})), default, tuple(sorted({q for q in qos if q}))
