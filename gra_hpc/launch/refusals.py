"""Why Slurm refuses jobs, and the key to change."""

from __future__ import annotations

import re

_REFUSALS = (
    (r"account|association", "site.account=ONE OF YOURS: sacctmgr show assoc user=$USER format=account,qos"),
    (r"qos", "site.qos=ONE OF YOURS: sacctmgr show assoc user=$USER format=account,qos"),
    (r"invalid partition|partition.*not|no partition", "site.partition=ONE OF: sinfo -s"),
    (r"time limit", "site.time_minutes=LESS: sinfo -o '%P %l'"),
    (r"feature|constraint", "site.constraint=ONE OF: sinfo -o '%f'"),
    (r"gres|generic resource|tres", "site.gpu_style=gres or gpus, site.gpu_type as sinfo -o '%G' shows it"),
    (r"reservation", "site.reservation=ONE OF: scontrol show reservation"),
    (r"wckey", "site.wckey=false"),
    (
        r"memory|cpu count|node configuration",
        "ask for less: site.cpus_per_task, site.memory_gb, site.gpus_per_node",
    ),
    (r"submit limit|job.?limit|policy limit|MaxSubmit", "fewer jobs at once: launch.shards=LESS, or wait"),
    (r"array", "site.max_array_size=LESS"),
)


def advice(said: str) -> str:
    """What to change after Slurm's refusal."""
    for pattern, then in _REFUSALS:
        if re.search(pattern, said, re.IGNORECASE):
            return then
    return "gra doctor SITE  (compares the site file with the cluster)"
