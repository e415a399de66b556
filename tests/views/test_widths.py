"""What every command prints fits 80 and 120 columns, on a terminal and in a pipe; only single words are longer."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tools.faults.faults import make_run, undisturbed

TYPED_MOST = (
    "--help", "--version", "status --help", "status runs", "status done", "status done --shards", "status half",
    "status half --shards", "status done --watch", "logs half", "clean done", "resume done", "site show",
    "flow list", "audit done --sample 500", "decide done --sweep",
)  # fmt: skip
THE_REST = (
    "plan --help", "experiment --help", "experiment rows mini", "inspect done", "inspect done --worst 3", "merge half",
    "release verify done",
    "plan runs/new --preset done.preset.yaml site.executor=slurm site.gpus_per_node=4 site.account=some-account",
    "release export done --format chat --to chat", "doctor --preset done.preset.yaml", "config show",
    "config show --preset finetune/paper", "site show perlmutter", "decide done accept_mean=7 --to again-NEW",
)  # fmt: skip
FAIL = {"logs half", "merge half"}
DRIVER = """
import fcntl, os, struct, sys, termios
from gra_hpc import cli

terminal, commands = sys.argv[1] == "terminal", sys.argv[2].splitlines()
for width in (80, 120):
    if terminal:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    else:
        os.environ["COLUMNS"] = str(width)
    for command in commands:
        print(f"@@@ {width} {command}", flush=True)
        sys.argv = ["gra", *command.replace("NEW", f"{width}-{terminal}").split()]
        try:
            cli.main()
        except SystemExit:
            pass
        sys.stdout.flush()
"""
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """A directory with a finished run, and one of which half is published."""
    from gra_hpc.run.worker import run_shard

    here = tmp_path_factory.mktemp("widths")
    undisturbed(make_run(here / "done", 6, ["launch.shards=2"]))
    half = make_run(here / "half", 6, ["launch.shards=4", "method.rounds=2"])
    for shard in (0, 3):
        run_shard(half, 1, shard)
    (here / "runs").mkdir()
    for name in ("done", "half"):
        (here / "runs" / name).symlink_to(here / name)
    return here


def on_a_terminal(words: list[str], cwd: Path, env: dict[str, str]) -> str:
    """What a command prints on one."""
    ours, theirs = pty.openpty()
    out: list[bytes] = []

    def read() -> None:
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:
                return
            out.append(data)

    reader = threading.Thread(target=read)
    with subprocess.Popen(words, cwd=cwd, env=env, stdin=theirs, stdout=theirs, stderr=subprocess.STDOUT) as process:
        os.close(theirs)
        reader.start()
        assert process.wait(timeout=120) == 0, b"".join(out).decode()[-2000:]
    reader.join()
    os.close(ours)
    return ESCAPES.sub("", b"".join(out).decode().replace("\r\n", "\n"))


@pytest.mark.parametrize("where", ["terminal", "pipe"])
@pytest.mark.parametrize("commands", [TYPED_MOST, pytest.param(THE_REST, marks=pytest.mark.slow)], ids=["most", "rest"])
def test_every_line_fits(place: Path, commands: tuple[str, ...], where: str) -> None:
    words = [sys.executable, "-c", DRIVER, where, "\n".join(commands)]
    env = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    if where == "terminal":
        said = on_a_terminal(words, place, env)
    else:
        done = subprocess.run(
            words, cwd=place, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120
        )
        assert not done.returncode, done.stdout
        said = done.stdout
    seen: set[tuple[int, str]] = set()
    failed: set[str] = set()
    wide, command, width = [], "", 0
    for line in said.splitlines():
        if line.startswith("@@@ "):
            _, columns, command = line.split(" ", 2)
            width = int(columns)
            continue
        seen.add((width, command))
        if line.startswith("gra: "):  # an error is one line
            failed.add(command)
            continue
        verbatim = line.strip().startswith(("next: ", "then: gra ", "gra ")) or re.match(
            r" {4}(?:#SBATCH|srun|export|\S+ -m)", line
        )
        if len(line) > width and " " in line.strip(" #") and not verbatim:
            wide.append(f"{width} {command}: {line}")
    assert not wide, "\n".join(wide)
    assert seen == {(width, c) for width in (80, 120) for c in commands}
    assert failed == FAIL & set(commands)
