"""The kinds of GPU that clusters have, and a core: one table of their makers' figures, found by what a site names them.

Dense 16-bit tensor operations (FP16 before Ampere), memory bandwidth, NVLink (or the like) per direction.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """Public figures of a device; of one core for a CPU."""

    name: str
    memory_gb: float
    """Of the smallest variant sold under the name."""
    tflops: float
    """Dense 16-bit tensor operations, in 10^12 a second."""
    bandwidth_gbs: float
    """Memory bandwidth, in GB a second."""
    link_gbs: float
    """Between two devices of a node, one direction, in GB a second (NVLink, else PCIe)."""
    link_latency_us: float
    """One all-reduce of a small tensor, in microseconds."""
    host_gbs: float
    """Between device and host memory, in GB a second (PCIe, pinned memory, what is reached in practice)."""


DEVICES = {
    d.name: d
    for d in (
        Device("b200", 180, 2250, 8000, 900, 10, 50),
        Device("gh200", 96, 989, 4000, 450, 10, 50),
        Device("h200", 141, 989, 4800, 450, 10, 50),
        Device("h100", 80, 989, 3350, 450, 10, 50),
        Device("a100", 40, 312, 2039, 300, 12, 22),
        Device("a100-40", 40, 312, 1555, 300, 12, 22),
        Device("mi300", 192, 1307, 5300, 448, 15, 50),
        Device("mi250", 64, 191, 1638, 100, 15, 22),
        Device("l40s", 48, 362, 864, 25, 30, 22),
        Device("l40", 48, 181, 864, 25, 30, 22),
        Device("a6000", 48, 155, 768, 25, 30, 22),
        Device("a40", 48, 150, 696, 25, 30, 22),
        Device("v100", 16, 125, 900, 150, 15, 11),
        Device("p100", 16, 21, 732, 80, 15, 11),
        Device("a30", 24, 165, 933, 25, 30, 22),
        Device("a10", 24, 125, 600, 25, 30, 22),
        Device("l4", 24, 121, 300, 12, 30, 11),
        Device("4090", 24, 165, 1008, 25, 30, 22),
        Device("3090", 24, 71, 936, 25, 30, 22),
        Device("2080", 11, 54, 616, 12, 30, 11),
        Device("t4", 16, 65, 320, 11, 40, 11),
    )
}
CORE = Device("cpu", 0, 0.11, 10.0, 5.0, 500, 5.0)
"""Measured: SmolLM2-135M in vLLM on two cores, 20 ms a step at batch 1 and 98 ms at batch 64."""

_MAKERS = "nvidia|tesla|quadro|geforce|rtx|gtx|amd|instinct"
_GUESSES = (
    (150, "b200"), (100, "h200"), (90, "h100"), (60, "a100"), (44, "l40s"), (36, "a100-40"), (28, "v100"), (20, "a10"),
)  # fmt: skip
"""From so many GB on, a device that nobody names is taken for this one; below them for a t4."""


def named(text: str) -> Device | None:
    """The kind of GPU that a text names (as Slurm, nvidia-smi or a node's features do), if it names one."""
    text = text.lower().replace("_", "-")
    found = [d for d in DEVICES if re.search(rf"(?<![a-z0-9])(?:{_MAKERS})*{d}(?!\d)", text)]
    return DEVICES[max(found, key=len)] if found else None


def like(text: str, memory_gb: float) -> Device:
    """The kind of GPU that a text names, else the one that its memory is most like."""
    device = named(text)
    if device is None:
        return DEVICES[next((d for least, d in _GUESSES if memory_gb >= least), "t4")]
    return DEVICES["a100-40"] if device.name == "a100" and memory_gb < 50 else device
