"""Shared nodes: what another user can see or do, where secrets go, and text that is not a command."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from gra_hpc.config import presets
from gra_hpc.config.settings import EngineConfig, ModelConfig, RunConfig
from gra_hpc.config.site import SiteConfig
from gra_hpc.engines.leftovers import claim_cache, private_directory
from gra_hpc.engines.node import Node
from gra_hpc.errors import ConfigError
from gra_hpc.flows.calls import Request, Sampling
from gra_hpc.launch.arrays import sbatch_text
from gra_hpc.placement.placement import EnginePlace, Placement
from gra_hpc.run.directory import RunDir
from tools.simulated.server import launcher

ROOT = Path(__file__).resolve().parent.parent
SECRETS = {"HF_TOKEN": "hf_S3cretS3cretS3cret", "WANDB_API_KEY": "wandbS3cret", "AWS_SECRET_ACCESS_KEY": "awsS3cret"}
OTHER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]

other_user = pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("setpriv"), reason="only root can play another user"
)


def as_other(*words: object, code: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command, or Python code, as nobody."""
    args = [sys.executable, "-I", "-S", "-c", code, *map(str, words)] if code else list(map(str, words))
    return subprocess.run([*OTHER, *args], capture_output=True, text=True, timeout=240, cwd="/", check=False)


def gra(*args: object, umask: int = 0o022, code: int = 0, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "gra_hpc.cli", *map(str, args)],
        capture_output=True, text=True, timeout=240, cwd=ROOT, umask=umask, env={**os.environ, **env},
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def preset(tmp_path: Path, tiny_llama: Path) -> Path:
    """Four seeds, the simulated engine, one local shard."""
    rows = [
        {"instruction": f"Count to {n}.", "response": "1, 2, ...", "domain": "math", "keywords": ["numbers"],
         "summary": "Counting."}
        for n in range(3, 7)
    ]  # fmt: skip
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    path = tmp_path / "preset.yaml"
    path.write_text(
        f"seeds: {{path: {tmp_path / 'seeds.jsonl'}}}\n"
        f"models: {{tiny: {{path: {tiny_llama}, load_format: dummy}}}}\n"
        "committee: {a: {model: tiny}, b: {model: tiny}, c: {model: tiny}}\n"
        "merge: {semantic: false}\nengine: {kind: simulated}\n"
    )
    return path


@pytest.fixture
def open_dir(short_dir: Path) -> Iterator[Path]:
    """A short directory that everybody may enter, as /tmp and node-local disks are."""
    short_dir.chmod(0o1777)
    yield short_dir


@other_user
def test_another_user_reaches_no_engine(open_dir: Path) -> None:
    """Its socket can be neither connected to, nor listed, nor replaced; its logs follow the umask."""
    placement = Placement((EnginePlace("m", 0, ()),), "cpu")
    models = {"m": ModelConfig(path="m", max_model_len=512)}
    reach = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "try: s.connect(sys.argv[1]); print('IN')\n"
        "except OSError as e: print(type(e).__name__)\n"
    )

    async def scene() -> None:
        async with Node(
            models, placement, EngineConfig(start_timeout_s=60), open_dir, open_dir / "logs", launcher()
        ) as node:
            messages = ({"role": "user", "content": "hello"},)
            answer = await node.ask(Request("m", "i", messages, Sampling(0.2, 0.9, 16, 0)))
            assert answer.text
            (private,) = [p for p in open_dir.iterdir() if p.name.startswith("gra-0-")]
            sockets = [p for p in private.rglob("*") if stat.S_ISSOCK(p.stat().st_mode)]
            assert sockets
            for path in private.rglob("*"):
                if path.is_dir():
                    assert path.stat().st_mode & 0o777 == 0o700, path
            for path in sockets:
                done = await asyncio.to_thread(as_other, path, code=reach)
                assert done.stdout.strip() == "PermissionError", done
            assert (await asyncio.to_thread(as_other, "ls", private)).returncode != 0
            assert (await asyncio.to_thread(as_other, "touch", private / "x")).returncode != 0
            # nor over TCP: what listens for the engine listens in a network of its own, or not at all
            listening = await asyncio.to_thread(_listening_tcp)
            assert not {p for pids in listening.values() for p in pids} & set(_below(private))

    asyncio.run(scene())


def _below(directory: Path) -> list[int]:
    """Processes with a directory in their command line."""
    found = []
    for p in Path("/proc").iterdir():
        try:
            if p.name.isdigit() and str(directory).encode() in (p / "cmdline").read_bytes():
                found.append(int(p.name))
        except OSError:
            continue
    return found


def _listening_tcp() -> dict[str, list[int]]:
    """Processes that listen on TCP in this network namespace, by address."""
    import psutil

    found: dict[str, list[int]] = {}
    for c in psutil.net_connections("tcp"):
        if c.status == psutil.CONN_LISTEN and c.pid:
            found.setdefault(f"{c.laddr.ip}:{c.laddr.port}", []).append(c.pid)
    return found


