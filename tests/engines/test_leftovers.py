"""The sweep: what dead owners left goes, what belongs to the living, to others or to other hosts stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gra_hpc.engines import guard, leftovers
from gra_hpc.errors import EngineError
from gra_hpc.owner import Owner
from tests.conftest import SteadyClock
from tests.waiting import until

OWNER = """
import sys, time
from pathlib import Path
from gra_hpc.engines import leftovers
print(leftovers.private_directory(Path(sys.argv[1])), flush=True)
time.sleep(600)
"""


@pytest.fixture
def owner(short_dir: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process with a private directory in which a guard's state says that a sleeping process is its engine."""
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(short_dir)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.wait()


def fake_session(directory: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """A session of two sleeping processes as a guard describes it, and a shared memory file of theirs."""
    process = subprocess.Popen(["sh", "-c", "sleep 600 & exec sleep 600"], start_new_session=True)
    until(lambda: len(guard.session_members(process.pid, guard.start_time(process.pid))) == 2)
    shm = Path(f"/dev/shm/gra_test_sweep_{process.pid}")
    shm.write_bytes(b"x")
    state = {"pid": process.pid, "start": guard.start_time(process.pid), "shm": {str(shm): shm.stat().st_ino}}
    (directory / "e00-0.state").write_text(json.dumps(state))
    return process, shm


def test_directory_is_private(short_dir: Path) -> None:
    path = leftovers.private_directory(short_dir)
    assert path.stat().st_mode & 0o777 == 0o700
    assert path.parent == short_dir


def test_long_base_falls_back_to_tmp(tmp_path: Path) -> None:
    path = leftovers.private_directory(tmp_path / ("x" * 80))
    try:
        assert path.parent == Path("/tmp")
    finally:
        (path / "owner.json").unlink()
        path.rmdir()


def test_nowhere_to_write_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setattr(leftovers, "LONGEST_NAME", 90)
    with pytest.raises(EngineError, match=r"no node-local directory.*too long.*site\.local_dir"):
        leftovers.private_directory(file)


def test_living_owner_is_left_alone(owner: tuple[subprocess.Popen[str], Path]) -> None:
    _, path = owner
    process, shm = fake_session(path)
    try:
        assert path not in leftovers.sweep(path.parent).directories
        assert path.is_dir()
        assert process.poll() is None
        assert shm.exists()
    finally:
        process.kill()
        shm.unlink()


def test_dead_owner_is_swept(owner: tuple[subprocess.Popen[str], Path]) -> None:
    dead, path = owner
    process, shm = fake_session(path)
    try:
        process.kill()  # the session's leader, as if the guard had been killed with its owner: its child lives
        process.wait()
        dead.kill()
        dead.wait()
        swept = leftovers.sweep(path.parent)
        assert path in swept.directories
        assert len(swept.processes) == 1
        assert not path.exists()
        assert not shm.exists()
        until(lambda: not guard.start_time(swept.processes[0]))
    finally:
        shm.unlink(missing_ok=True)


@pytest.mark.parametrize("kind", ["ext4", "nfs4"])
def test_what_may_be_alive_elsewhere_is_left_alone(
    tmp_path: Path, kind: str, steady: SteadyClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A boot of before only where nobody but this machine writes; without an owner only what does not change."""
    uid, me = os.getuid(), Owner.me().to_dict() | {"pid": 2**22 + 1}
    directories: dict[str, tuple[str, dict[str, object] | None]] = {
        "0000000a": ("another container", me | {"namespace": "pid:[1]"}),
        "0000000b": ("another boot", me | {"boot": "another"}),
        "0000000c": ("another node", me | {"boot": "another", "host": "elsewhere"}),
        "0000000d": ("dead", me),
        "0000000e": ("torn", None),
        "0000000f": ("torn, but something comes and goes", None),
    }
    for name, (_, record) in directories.items():
        path = tmp_path / f"gra-{uid}-{name}"
        path.mkdir()
        (path / "owner.json").write_text(json.dumps(record) if record else "{")
    state = {"pid": os.getpid(), "start": guard.start_time(os.getpid())}  # of this boot: nobody of another one is ended
    (tmp_path / f"gra-{uid}-0000000b" / "e00-0.state").write_text(json.dumps(state))
    (tmp_path / f"gra-{uid}-99999999").symlink_to(tmp_path)
    (tmp_path / "gra-99999-x").mkdir()
    (tmp_path / f"gra-{uid}-thesis").mkdir()
    (tmp_path / f"gra-{uid}-thesis" / "chapter-1").touch()
    monkeypatch.setattr(leftovers, "file_system", lambda _: kind)

    def left() -> set[str]:
        leftovers.sweep(tmp_path)
        there = {p.name.split("-", 2)[2] for p in tmp_path.iterdir()}
        return {directories[n][0] if n in directories else n for n in there}

    stay = {"another container", "torn, but something comes and goes", "99999999", "x", "thesis"}
    stay |= {"another boot", "another node"} if kind == "nfs4" else set()
    assert left() == stay | {"torn"}
    steady.now += leftovers.SILENT_S
    (tmp_path / f"gra-{uid}-0000000f" / "e00-0.s").touch()
    assert left() == stay


def test_caches_of_two_nodes_on_a_shared_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File locks may not reach from one to the other."""
    monkeypatch.setattr(leftovers, "file_system", lambda _: "nfs4")
    path, lock = leftovers.claim_cache(tmp_path, "llama-0")
    os.close(lock)
    assert path.name == f"llama-0-{os.uname().nodename}-0"


def test_two_engines_of_one_name_get_two_caches(tmp_path: Path) -> None:
    first, lock = leftovers.claim_cache(tmp_path, "llama-0")
    second, other = leftovers.claim_cache(tmp_path, "llama-0")
    assert first != second
    assert (first / "vllm" / "modelinfos").samefile(second / "vllm" / "modelinfos")
    os.close(lock)
    third, again = leftovers.claim_cache(tmp_path, "llama-0")
    assert third == first
    os.close(other)
    os.close(again)
