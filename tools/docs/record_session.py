#!/usr/bin/env python3
"""docs/session.md: a session at a login node, recorded on the test cluster (real Slurm, four nodes on this host).

    python tools/docs/record_session.py [OUTPUT]       needs root and Slurm's daemons, as tests/cluster does

Every command is run as it is printed, in a directory of its own; only this machine's paths and name are replaced. The
engine is the simulated one, made slow, so that there is something to see.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gra_hpc.errors import GraError
from gra_hpc.run.directory import RunDir
from gra_hpc.run.run import Run
from gra_hpc.views.status import collect

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "mini_slurm.sh"
SHOWN_DIR, SHOWN_HOST, SHOWN_ROOT = "/scratch/you", "login1", "/home/you/gra-hpc"

HEAD = """\
# A recorded session

<!-- Written by tools/docs/record_session.py. Do not edit: run it again. -->

What a first session looks like, from the site file to a finished run that was cancelled on the way. Recorded on the
test cluster of this repository: real Slurm 22.05, four nodes (on one host) with eight made-up GPUs each. The answers
come from the simulated engine (`engine.kind=simulated`), slowed down so that there is something to see; paths and the
host's name are replaced.
"""

PRESET = """\
# The demo's seeds and committee; answers made up, each after {latency} s.
include: [demo]
engine: {{kind: simulated, simulated_latency_s: {latency}}}
merge: {{semantic: false}}
launch: {{shards: 4, window: 4, heartbeat_s: 1}}
"""


@contextmanager
def cluster(directory: Path) -> Iterator[dict[str, str]]:
    """The test cluster; its environment."""
    knobs = {**os.environ, "MS_ACCT": "1", "MS_PORT": os.environ.get("MS_PORT", "31500"), "MS_GRACE": "10"}
    subprocess.run(["bash", TOOL, "start", directory, "4", "8"], env=knobs, check=True, timeout=180)
    try:
        conf = {"SLURM_CONF": str(directory / "etc" / "slurm.conf")}
        yield {**os.environ, **conf, "PATH": f"{directory / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin"}
    finally:
        subprocess.run(["bash", TOOL, "stop", directory], env=knobs, check=False, timeout=180)


class Session:
    """A terminal: runs commands, keeps what they print."""

    def __init__(self, directory: Path, env: dict[str, str]) -> None:
        self.directory, self.env = directory, {**env, "COLUMNS": "80"}
        self.env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
        self.lines: list[str] = [HEAD]

    def say(self, text: str) -> None:
        """A paragraph between two commands."""
        self.lines.append(f"\n{text}\n")

    def type(self, command: str, code: int = 0) -> None:
        """Run a command and keep it with its output.

        Raises:
            GraError: another exit code than expected.
        """
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.directory, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
        )  # fmt: skip
        if done.returncode != code:
            raise GraError(f"{command}: exit code {done.returncode}\n{done.stdout}")
        output = "\n".join(line.rstrip() for line in self._hide(done.stdout).rstrip().splitlines())
        self.lines.append(f"```console\n$ {self._hide(command)}\n{output}\n```")
        print(f"$ {command}", flush=True)

    def _hide(self, text: str) -> str:
        for ours, shown in ((str(self.directory), SHOWN_DIR), (str(ROOT), SHOWN_ROOT)):
            text = text.replace(ours, shown)
        return re.sub(rf"\b{re.escape(socket.gethostname())}\b", SHOWN_HOST, text)

    def wait(self, what: Callable[[], bool], seconds: float = 240) -> None:
        """Until something has happened."""
        deadline = time.monotonic() + seconds
        while not what():
            if time.monotonic() > deadline:
                raise GraError("the session does not get on: nothing happened in time")
            time.sleep(0.5)


def record(session: Session) -> None:
    """The session."""
    run = RunDir(session.directory / "runs" / "first")

    def states(round_: int) -> dict[str, int]:
        for key in ("SLURM_CONF", "PATH"):
            os.environ[key] = session.env[key]
        return next((r.states for r in collect(Run.to_look_at(run.path)).rounds if r.round == round_), {})

    session.say("Slurm knows most of a site file already:")
    session.type("gra site detect")
    site = session.directory / "configs" / "sites" / "mini.yaml"
    text = site.read_text(encoding="utf-8").replace("gpu_memory_gb: 0.0", "gpu_memory_gb: 80")
    text = re.sub(r"cpus_per_gpu: \d+", "cpus_per_task: 1", text)
    site.write_text(re.sub(r"memory_per_gpu_gb: \d+", "memory_gb: 1", text), encoding="utf-8")
    session.say(
        "The file has a comment per line. Here `gpu_memory_gb` was filled in, which these made-up GPUs do not tell, and"
        " CPUs and memory were lowered by hand. What the doctor says, here and on a compute node:"
    )
    session.type("gra doctor mini --preset first.yaml --job")
    session.say("The plan: nothing is submitted yet.")
    session.type("gra plan runs/first --preset first.yaml --site mini")
    session.type("gra submit runs/first")
    session.wait(lambda: states(1).get("running", 0) >= 2)
    time.sleep(8)
    session.type("gra status runs/first")
    session.say("A second thought: everything of this run is cancelled, and nothing else.")
    session.type("gra cancel runs/first")
    session.wait(lambda: "running" not in states(1))
    session.type("gra status runs/first")
    session.say("Later it goes on where it was: answered calls are replayed from the journals, not asked again.")
    session.type("gra resume runs/first engine.simulated_latency_s=0.05")
    session.type("gra status runs/first --watch")
    session.wait(lambda: (run.release / "manifest.json").exists())
    session.type("gra logs runs/first 0 -n 4")
    session.type("gra inspect runs/first | head -n 20")
    session.type("gra clean runs/first")


def main() -> None:
    """Record and write."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "session.md"
    base = Path(tempfile.mkdtemp(prefix="gra-rec-", dir="/tmp"))
    try:
        base.chmod(0o755)
        with cluster(base / "c") as env:
            directory = base / "you"
            (directory / "configs").mkdir(parents=True)
            (directory / "models").symlink_to(ROOT / "models")
            (directory / "first.yaml").write_text(PRESET.format(latency=1.0), encoding="utf-8")
            session = Session(directory, env)
            record(session)
        target.write_text("\n".join(session.lines) + "\n", encoding="utf-8")
        print(f"wrote {target}")
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
