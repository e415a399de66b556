"""Clusters that never were, as `launch.cluster` describes real ones."""

from __future__ import annotations

from gra_hpc.site.cluster import ClusterInfo, Gpu, NodeKind, Partition


def partition(name: str, *nodes: NodeKind, **changes: object) -> Partition:
    values = {
        "name": name, "default": False, "up": True, "time_limit_min": 1440, "default_time_min": None,
        "priority_tier": 1, "preempt_mode": "OFF", "grace_s": 0, "accounts": (), "qos": (), "nodes": nodes,
    }  # fmt: skip
    return Partition(**{**values, **changes})  # type: ignore[arg-type]


CPU = NodeKind(100, 64, 256_000, (), ("icelake",))
A100 = NodeKind(20, 48, 512_000, (Gpu("a100", 4),), ("a100_80gb", "ib"))
V100 = NodeKind(4, 32, 192_000, (Gpu("v100", 2),), ())


def cluster(*partitions: Partition, **changes: object) -> ClusterInfo:
    values = {
        "name": "owl", "version": "23.11.4", "max_array_size": 1001, "max_jobs": 10000, "user_signal": False,
        "requeue": True, "preempt_mode": "REQUEUE", "kill_wait_s": 30, "wckeys": False, "accounting": True,
        "per_node_gpus": True, "partitions": partitions, "accounts": ("lab",), "default_account": "lab",
        "qos": ("normal",),
    }  # fmt: skip
    return ClusterInfo(**{**values, **changes})  # type: ignore[arg-type]
