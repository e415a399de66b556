"""Small simulated runs for the cluster, and `gra` as a person types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def gra(*args: object, code: int = 0, timeout: float = 120, cwd: Path = ROOT) -> str:
    """Run `gra`; stdout and stderr together."""
    done = subprocess.run(
        [sys.executable, "-m", "gra_hpc.cli", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )
    text = done.stdout + done.stderr
    assert done.returncode == code, text
    return text


def planned(path: Path, model: Path, *overrides: str) -> Path:
    """A planned run with the simulated engine, two shards, no round 0, jobs that start at once."""
    seeds = path.with_name(f"{path.name}-seeds.jsonl")
    rows = [
        {
            "instruction": f"Name {n} towns on a river.",
            "response": f"{n} towns.",
            "domain": "qa",
            "keywords": ["towns", "rivers"],
            "summary": "Towns on a river.",
        }
        for n in range(2, 10)
    ]
    seeds.write_text("".join(json.dumps(r) + "\n" for r in rows))
    preset = path.with_name(f"{path.name}.yaml")
    preset.write_text(
        f"seeds: {{path: {seeds}}}\n"
        f"models: {{tiny: {{path: {model}, load_format: dummy}}}}\n"
        "committee: {a: {model: tiny}, b: {model: tiny}, c: {model: tiny}}\n"
        "merge: {semantic: false}\n"
        "engine: {kind: simulated}\n"
        "launch: {shards: 2, heartbeat_s: 0.5, window: 1}\n"
        "site: {name: mini, executor: slurm, partition: low, time_minutes: 30}\n"
    )
    gra("plan", path, "--preset", preset, *overrides)
    return path


def status(run: Path) -> dict[str, Any]:
    return json.loads(gra("status", run, "--json"))
