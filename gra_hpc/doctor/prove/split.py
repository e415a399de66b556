"""One engine over two devices: tensor parallelism, with its all-reduces."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from gra_hpc.config.settings import Residency
from gra_hpc.doctor.prove.bench import Bench, asked
from gra_hpc.doctor.prove.outcome import NotHereError
from gra_hpc.doctor.prove.proof import Proof
from gra_hpc.doctor.prove.subject import divisible
from gra_hpc.placement.devices import like


async def split(proof: Proof, bench: Bench) -> str:
    """An engine over two devices answers.

    Raises:
        NotHereError: there are no two.
    """
    if bench.on_cpu:
        if bench.node.cores < 2:
            raise NotHereError("one core: nothing to split over", "site.cpus_per_task=2, or more")
    elif bench.gpus < 2:
        raise NotHereError("one device: nothing to split over", "a site with site.gpus_per_node=2, or more")
    elif "." in like(bench.node.device_type, bench.node.memory_gb).name:
        raise NotHereError("slices of a GPU do not reach each other", "whole GPUs")
    model, made = divisible(bench.model, proof.directory / "models" / "divides")
    models = {"wide": replace(model, tensor_parallel=2)}
    solution = bench.placed(models, 2, Residency.together)
    async with bench.host(models, solution.placement) as node:
        began = time.monotonic()
        await asked(node, "wide", "Say hello.", 4)
        up = time.monotonic() - began
        answers = await asyncio.gather(*(asked(node, "wide", f"Describe the number {i}.", 32) for i in range(8)))
    tokens = sum(a.completion_tokens for a in answers)
    what = f"over 2 {'processes' if bench.on_cpu else 'GPUs'}: up in {up:.0f} s, {tokens} tokens in 8 answers"
    return f"{what} ({made})" if made else what