@other_user
@pytest.mark.parametrize(
    "trap", [("mkdir",), ("mkdir", "-m", "777"), ("touch",), ("ln", "-s", "/"), ("ln", "-s", "/nowhere"), ("mkfifo",)]
)
def test_another_user_cannot_lay_traps(open_dir: Path, trap: tuple[str, ...]) -> None:
    """Directories of foreseeable names hold code and weights that are loaded later. Where somebody else has the name,
    another one is used, and found again."""
    cache = open_dir / f"gra-cache-{os.getuid()}"
    assert as_other(*trap, cache).returncode == 0
    first, lock = claim_cache(open_dir, "m")
    home = first.parent
    assert home != cache and home.parent == open_dir
    assert home.stat().st_uid == os.getuid() and home.stat().st_mode & 0o777 == 0o700
    os.close(lock)
    # names of that form that are not ours are passed over too
    assert as_other("mkdir", f"{cache}-00000000").returncode == 0
    assert as_other("ln", "-s", home, f"{cache}-00000001").returncode == 0
    second, lock = claim_cache(open_dir, "m")
    os.close(lock)
    assert second == first


@other_user
@pytest.mark.parametrize("whose", ["theirs", "everybody's"])
def test_a_directory_in_other_hands_is_no_place_for_ours(open_dir: Path, whose: str) -> None:
    """Others could put their sockets and caches in the place of ours: /tmp is used."""
    theirs = open_dir / "root"
    if whose == "theirs":
        assert as_other("mkdir", "-m", "1777", theirs).returncode == 0
    else:
        theirs.mkdir()
        theirs.chmod(0o777)
    private = private_directory(theirs)
    assert private.parent == Path("/tmp")
    shutil.rmtree(private)
    path, lock = claim_cache(theirs, "security-test")
    os.close(lock)
    assert path.parent.parent == Path("/tmp")
    shutil.rmtree(path)
    assert not list(theirs.iterdir())


@other_user
@pytest.mark.parametrize(("umask", "readable"), [(0o077, False), (0o000, True)])
def test_a_run_follows_the_umask(preset: Path, open_dir: Path, umask: int, readable: bool) -> None:
    """But for what decides what runs: nobody else writes that, whatever the umask; nor reads what jobs begin with."""
    run = open_dir / "run"
    gra("plan", run, "--preset", preset, umask=umask)
    gra("submit", run, umask=umask)
    closed = {run / "run.yaml", run / "plan.json", run / "logs", run / "logs/local"}
    alone = {run / "submissions", *(run / "submissions").iterdir()}
    alone |= {p for p in (run / "logs").rglob("*") if p.suffix in (".pkl", ".json", ".sh")}
    assert len(alone) > 3
    for path in [run, *run.rglob("*")]:
        mode = path.stat().st_mode & 0o777
        assert not mode & umask, (path, oct(mode))
        if path in alone - {run / "submissions/.lock"}:
            assert not mode & 0o077, (path, oct(mode))
        elif path in closed:
            assert not mode & 0o022, (path, oct(mode))
        if readable and path not in alone:
            assert (mode & 0o044) == 0o044, (path, oct(mode))
    assert (as_other("cat", run / "plan.json").returncode == 0) is readable
    if umask:
        assert as_other("touch", run / "x").returncode != 0


GROUP = 65533
MEMBER = ["setpriv", "--reuid=65534", f"--regid={GROUP}", "--clear-groups"]


@other_user
def test_a_member_of_the_group_runs_nothing_as_the_owner(preset: Path, open_dir: Path) -> None:
    """A run shared as documented (umask 002, a group's directory): members read it and may add to the data.

    What jobs begin with, and the settings they follow, are the owner's alone; what is put in their place does not run.
    """
    shared = open_dir / "shared"
    shared.mkdir()
    os.chown(shared, 0, GROUP)
    shared.chmod(0o2775)
    run = shared / "run"
    gra("plan", run, "--preset", preset, umask=0o002)
    gra("submit", run, umask=0o002)
    (pickled,) = list((run / "logs/local").glob("*.pkl"))[:1]

    def member(*words: object, code: int = 1) -> str:
        done = subprocess.run(
            [*MEMBER, *map(str, words)], capture_output=True, text=True, timeout=60, cwd="/", check=False
        )
        assert (done.returncode != 0) == bool(code), done
        return done.stdout

    # all of a group's directory belongs to the group, the release too, and members may add to it
    for path in (run, *run.rglob("*")):
        assert path.stat().st_gid == GROUP, path
    for path in (run, run / "release", run / "release/data", run / "rounds"):
        assert path.stat().st_mode & 0o7777 == 0o2775, path
    member("cat", run / "release/README.md", run / "run.yaml", *(run / "logs/local").glob("*.out"), code=0)
    member("touch", run / "release/notes.txt", code=0)
    # not to what decides what runs
    for path in (run / "run.yaml", run / "plan.json", pickled):
        member("sh", "-c", f"echo x >>{path}")
    for directory in (run / "logs", run / "logs/local", run / "submissions"):
        member("touch", directory / "x")
        member("mv", next(iter(directory.iterdir())), directory / "y")
    for path in (pickled, run / "submissions"):
        member("ls", f"{path}/") if path.is_dir() else member("cat", path)
    # what they may swap, since the run's directory is the group's: it is refused
    member("mv", run / "run.yaml", run / "away.yaml", code=0)
    member("sh", "-c", f"sed 's/^engine:/engine:\\n  python: bad/' {run}/away.yaml >{run}/run.yaml", code=0)
    for words in (("resume", run), ("merge", run), ("submit", run)):
        assert "run.yaml: belongs to" in gra(*words, code=1)
    assert "release" in gra("status", run)
    member("mv", "-f", run / "away.yaml", run / "run.yaml", code=0)
    member("mv", run / "logs", run / "elsewhere", code=0)
    member("mkdir", run / "logs", code=0)
    shutil.rmtree(run / "release")
    assert "logs: not a directory of yours" in gra("resume", run, code=1)


