#!/usr/bin/env python3
"""Times of `gra submit` and `gra status` on runs of many shards, as a person at a login node has them.

    python tools/bench/operation.py status --shards 1000          files alone
    python tools/bench/operation.py status --shards 1000 --slurm  and one squeue, on the cluster of SLURM_CONF
    python tools/bench/operation.py submit --tasks 10000          held jobs on the cluster of SLURM_CONF, then cancelled
    python tools/bench/operation.py manifests --shards 20000      what a merge does with manifests alone

The runs are fabricated: one shard is computed by the simulated engine, its manifest is copied for the published ones,
and heartbeats are written for those that run. Nothing is measured but the command itself, as a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gra_hpc.launch.tasks import ShardTask
from gra_hpc.merge.collect import published
from gra_hpc.run.attempts import Heartbeat
from gra_hpc.run.directory import RunDir
from gra_hpc.run.run import Run
from gra_hpc.run.shard_manifest import ShardManifest
from gra_hpc.storage import read_json, to_json

GRA = [sys.executable, "-m", "gra_hpc.cli"]


def plan(path: Path, shards: int, model: Path, *overrides: str) -> Run:
    """A run with as many seeds as shards."""
    seeds = path.with_suffix(".jsonl")
    row = {"response": "Yes.", "domain": "qa", "keywords": ["words"], "summary": "A question."}
    seeds.write_text(
        "".join(json.dumps({"instruction": f"Is {n} a number?", **row}) + "\n" for n in range(shards)), encoding="utf-8"
    )
    preset = path.with_suffix(".yaml")
    preset.write_text(
        f"seeds: {{path: {seeds}}}\n"
        f"models: {{tiny: {{path: {model}, load_format: dummy}}}}\n"
        "committee: {a: {model: tiny}, b: {model: tiny}, c: {model: tiny}}\n"
        f"merge: {{semantic: false}}\nengine: {{kind: simulated}}\nlaunch: {{shards: {shards}}}\n",
        encoding="utf-8",
    )
    command = [*GRA, "plan", str(path), "--preset", str(preset), *overrides]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return RunDir.existing(path)


def populate(run: Run, shards: int) -> None:
    """Half of the shards published, a third running, some failed, the rest never started."""
    ShardTask(str(run.path), 1, 0)()
    manifest: dict[str, Any] = read_json(run.round(1).shard(0).manifest)
    for n in range(1, shards):
        shard = run.round(1).shard(n)
        kind = n % 6
        if kind in (0, 1, 2):
            shard.path.mkdir(parents=True)
            shard.manifest.write_bytes(to_json(manifest | {"shard": n}))
        elif kind in (3, 4):
            attempt = shard.attempt(f"20250101T000000-77_{n}.0-abcd")
            attempt.path.mkdir(parents=True)
            beat = Heartbeat(attempt.id, n, 1, planned=1, job=f"77_{n}", phase="running", calls=5)
            if n % 50 == 3:
                beat.phase, beat.message = ("failed", f"engine tiny-0 does not start: no GPU {n % 8} -> gra doctor")
            beat.write(attempt)


def read_manifests(run: Run, shards: int, times: int) -> tuple[int, list[float]]:
    """How many are published of some shards, and CPU seconds to find and read their manifests, several times."""
    cpu = []
    for _ in range(times):
        before = time.process_time()
        there, _foreign = published(run, 1, shards)
        for shard in there:
            ShardManifest.load(shard)
        cpu.append(round(time.process_time() - before, 2))
    return len(there), sorted(cpu)


def timed(words: list[str], times: int) -> tuple[list[float], list[float], str]:
    """Seconds and CPU seconds of a command, several times, and its last output."""
    seconds, cpu, text = [], [], ""
    for _ in range(times):
        begin, before = time.perf_counter(), _cpu()
        done = subprocess.run([*GRA, *words], capture_output=True, text=True, check=True)
        seconds.append(round(time.perf_counter() - begin, 2))
        cpu.append(round(_cpu() - before, 2))
        text = done.stdout
    return sorted(seconds), sorted(cpu), text


def _cpu() -> float:
    """CPU seconds of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["status", "submit", "manifests"])
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--slurm", action="store_true", help="the run was submitted: ask Slurm too")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--largest", type=int, default=0, help="largest array; the cluster's if left out")
    parser.add_argument("--model", type=Path, default=Path("models/tiny-llama"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gra-bench-") as base:
        path = Path(base) / "run"
        slurm = ("site.executor=slurm", "site.sbatch={hold: true}", f"site.max_array_size={args.largest}")
        if args.what == "submit":
            plan(path, args.tasks, args.model.absolute(), *slurm)
            seconds, cpu, text = timed(["submit", str(path)], 1)
            arrays = text.count(": array ")
            subprocess.run([*GRA, "cancel", str(path)], check=True, stdout=subprocess.DEVNULL)
            result = {"tasks": args.tasks, "arrays": arrays, "submit_s": seconds, "cpu_s": cpu}
        elif args.what == "manifests":
            run = plan(path, args.shards, args.model.absolute())
            populate(run, args.shards)
            there, cpu = read_manifests(run, args.shards, args.times)
            result = {"shards": args.shards, "published": there, "cpu_s": cpu}
        else:
            run = plan(path, args.shards, args.model.absolute(), *(slurm if args.slurm else ()))
            populate(run, args.shards)
            if args.slurm:
                subprocess.run([*GRA, "resume", str(path)], check=True, stdout=subprocess.DEVNULL)
            seconds, cpu, _ = timed(["status", str(path)], args.times)
            if args.slurm:
                subprocess.run([*GRA, "cancel", str(path)], check=True, stdout=subprocess.DEVNULL)
            result = {"shards": args.shards, "slurm": args.slurm, "status_s": seconds, "cpu_s": cpu}
    print(json.dumps(result | {"load": round(os.getloadavg()[0], 1)}))


if __name__ == "__main__":
    main()
