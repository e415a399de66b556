"""Checks of a node's GPUs, whole ones, slices of them (MIG) and AMD's: what Slurm gave, what the driver says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gra_hpc.config.settings import EngineKind, RunConfig
from gra_hpc.config.site import Executor
from gra_hpc.doctor.finding import Finding, failure, ok, warning

VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
"""By which Slurm tells a job its GPUs, and which it may hold at once."""
_QUERY = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
_SLICE = re.compile(r"^\s+MIG (?P<profile>\S+)\s+Device\s+\d+: \(UUID: (?P<uuid>[^)]+)\)", re.MULTILINE)


@dataclass(frozen=True)
class Gpu:
    """One device as its driver names it."""

    name: str
    memory_gb: float
    """In GB (10^9 bytes); of a slice, its part."""
    slice: bool = False
    """Part of a GPU (MIG): its neighbours are not reached from it."""


def gpus(config: RunConfig) -> Iterable[Finding]:
    """GPUs that Slurm gave, and the driver's word for them."""
    wanted = config.site.gpus_per_node
    if not wanted:
        yield ok("no GPU asked for")
        return
    name, given = visible(os.environ)
    if len(given) == wanted:
        yield ok(f"Slurm gave {wanted} GPUs ({name}={','.join(given)})")
    elif given or _asked_for(config):  # where none are asked for, a node has what it has
        yield failure(
            f"Slurm gave {len(given)} GPUs, site.gpus_per_node={wanted}", "site.gpu_style=gres or gpus: try the other"
        )
    if config.engine.kind is EngineKind.simulated:
        return
    smi = next((path for tool in ("nvidia-smi", "rocm-smi") if (path := shutil.which(tool))), None)
    if smi is None:
        yield failure(
            "neither nvidia-smi nor rocm-smi: not found, so there is no driver",
            "this partition has no GPUs, or a module is missing",
        )
        return
    try:
        found, version = nvidia(smi, given) if smi.endswith("nvidia-smi") else amd(smi)
    except (OSError, ValueError, KeyError, IndexError, subprocess.SubprocessError) as e:
        yield failure(f"{smi}: {str(e)[:200]}", "a broken node: site.exclude=NODE")
        return
    yield from _agree(config, found, version)


def _asked_for(config: RunConfig) -> bool:
    """Whether jobs ask Slurm for GPUs."""
    return config.site.executor is Executor.slurm and config.site.gpu_style != "none"


def visible(environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """The variable that names a job's GPUs, and their names: numbers, or UUIDs of GPUs and of slices."""
    name = next((n for n in VARIABLES if environ.get(n)), VARIABLES[0])
    return name, [d for d in environ.get(name, "").split(",") if d.strip()]


def nvidia(smi: str, given: Sequence[str]) -> tuple[list[Gpu], str]:
    """NVIDIA's devices and driver; where the job was given slices, these.

    Raises:
        ValueError: the driver's words, where it does not answer.
    """
    lines = _output(smi, *_QUERY)
    whole = [(name.strip(), float(mib), version.strip()) for name, mib, version in (x.split(",") for x in lines)]
    named, _, version = whole[0]
    slices = {m["uuid"]: m["profile"] for m in _SLICE.finditer("\n".join(_output(smi, "-L")))}
    mine = [profile for uuid, profile in slices.items() if uuid in given] or (
        [] if any(d.isdigit() or d.startswith("GPU-") for d in given) else list(slices.values())
    )
    if mine:
        return [Gpu(f"{named} MIG {p}", slice_memory(p), True) for p in mine], version
    return [Gpu(name, mib * 2**20 / 1e9) for name, mib, _ in whole], version


def slice_memory(profile: str) -> float:
    """GB of a MIG profile: `3g.20gb` has 20; 0 where the name does not say."""
    found = re.search(r"\.(\d+)gb", profile)
    return float(found[1]) if found else 0.0


def amd(smi: str) -> tuple[list[Gpu], str]:
    """AMD's devices, each a die (GCD), and driver.

    Raises:
        ValueError: the driver's words, where it does not answer.
    """
    said = json.loads(
        "\n".join(_output(smi, "--showproductname", "--showmeminfo", "vram", "--showdriverversion", "--json"))
    )
    cards = [card for name, card in sorted(said.items()) if name.startswith("card")]
    found = []
    for card in cards:
        named = next(
            (str(card[k]) for k in ("Card Series", "Card series", "Card Model", "Card model") if card.get(k)), "AMD"
        )
        found.append(Gpu(named, float(card["VRAM Total Memory (B)"]) / 1e9))
    return found, str(said.get("system", {}).get("Driver version", "?"))


def _output(smi: str, *options: str) -> list[str]:
    done = subprocess.run([smi, *options], capture_output=True, text=True, timeout=60, check=False)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or not lines:
        raise ValueError((done.stderr or done.stdout).strip() or f"exit code {done.returncode}")
    return lines


def _agree(config: RunConfig, found: list[Gpu], version: str) -> Iterable[Finding]:
    """Whether what is there is what the site's file says."""
    site = config.site
    first = found[0]
    yield ok(f"driver {version}: {len(found)} x {first.name}, {first.memory_gb:.0f} GB")
    if len({(g.name, round(g.memory_gb)) for g in found}) > 1:
        names = ", ".join(sorted({f"{g.name} of {g.memory_gb:.0f} GB" for g in found}))
        yield warning(f"GPUs of different kinds: {names}", "placement takes them for alike: ask for one kind")
    if not site.gpu_memory_gb:
        yield warning("site.gpu_memory_gb=0: placement needs it", f"site.gpu_memory_gb={first.memory_gb:.0f}")
    if first.slice:
        yield ok("a slice (MIG) holds what its memory holds, and computes its share of the GPU")
        if site.gpu_memory_gb and not 0.85 <= first.memory_gb / site.gpu_memory_gb <= 1.15:
            yield failure(
                f"site.gpu_memory_gb={site.gpu_memory_gb:g}, the slice has {first.memory_gb:.0f}",
                f"site.gpu_memory_gb={first.memory_gb:.0f}",
            )
        split = [name for name, m in config.models.items() if m.tensor_parallel > 1]
        if split:
            yield failure(
                f"models.{split[0]}.tensor_parallel: slices of a GPU do not reach each other",
                f"models.{split[0]}.tensor_parallel=1",
            )
