"""Where each engine runs: devices, tensor parallel size, memory, and whether engines take turns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EnginePlace:
    """One engine process: one replica of one model."""

    model: str
    """Name of an entry in `models`."""
    replica: int
    devices: tuple[int, ...]
    """GPU indices; on a CPU node, indices of the cores its threads are bound to."""
    tensor_parallel: int = 1
    memory_fraction: float = 0.9
    """Share of each device's memory this engine may take (vLLM's gpu_memory_utilization); unused on a CPU."""
    kv_cache_bytes: int = 0
    """KV cache of the replica, in bytes per device; 0: what the memory fraction leaves."""
    turn: int = 0
    """Engines with the same turn are awake together; all 0 when nobody takes turns."""

    @property
    def name(self) -> str:
        return f"{self.model}-{self.replica}"


@dataclass(frozen=True)
class Placement:
    """All engines of one node."""

    engines: tuple[EnginePlace, ...]
    kind: str
    """gpu or cpu."""

    @property
    def takes_turns(self) -> bool:
        return len({e.turn for e in self.engines}) > 1
