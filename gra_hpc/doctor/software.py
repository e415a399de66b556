"""Checks of Python, packages, the jobs' interpreter, vLLM and the models."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from gra_hpc import __version__
from gra_hpc.config.settings import EngineKind, ModelConfig, RunConfig
from gra_hpc.config.site import SiteConfig
from gra_hpc.doctor import endpoints
from gra_hpc.doctor.finding import Finding, failure, ok, warning
from gra_hpc.engines import vllm_installed
from gra_hpc.errors import GraError
from gra_hpc.models.files import check_files, model_directory
from gra_hpc.workers import passed

LEAST_PYTHON = (3, 11)
PROBE_S = 300
"""Longest time for `import vllm` from a cold shared file system."""

_VLLM = """import json, time
t = time.monotonic()
import torch, vllm
gpus = [[torch.cuda.get_device_name(i), torch.cuda.get_device_properties(i).total_memory]
        for i in range(torch.cuda.device_count())]
print(json.dumps({"vllm": vllm.__version__, "torch": torch.__version__, "gpus": gpus,
                  "built": torch.version.cuda or getattr(torch.version, "hip", None) or "", "s": time.monotonic() - t}))
"""


def python() -> Iterable[Finding]:
    """The interpreter that runs this."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        yield failure(f"Python {version}", f"use {least} or newer: module avail python, or a conda environment")
    else:
        yield ok(f"Python {version} ({sys.executable}, {platform.machine()}), gra-hpc {__version__}")


def packages(requirements: Iterable[str] | None = None) -> Iterable[Finding]:
    """The package's own requirements, or these (PEP 508)."""
    found: list[str] = []
    for line in metadata.requires("gra-hpc") or [] if requirements is None else requirements:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            have = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            found.append(f"{requirement.name} missing")
            continue
        if not requirement.specifier.contains(have, prereleases=True):
            found.append(f"{requirement.name} {have} (needs {requirement.specifier})")
    if found:
        yield failure(f"packages: {', '.join(found)}", "pip install -e .")
    else:
        yield ok("required packages")


def interpreter(site: SiteConfig) -> Iterable[Finding]:
    """The Python that jobs will use, where it is another one and not inside a container."""
    if not site.python or site.container:
        return
    code = "import gra_hpc; print(gra_hpc.__version__, sys.version.split()[0])"
    try:
        done = _asked(site.python, code, 60)
    except OSError as e:
        yield failure(f"site.python={site.python}: {e.strerror}", "give a Python that login and compute nodes see")
        return
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        yield failure(f"site.python={site.python} cannot import gra_hpc ({last})", f"{site.python} -m pip install -e .")
        return
    theirs = done.stdout.split()[0]
    if theirs != __version__:
        yield failure(
            f"site.python={site.python} has gra-hpc {theirs}, this is {__version__}", "install the same version"
        )
    else:
        yield ok(f"jobs' Python {done.stdout.split()[1]} has gra-hpc {theirs}")


