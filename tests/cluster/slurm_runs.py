"""Small simulated runs on the test cluster, and what became of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from gra_hpc.launch.slurm import Task
from gra_hpc.launch.submissions import Job, live, load_all
from gra_hpc.run.attempts import Heartbeat
from gra_hpc.run.publish import is_published
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json
from tools.faults.faults import check_shard, journals, make_run, release_of, undisturbed

SHARDS, SEEDS = 4, 8
SITE = ("site.executor=slurm", "site.name=mini", "site.partition=low", "site.time_minutes=30", "launch.heartbeat_s=0.5")


class SlurmRun:
    """A run on a cluster: the commands a person types, and looks at its files and at the queue."""

    def __init__(self, cluster: Any, run: Run, reference: Run) -> None:
        self.cluster, self.run, self.reference = cluster, run, reference
        self.shards = [run.round(1).shard(n) for n in range(len(list(reference.round(1).shards.iterdir())))]

    def gra(self, *words: object, code: int = 0, timeout: float = 240) -> str:
        """Run a command on the login node; what it printed."""
        done = self.start_gra(*words)
        out, _ = done.communicate(timeout=timeout)
        assert done.returncode == code, out
        return out

    def start_gra(self, *words: object) -> subprocess.Popen[str]:
        """Start a command, with stdout and stderr together."""
        return subprocess.Popen(
            [sys.executable, "-m", "gra_hpc.cli", *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **self.cluster.env},
        )

    def submit(self) -> str:
        return self.gra("submit", self.run.path)

    def resume(self, *overrides: str) -> str:
        return self.gra("resume", self.run.path, *overrides)

    def quick(self) -> None:
        """Attempts that start from now on need no time for a call (placement may change at any moment)."""
        Run.open(self.run.path, ["engine.simulated_latency_s=0"]).save()

    def queue(self) -> list[tuple[Job, Task]]:
        """Tasks that wait or run, as the submissions know them (needs the cluster's environment in this process)."""
        return live(self.run)

    def jobs(self) -> list[Job]:
        """Everything that was ever handed to Slurm."""
        return [job for submission in load_all(self.run).values() for job in submission.jobs]

    def answers(self, shard: int) -> int:
        """Calls in the journals of a shard."""
        return len(set().union(set(), *journals(self.shards[shard]).values()))

    def published(self) -> list[int]:
        return [s.number for s in self.shards if is_published(s)]

    def wait(self, what: Any, timeout: float = 180) -> None:
        """Until something holds; what is printed while it does not is the queue and the logs' ends."""
        self.cluster.wait_until(
            what, timeout,
            lambda: f"{self.cluster.run('squeue', '-r', '-t', 'all', check=False)}\npublished: {self.published()}\n"
            f"{self.logs()}",
        )  # fmt: skip

    def logs(self) -> str:
        """The ends of the jobs' own logs."""
        found = sorted(self.run.logs.glob("*/*_log.out"))
        return "\n".join(f"== {f.name}: {f.read_text(errors='replace')[-700:]}" for f in found)

    def wait_release(self, timeout: float = 240) -> None:
        """Until the release is there and the queue is empty of this run."""
        self.wait(lambda: not self.queue(), timeout)
        assert (self.run.release / "manifest.json").is_file(), self.logs()

    def beats(self, shard: int) -> list[Heartbeat]:
        """Heartbeats of a shard's attempts, oldest first."""
        directory = self.shards[shard]
        names = sorted(p.name for p in directory.attempts.glob("*"))
        return [b for n in names if (b := Heartbeat.read(directory.attempt(n)))]

    def attempts(self, shard: int) -> list[dict[str, Any]]:
        """What the manifest of a published shard says about its attempts."""
        return list(read_json(self.shards[shard].manifest)["attempts"])

    def check(self) -> None:
        """All shards and the release equal those of an undisturbed run."""
        for shard in self.shards:
            check_shard(shard, self.reference.round(1).shard(shard.number))
        assert release_of(self.run) == release_of(self.reference)


def planned(cluster: Any, path: Path, reference: Run, *overrides: str) -> SlurmRun:
    """A planned run over the seeds of the reference."""
    seeds = len((reference.path.parent / f"seeds-{SEEDS}.jsonl").read_text().splitlines())
    run = make_run(path, seeds, [f"launch.shards={SHARDS}", *SITE, *overrides])
    return SlurmRun(cluster, run, reference)


def made_reference(path: Path) -> Run:
    """The same run, made in this process without a fault."""
    return undisturbed(make_run(path, SEEDS, [f"launch.shards={SHARDS}"]))
