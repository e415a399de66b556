"""Who is alive: asked of the kernel where it can tell, else watched by a steady clock. Real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gra_hpc.owner import BOOTS, Owner, Sightings, cache_directory, start_time
from tests.conftest import SteadyClock

WHO = """
import json, sys
from gra_hpc.owner import Owner
print(json.dumps(Owner.me().to_dict()), flush=True)
sys.stdin.read()
"""


@contextmanager
def another() -> Iterator[tuple[subprocess.Popen[str], Owner]]:
    with subprocess.Popen(
        [sys.executable, "-c", WHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        who = Owner.of(json.loads(process.stdout.readline()))
        assert who is not None and who.pid == process.pid
        yield process, who
        process.kill()


def test_of_this_machine_the_kernel_tells() -> None:
    assert Owner.me().alive()
    with another() as (process, who):
        assert who != Owner.me() and who.alive()
        process.send_signal(signal.SIGSTOP)
        assert who.alive(), "stopped is not dead"
        process.kill()
        while start_time(process.pid):  # until it is a zombie, which is not collected yet
            pass
        assert who.alive() is False
        process.wait()
        assert who.alive() is False


def test_a_process_of_the_same_number_is_another_one() -> None:
    me = Owner.me()
    assert Owner(me.host, me.boot, me.namespace, me.pid, me.start + 1).alive() is False


@pytest.mark.parametrize("other", ["host", "boot", "namespace"])
def test_of_another_machine_or_container_it_tells_nothing(other: str) -> None:
    """Also of one with this machine's name."""
    for pid in (os.getpid(), 2**22 + 1):
        who = Owner.of(Owner.me().to_dict() | {other: "another", "pid": pid})
        assert who is not None and who.alive() is None


@pytest.mark.skipif(os.getuid() != 0, reason="needs the right to make a namespace")
def test_a_real_container_with_this_machines_name() -> None:
    """Process ids of its own, the same host name, the same kernel."""
    inside = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", WHO],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if inside.returncode:
        pytest.skip(f"no namespaces here: {inside.stderr}")
    who, me = Owner.of(json.loads(inside.stdout)), Owner.me()
    assert who is not None and (who.host, who.boot) == (me.host, me.boot) and who.namespace != me.namespace
    assert who.alive() is None, "it has ended, but that cannot be seen from here"


@pytest.mark.parametrize(
    "data",
    [None, [], "x", {}, {"host": "n"}, Owner.me().to_dict() | {"pid": True}, Owner.me().to_dict() | {"host": [1]}],
)
def test_what_describes_no_process(data: object) -> None:
    assert Owner.of(data) is None


def test_silence_is_what_was_seen(tmp_path: Path, steady: SteadyClock) -> None:
    """By the steady clock alone: what the file's own time says does not count, however it goes."""
    heart = tmp_path / "heart"
    heart.touch()
    for at in (0, 10**9, 10**10, 5):
        os.utime(heart, (at, at))
        with Sightings() as seen:
            assert seen.unchanged_s(heart) == 0
        steady.now += 40
        with Sightings() as seen:  # another command, later
            assert seen.unchanged_s(heart) == 40
            assert not seen.dead(None, heart, 41) and seen.dead(None, heart, 40)


def test_what_cannot_be_looked_at_is_not_silent(tmp_path: Path, steady: SteadyClock) -> None:
    for _ in range(2):
        with Sightings() as seen:
            assert seen.unchanged_s(tmp_path / "gone") == 0
        steady.now += 1000


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": 1}', '{"BOOT": {"PATH": [1]}}', '{"BOOT": {"PATH": "x"}}'])
def test_a_damaged_memory_is_an_empty_one(tmp_path: Path, steady: SteadyClock, content: str) -> None:
    file = cache_directory() / "seen.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    heart = tmp_path / "heart"
    heart.touch()
    file.write_text(content.replace("BOOT", Owner.me().boot).replace("PATH", str(heart)))
    with Sightings() as seen:
        assert seen.unchanged_s(heart) == 0
    steady.now += 7
    with Sightings() as seen:
        assert seen.unchanged_s(heart) == 7


def test_the_memory_stays_small(tmp_path: Path, steady: SteadyClock) -> None:
    file = cache_directory() / "seen.json"
    file.write_text(json.dumps({f"boot {i}": {"/x": [[1], 1.0]} for i in range(50)}))
    with Sightings() as seen:
        assert seen.unchanged_s(tmp_path) == 0
    kept = json.loads(file.read_text())
    assert list(kept) == [*(f"boot {i}" for i in range(51 - BOOTS, 50)), Owner.me().boot]


def test_nowhere_to_remember(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that cannot be written: everybody lives for ever."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("GRA_CACHE", str(tmp_path / "file" / "below"))
    for _ in range(2):
        with Sightings() as seen:
            assert seen.unchanged_s(tmp_path) == 0
