"""The pieces of a proof in their order, on this node."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from gra_hpc.config.settings import RunConfig
from gra_hpc.doctor.prove import node, rotation, split, tuning
from gra_hpc.doctor.prove.bench import Bench
from gra_hpc.doctor.prove.proof import TOTAL_S, Proof, read_report
from gra_hpc.doctor.prove.together import together
from gra_hpc.models import hub


def prove_here(
    config: RunConfig,
    name: str,
    directory: Path,
    only: Collection[str],
    note: Callable[[str], None],
    total_s: float = TOTAL_S,
) -> dict[str, Any]:
    """Try all pieces on this node; nothing of them asks a network.

    Args:
        config: the preset on its site, with the model's entry under `name`.
        directory: for the report and all logs; there is nothing else in it.
        only: the pieces that are wanted; empty: all.
        note: told how it gets on.
        total_s: time that it has on GPUs; on a CPU it has more.

    Returns:
        The report.
    """
    hub.offline()
    bench = Bench(config, name, directory)
    proof = Proof(directory, only, note, total_s * bench.patience, bench.patience)
    proof.node |= {"model": Path(config.models[name].path).name, "cpus": len(os.sched_getaffinity(0))}
    asyncio.run(_pieces(proof, bench))
    proof.save(done=True)
    return read_report(directory)


async def _pieces(proof: Proof, bench: Bench) -> None:
    await proof.piece("node", functools.partial(node.look, proof, bench))
    await together(proof, bench)
    await proof.piece("sleep", functools.partial(rotation.sleep, proof, bench), bench.no_engines)
    await proof.piece("split", functools.partial(split.split, proof, bench), bench.no_engines)
    await proof.piece("tuning", functools.partial(tuning.tuning, proof, bench))
