"""How a rank finds the others: in a file that nobody else can reach, where its launcher names one.

The other way, a port of the first node (torchrun's), listens on all interfaces, and whoever connects is taken for a
rank: it can read and change where the ranks believe each other to be.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch.distributed as dist

from gra_hpc.training.ranks import MEETING

WAIT_S = 7200
"""Longest time that ranks wait for each other: rank 0 prepares the data before the first step."""


def join(device: str) -> None:
    """Join the other ranks in the launcher's file; without one the Trainer's libraries do, at a port.

    Args:
        device: cpu or cuda.
    """
    file = os.environ.get(MEETING)
    if file is None:
        return
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")  # accelerate wants one named for several nodes; nobody uses it
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        "gloo" if device == "cpu" else "nccl",
        store=dist.FileStore(file, world),
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=WAIT_S),
    )
