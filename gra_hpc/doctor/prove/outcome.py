"""What became of one piece of a proof: ok, failed, or not possible here."""

from __future__ import annotations

from dataclasses import dataclass

from gra_hpc.errors import GraError

OK, FAILED, NOT_HERE = "ok", "failed", "not here"

TITLES = {
    "node": "driver, devices, vLLM",
    "shares": "two engines on one device",
    "speed": "tokens a second",
    "thoughts": "thoughts, then guided JSON",
    "embedder": "a hosted embedder",
    "death": "an engine's death",
    "sleep": "sleep and wake",
    "split": "tensor parallelism",
    "tuning": "fine-tuning in bf16",
}
"""The pieces, in their order."""

BOUNDS = {
    "node": 300,  # `import vllm` from a cold shared file system
    "shares": 300,
    "speed": 240,  # as the next three: where it is tried alone, its engine starts within it
    "thoughts": 240,
    "embedder": 240,
    "death": 300,
    "sleep": 300,
    "split": 240,
    "tuning": 240,
}
"""Longest time of each on GPUs, in seconds; less where the proof's own time ends before."""

CPU_PATIENCE = 3.0
"""On a CPU an engine takes longer to start, and shares its cores with all else: times as long."""


class NotHereError(GraError):
    """A piece that this node, or this environment, has nothing for."""


@dataclass(frozen=True)
class Outcome:
    """One row of the table."""

    piece: str
    state: str
    """ok, failed or not here."""
    what: str
    """What was seen, in one line."""
    then: str = ""
    """The next command, of what is not ok."""
    seconds: float = 0.0
    log: str = ""
    """Where it says more."""
