"""The kinds of GPU that clusters have, and a core: one table of their makers' figures, found by what a site names them.

Dense 16-bit tensor operations (FP16 before Ampere; of consumer cards those that add up in 32 bits, half of what is
advertised), memory bandwidth, NVLink (or the like) per direction. From the makers' data sheets and white papers; what
was written from memory was compared with what others print of them:
https://tech4gamers.com/nvidia-tesla-p100-will-be-available-in-two-variants-of-16gb-12gb-hbm2 (P100),
https://waredb.com/processor/nvidia-geforce-rtx-4090 (4090), https://hmc-tech.com/gpu/nvidia-a40-vs-nvidia-t4 (A40, T4,
L4, L40S), http://3dfxzone.it/mobile/news/reader.php?objid=28580 (2080, 2080 Ti),
https://rocm.docs.amd.com/en/latest/reference/gpu-arch/mi250.html (MI250), https://apps.fz-juelich.de/jsc/hps/jupiter
(GH200).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace


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
        # Its host link is NVLink-C2C, 450 GB/s each way by its maker: half of that is assumed, nothing was measured.
        Device("gh200", 96, 989, 4000, 450, 10, 225),
        Device("h200", 141, 989, 4800, 450, 10, 50),
        Device("h100", 80, 989, 3350, 450, 10, 50),
        Device("a100", 40, 312, 2039, 300, 12, 22),
        Device("a100-40", 40, 312, 1555, 300, 12, 22),
        Device("mi325", 256, 1307, 6000, 448, 15, 50),
        Device("mi300", 128, 981, 5300, 128, 15, 50),  # MI300A: six of MI300X's eight dies; its links were not checked
        Device("mi300x", 192, 1307, 5300, 448, 15, 50),
        # One die (GCD) of two: Slurm and torch count dies. Its slowest way to another die is one link of 50 GB/s.
        Device("mi250", 64, 181, 1638, 50, 15, 22),
        Device("mi250x", 64, 191, 1638, 50, 15, 22),
        Device("l40s", 48, 362, 864, 25, 30, 22),
        Device("l40", 48, 181, 864, 25, 30, 22),
        Device("a6000", 48, 155, 768, 25, 30, 22),
        Device("a40", 48, 150, 696, 25, 30, 22),
        Device("v100", 16, 125, 900, 150, 15, 11),
        Device("p100", 12, 19, 549, 12, 30, 11),  # the smallest: on PCIe
        Device("p100-16", 16, 21, 732, 80, 15, 11),
        Device("a30", 24, 165, 933, 25, 30, 22),
        Device("a10", 24, 125, 600, 25, 30, 22),
        Device("l4", 24, 121, 300, 12, 30, 11),
        Device("4090", 24, 165, 1008, 25, 30, 22),
        Device("3090", 24, 71, 936, 25, 30, 22),
        Device("2080", 8, 40, 448, 12, 30, 11),
        Device("2080ti", 11, 54, 616, 12, 30, 11),
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
    text = re.sub(r"(?<=\d)[ -]ti(?![a-z])", "ti", text.lower().replace("_", "-"))
    found = [d for d in DEVICES if re.search(rf"(?<![a-z0-9])(?:{_MAKERS})*{d}(?!\d)", text)]
    return DEVICES[max(found, key=len)] if found else None


def _slice(whole: Device, sevenths: int, memory_gb: float) -> Device:
    """A part of a GPU (MIG): its share of computing and of the memory's bandwidth, and no way to another part."""
    share = min(1.0, memory_gb / max(whole.memory_gb, memory_gb * 7 / sevenths))
    return replace(
        whole,
        name=f"{whole.name} {sevenths}g.{memory_gb:g}gb",
        memory_gb=memory_gb,
        tflops=whole.tflops * sevenths / 7,
        bandwidth_gbs=whole.bandwidth_gbs * share,
        link_gbs=0.01,  # nothing is split over slices
        host_gbs=whole.host_gbs * sevenths / 7,
    )


def like(text: str, memory_gb: float) -> Device:
    """The kind of GPU that a text names, else the one that its memory is most like."""
    device = named(text)
    if device and (part := re.search(r"(\d)g\.(\d+)gb", text.lower())):
        return _slice(device, int(part[1]), float(part[2]))
    if device is None:
        return DEVICES[next((d for least, d in _GUESSES if memory_gb >= least), "t4")]
    if device.name == "p100" and memory_gb > 14:
        return DEVICES["p100-16"]
    return DEVICES["a100-40"] if device.name == "a100" and memory_gb < 50 else device