def _asked(interpreter: str, code: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """What another Python says to a few lines; whose directory this is does not matter (an old one has no -P)."""
    safe = "import sys; sys.path = [p for p in sys.path if p.startswith('/')]\n"
    return subprocess.run(
        [interpreter, "-c", safe + code], env=passed(os.environ), stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=timeout_s, check=False,
    )  # fmt: skip


def engine_installed(config: RunConfig) -> Iterable[Finding]:
    """Whether vLLM is there at all: a look at the files, without the half minute of importing it."""
    if config.engine.kind is EngineKind.simulated or config.site.container:
        return
    if _all_elsewhere(config):
        yield ok("every model is an endpoint: vllm is not needed")
        return
    if config.engine.python:
        if os.access(config.engine.python, os.X_OK):
            yield ok(f"engines' Python {config.engine.python}")
            yield from _fits(config)
        else:
            yield failure(f"engine.python={config.engine.python}: not an executable file", "give a Python with vllm")
    elif importlib.util.find_spec("vllm") is None:
        extra = "gpu" if config.site.gpus_per_node else "cpu"
        yield failure("vllm is not installed", f"pip install -e '.[{extra}]'")
    else:
        yield from _fits(config)


def _fits(config: RunConfig) -> Iterable[Finding]:
    """Whether the installed vLLM is new enough, and knows what the models' entries ask of it."""
    python = config.engine.python
    found = vllm_installed.installed(python)
    if found is None:
        yield failure(f"no vllm{f' in {python}' if python else ''}", "pip install vllm there, or another engine.python")
        return
    try:
        for name, model in config.models.items():
            vllm_installed.check(python, model.engine_args, "", name)
    except GraError as e:
        yield failure(e.what, e.then)
        return
    least = ".".join(map(str, vllm_installed.OLDEST))
    yield ok(f"vllm {found.version} is installed ({least} and newer fit)")


def vllm_import(config: RunConfig) -> Iterable[Finding]:
    """Import vLLM in a process of its own, as an engine will, and count the GPUs it sees."""
    if config.engine.kind is EngineKind.simulated:
        yield ok("engines are simulated: vllm is not needed")
        return
    if _all_elsewhere(config):
        yield ok("every model is an endpoint: vllm is not needed")
        return
    found = probe(config)
    yield from [found] if isinstance(found, Finding) else vllm_fits(config, found)


def probe(config: RunConfig) -> dict[str, Any] | Finding:
    """What vLLM and torch of the engines' Python say when they are imported, in a process of its own.

    Returns:
        `vllm`, `torch`, `built` (CUDA's or ROCm's version, or nothing), `gpus` (name and bytes of each) and `s`, the
        seconds it took; or the failure.
    """
    interpreter = config.engine.python or sys.executable
    try:
        done = _asked(interpreter, _VLLM, PROBE_S)
    except subprocess.TimeoutExpired:
        return failure(f"import vllm: not done within {PROBE_S} s", "a slow file system: an environment on another one")
    except OSError as e:
        return failure(f"{interpreter}: {e.strerror}", "engine.python=/path/to/python: one that has vllm")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return failure(f"import vllm: {last}", "see docs/failures.md, or rebuild the environment")
    said: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return said


def vllm_fits(config: RunConfig, found: Mapping[str, Any]) -> Iterable[Finding]:
    """Whether vLLM and torch see what the site's file says."""
    yield ok(f"vllm {found['vllm']} with torch {found['torch']}, imported in {found['s']:.0f} s")
    wanted = config.site.gpus_per_node
    if wanted and not found["built"]:
        yield failure(
            f"torch {found['torch']} is built without CUDA and ROCm ({platform.machine()})",
            "install it from PyTorch's index for this node's driver and processor, or use the site's container",
        )
    elif len(found["gpus"]) < wanted:
        yield failure(
            f"torch sees {len(found['gpus'])} GPUs of {wanted}",
            "the driver is older than torch's CUDA, or --gpus did not reach the job: compare nvidia-smi",
        )
    elif wanted:
        name, memory = found["gpus"][0]
        yield ok(f"torch sees {len(found['gpus'])} x {name}, {memory / 1e9:.0f} GB")
        stated = config.site.gpu_memory_gb
        if not 0.85 * stated <= memory / 1e9 <= 1.15 * stated:
            yield failure(f"site.gpu_memory_gb={stated:g}, the GPU has {memory / 1e9:.0f}", f"set {memory / 1e9:.0f}")


def _all_elsewhere(config: RunConfig) -> bool:
    return bool(config.models) and all(m.endpoint.url for m in config.models.values())


def models(config: RunConfig) -> Iterable[Finding]:
    """Every model of the run and the embedding model: there, whole, readable without a network. No engine loads a model
    that is simulated: as where a run is planned, its directory is enough."""
    loaded = config.engine.kind is EngineKind.vllm
    used = {m.model for m in config.committee.values()} or set(config.models)
    for name in sorted(used):
        if config.models[name].endpoint.url:
            if loaded:
                yield from endpoints.answers(name, config.models[name])
            continue
        yield _model(f"model {name}", config.models[name], config.site.scratch, loaded)
    if config.merge.semantic and config.merge.embed_model:
        entry = ModelConfig(path=config.merge.embed_model)
        try:
            directory = model_directory(entry.path, "", config.site.scratch)
            yield ok(f"embedding model {directory}")
        except GraError as e:
            yield failure(f"embedding {e.what}", e.then)


def _model(label: str, model: ModelConfig, scratch: str, loaded: bool) -> Finding:
    try:
        directory = model_directory(model.path, model.revision, scratch)
        if loaded:
            check_files(directory, model)
    except GraError as e:
        return failure(e.what, e.then)
    if _local(directory):
        return warning(
            f"{label}: {directory} is on a file system of this machine alone", "put it where compute nodes see it"
        )
    return ok(f"{label}: {directory}")


def _local(directory: Path) -> bool:
    from gra_hpc.storage import file_system

    return file_system(directory) in ("tmpfs", "ramfs")
