"""The settings of a site: a cluster, or this machine. None of them changes what is written."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from gra_hpc.config.fields import Most, unfrozen


class Executor(Enum):
    """Who runs the jobs."""

    local = "local"
    slurm = "slurm"


@dataclass
class SiteConfig:
    """A cluster, or this machine."""

    name: str = unfrozen("local")
    """Name shown in plans."""
    executor: Executor = unfrozen(Executor.local)
    """local: processes on this machine; slurm: sbatch through submitit."""
    account: str = unfrozen("")
    """Slurm account."""
    partition: str = unfrozen("")
    """Slurm partition of the shards."""
    merge_partition: str = unfrozen("")
    """Slurm partition of the merge; empty: as the shards."""
    qos: str = unfrozen("")
    """Slurm quality of service."""
    constraint: str = unfrozen("")
    """Slurm node features."""
    reservation: str = unfrozen("")
    """Slurm reservation."""
    exclude: str = unfrozen("")
    """Nodes to leave out."""
    gpu_style: str = unfrozen("gpus", choices=("gpus", "gres", "none"))
    """How GPUs are asked for: gpus (--gpus-per-node), gres (--gres=gpu:N), none."""
    gpu_type: str = unfrozen("")
    """GPU type as Slurm names it (a100, h100, ...)."""
    gpus_per_node: int = unfrozen(0, ge=0, le=Most.DEVICES)
    """GPUs of a node that a shard gets. 0: CPU."""
    gpu_memory_gb: float = unfrozen(0.0, ge=0, le=Most.GB)
    """Memory of one GPU, in GB."""
    cpus_per_task: int = unfrozen(0, ge=0, le=Most.CPUS)
    """CPUs of a shard. 0: `cpus_per_gpu` for each of its GPUs, or not asked for (local: all)."""
    cpus_per_gpu: int = unfrozen(0, ge=0, le=Most.CPUS)
    """CPUs of a shard for each of its GPUs, where `cpus_per_task` is 0."""
    memory_gb: float = unfrozen(0.0, ge=0, le=Most.GB)
    """Host memory of a shard, in GB. 0: `memory_per_gpu_gb` for each of its GPUs, or the site's default."""
    memory_per_gpu_gb: float = unfrozen(0.0, ge=0, le=Most.GB)
    """Host memory of a shard for each of its GPUs, in GB, where `memory_gb` is 0."""
    merge_cpus: int = unfrozen(2, ge=1, le=Most.CPUS)
    """CPUs of the merge."""
    merge_memory_gb: float = unfrozen(8.0, ge=0, le=Most.GB)
    """Host memory of the merge, in GB."""
    time_minutes: int = unfrozen(240, ge=1, le=Most.MINUTES)
    """Time limit of a shard, in minutes."""
    merge_time_minutes: int = unfrozen(240, ge=1, le=Most.MINUTES)
    """Time limit of the merge, in minutes."""
    signal_lead_s: int = unfrozen(90, ge=0, le=Most.SECONDS)
    """Seconds before the time limit at which Slurm signals a shard to drain and requeue."""
    max_array_size: int = unfrozen(0, ge=0, le=10 * Most.TASKS)
    """Largest array. 0: ask Slurm (MaxArraySize)."""
    parallel: int = unfrozen(0, ge=0, le=Most.TASKS)
    """Workers of a run that run at once, where `launch.parallel` is 0. 0: as many as Slurm starts."""
    wckey: bool = unfrozen(False)
    """Emit --wckey (submitit does; some sites reject it)."""
    modules: list[str] = unfrozen([])
    """Environment modules to load in the job."""
    setup: list[str] = unfrozen([])
    """Shell lines run in the job before Python (trusted: they come from the site file)."""
    sbatch: dict[str, Any] = unfrozen({})
    """More sbatch options, as `name: value`, of jobs and merges; none that the suite or a setting above gives."""
    mail: str = unfrozen("")
    """Where Slurm sends one mail when the release is made, and one where a merge fails before: an address, or a user of
    the cluster. Jobs of shards send none. Empty: no mail."""
    python: str = unfrozen("")
    """Python for the jobs. Empty: the one that submits."""
    container: str = unfrozen("")
    """none (empty), apptainer:IMAGE, or pyxis:IMAGE."""
    scratch: str = unfrozen("")
    """Shared directory for runs, the model cache, and what engines have compiled."""
    local_dir: str = unfrozen("")
    """Node-local directory for sockets, temporary files and weight copies. Empty: $TMPDIR or /tmp."""
    copy_weights: bool = unfrozen(False)
    """Copy the models' weights to `local_dir` and load them from there: one copy per node, kept for the next task."""
    copy_weights_gb: float = unfrozen(0.0, ge=0, le=Most.GB)
    """Most that copies of weights take on a node, in GB; the longest unused go first. 0: nine tenths of the disk."""
    proxy: str = unfrozen("")
    """HTTP proxy for login-node downloads."""
    calibration: str = unfrozen("")
    """What `gra calibrate` measured: plans and placement go by it. Empty: SITE.calibration.json beside the site's file,
    if it is there; else stated defaults."""

    @property
    def task_cpus(self) -> int:
        """CPUs to ask for, for one shard. 0: not asked for."""
        return self.cpus_per_task or self.cpus_per_gpu * self.gpus_per_node

    @property
    def task_memory_gb(self) -> float:
        """Host memory to ask for, for one shard, in GB. 0: not asked for."""
        return self.memory_gb or self.memory_per_gpu_gb * self.gpus_per_node
