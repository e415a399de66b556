"""What a proof measured, as the figures that later plans of the site go by.

It knows one small model on an idle node: what a real run measured (`gra calibrate`) stays.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra_hpc.doctor.prove.bench import Bench
from gra_hpc.flows.calls import Answer
from gra_hpc.models.facts import facts_of
from gra_hpc.placement.performance import Need, rate_curve
from gra_hpc.placement.placement import EnginePlace, constants_of
from gra_hpc.placement.workload import ModelLoad, RoleLoad, read_calibration
from gra_hpc.site.calibrate import save
from gra_hpc.storage import read_json


@dataclass(frozen=True)
class Speed:
    """What an engine did in some seconds with nothing else to do."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    batch: float
    """Calls that ran at once, on average."""

    @classmethod
    def of(cls, answers: Sequence[Answer], seconds: float) -> Speed:
        """Of answers that were asked for at once, and were all there after some seconds."""
        return cls(
            calls=len(answers),
            prompt_tokens=sum(a.prompt_tokens for a in answers),
            completion_tokens=sum(a.completion_tokens for a in answers),
            seconds=seconds,
            batch=max(1.0, sum(a.seconds for a in answers) / seconds),
        )

    @property
    def tokens_per_s(self) -> float:
        """Answer tokens."""
        return self.completion_tokens / self.seconds


def modelled(bench: Bench, place: EnginePlace, speed: Speed) -> float:
    """Answer tokens a second by the performance model's own figures, for the same calls as many at once."""
    load = ModelLoad({"generator": RoleLoad(speed.calls, speed.prompt_tokens, speed.completion_tokens)})
    need = Need(bench.name, facts_of(bench.model), load, bench.model.max_model_len)
    constants = constants_of(bench.config, bench.node)
    cores = len(place.devices) if bench.on_cpu else 0
    return rate_curve(need, place.tensor_parallel, constants, cores).answer_tokens_per_s(speed.batch)


def calibration(report: dict[str, Any], site: str, directory: Path) -> dict[str, Any]:
    """A calibration out of a proof's report, as `read_calibration` reads it; empty if nothing was measured."""
    measured = report.get("measured", {})
    performance = {k: measured[k] for k in ("start_s", "swap_s") if k in measured}
    if not performance and "speed" not in measured:
        return {}
    return {
        "method": {},
        "performance": {**performance, "speed": measured.get("speed", {})},
        "from": {
            "proof": str(directory),
            "site": site,
            "host": report["host"],
            "at": round(time.time()),
            "node": report["node"],
            "speeds": measured.get("speeds", {}),
            "models": {},
        },
    }


def keep(found: dict[str, Any], file: Path) -> Path:
    """Save a calibration beside the site's file; what a real run measured there stays."""
    try:
        before = read_json(file)
    except FileNotFoundError:
        before = {}
    if "run" in before.get("from", {}):
        found["from"] = {**found["from"], **before["from"]}
        speeds = {**found["performance"]["speed"], **before["performance"].get("speed", {})}
        found["performance"] = {**found["performance"], **before["performance"], "speed": speeds}
    found["method"] = before.get("method", {})
    save(found, file)
    read_calibration(file)  # what cannot be read is not to be found by the next plan
    return file