def test_secrets_go_nowhere(preset: Path, tmp_path: Path) -> None:
    """Not into plans, logs, pickles, manifests or the release."""
    run = tmp_path / "run"
    said = gra("plan", run, "--preset", preset, **SECRETS)
    said += gra("submit", run, **SECRETS)
    said += gra("status", run, "--json", **SECRETS) + gra("config", "show", **SECRETS)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert any(p.suffix == ".pkl" for p in files)
    for secret in SECRETS.values():
        assert secret not in said
        for path in files:
            assert secret.encode() not in path.read_bytes(), path


def test_secrets_do_not_reach_engines(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither their environment nor any command line holds one."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    placement = Placement((EnginePlace("m", 0, ()),), "cpu")
    models = {"m": ModelConfig(path="m", max_model_len=512)}

    async def scene() -> None:
        async with Node(
            models, placement, EngineConfig(start_timeout_s=60), short_dir, short_dir / "logs", launcher()
        ) as node:
            await node.ask(Request("m", "i", ({"role": "user", "content": "hi"},), Sampling(0.2, 0.9, 16, 0)))
            pids = [p for p in _below(short_dir) if p != os.getpid()]
            assert pids
            for pid in pids:
                environment = Path(f"/proc/{pid}/environ").read_bytes()
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                for secret in SECRETS.values():
                    assert secret.encode() not in environment + words
        for log in (short_dir / "logs").rglob("*"):
            assert not log.is_file() or not any(s.encode() in log.read_bytes() for s in SECRETS.values())

    asyncio.run(scene())


@pytest.mark.parametrize(
    "text",
    [
        "seeds: !!python/object/apply:os.system ['touch {}']\n",
        "seeds: {{path: !!python/object/apply:os.system ['touch {}']}}\n",
    ],
)
def test_configurations_are_data(tmp_path: Path, text: str) -> None:
    trap = tmp_path / "trap"
    path = tmp_path / "evil.yaml"
    path.write_text(text.format(trap))
    with pytest.raises(ConfigError, match="not valid YAML"):
        presets.compose(str(path))
    presets.compose("demo", [f"release.name=!!python/object/apply:os.system ['touch {trap}']"])
    presets.compose("demo", [f"release.name=$HOME $(touch {trap})"])
    assert not trap.exists()


def test_names_are_not_commands(tmp_path: Path) -> None:
    """A run's path and a site's words reach the job's script quoted: the shell that reads it runs nothing of them."""
    trap = tmp_path / "trap"
    path = tmp_path / f"run;touch {trap.name} $(touch {trap.name}) `touch {trap.name}` 'x"
    site = SiteConfig(
        account=f"a; touch {trap.name}", partition=f"$(touch {trap.name})", python=f"/p y; touch {trap.name}"
    )
    text = sbatch_text(RunDir(path), RunConfig(site=site), 3)
    script = tmp_path / "job.sh"
    script.write_text(text)
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "srun").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (fake / "srun").chmod(0o755)
    done = subprocess.run(
        ["bash", str(script)], cwd=tmp_path, env={"PATH": f"{fake}:/usr/bin:/bin"}, capture_output=True, text=True,
        timeout=240, check=True,
    )  # fmt: skip
    assert not trap.exists()
    words = done.stdout.splitlines()
    assert f"{path}/logs/%A" in words and f"/p y; touch {trap.name}" in words


def test_remote_code_is_off_unless_named() -> None:
    config = presets.compose("demo")
    assert not any(m.trust_remote_code for m in config.models.values())
    named = presets.compose("alpaca").models
    assert [k for k, m in named.items() if m.trust_remote_code] == ["internlm3-8b"]


def test_saved_configuration_is_plain_yaml() -> None:
    text = presets.dump(presets.compose("demo"))
    assert "!!" not in text
    assert yaml.safe_load(text)["seeds"]
