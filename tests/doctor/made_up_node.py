"""A node with made-up GPUs: what its driver and torch would say, and simulated servers in the place of vLLM's."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
H100 = "NVIDIA H100 80GB HBM3"


def simulated_python(directory: Path, gpus: int, refuse: str = "") -> Path:
    """A Python of engines: its vLLM and torch see so many GPUs, its servers are simulated.

    Args:
        refuse: what a server says instead of listening.
    """
    said = {"vllm": "9.9.9", "torch": "9.9", "built": "13.0", "gpus": [[H100, 85e9]] * gpus, "s": 1.0}
    server = f'shift 2; exec {sys.executable} -m tools.simulated.server "$@"'
    if refuse:
        server = f"echo 'ERROR: {refuse}'; exit 1"
    python = directory / "python-simulated"
    python.write_text(
        "#!/bin/sh\n"
        f"export PYTHONPATH={ROOT}\n"
        'case "$1 $2" in\n'
        f"  *'import torch, vllm'*) echo '{json.dumps(said)}' ;;\n"
        f"  -m*) {server} ;;\n"
        "esac\n"
    )
    python.chmod(0o755)
    return python


def simulated_driver(directory: Path, gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in the place of nvidia-smi."""
    tool = directory / "nvidia-smi"
    line = f"echo '{H100}, 81559, 570.1'\n"
    tool.write_text(f'#!/bin/sh\ncase "$*" in\n  *--query-gpu*)\n{line * gpus};;\n  *) echo "GPU 0: {H100}" ;;\nesac\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{Path(sys.executable).parent}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus))))
