"""Directories that appear whole: killed, raced, out of room. Real processes, real signals."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gra_hpc import storage
from gra_hpc.merge.round import existing, merge_round
from gra_hpc.run.directory import RunDir
from gra_hpc.run.plan import Plan
from gra_hpc.whole_directory import Staging, sweep
from tests.merge.fabricate import make_run, publish_shard, sample, seed, tables

MERGE = """
import sys
from gra_hpc.merge import index, round
from gra_hpc.errors import GraError
from gra_hpc.run.directory import RunDir
round.INLINE_ROWS = 10  # with worker processes
index.Index.units.__defaults__ = (50,)
try:
    print(round.merge_round(RunDir(__import__("pathlib").Path(sys.argv[1])), 1))
except GraError as e:
    print(f"{type(e).__name__}: {e}")
    sys.exit(e.exit_code)
"""


def start(run: RunDir, **more: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MERGE, str(run.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **more,
    )  # type: ignore[call-overload,no-any-return]


def two_shards(path: Path, **merge: object) -> RunDir:
    run = make_run(path, [seed(i) for i in range(3)], shards=2, **merge)
    for n in (0, 1):
        publish_shard(run, 1, n, [sample(i, score=8 + i % 5 / 4) for i in range(n, 200, 2)])
    return run


def leftovers(run: RunDir) -> list[Path]:
    return list(run.round(1).path.glob(".*"))


def watched(p: subprocess.Popen[str], run: RunDir, until: int = 10_000) -> int:
    """How many files a merge has begun, once there are so many, or once it has ended."""
    seen: set[str] = set()
    while len(seen) < until and p.poll() is None:
        for staging in leftovers(run):
            with contextlib.suppress(OSError):  # renamed meanwhile
                seen |= {str(f) for f in staging.rglob("*")}
        time.sleep(0.001)
    return len(seen)


@pytest.mark.parametrize("kills", [5, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_killed_at_any_moment(tmp_path: Path, kills: int) -> None:
    """After every kill there is no merge or a whole one, and the next merge leaves nothing of the dead."""
    run = two_shards(tmp_path / "run")
    p = start(run)
    files = watched(p, run)
    assert p.wait() == 0, p.stdout and p.stdout.read()
    assert files > 5
    good = tables(run)
    fingerprint = Plan.load(run).fingerprint
    for kill in range(kills):
        shutil.rmtree(run.round(1).merged)
        p = start(run)
        watched(p, run, 1 + kill * files // kills)
        children = psutil.Process(p.pid).children(recursive=True) if p.poll() is None else []
        p.kill()
        assert p.wait() == -signal.SIGKILL or kill  # the first is killed at its first file
        psutil.wait_procs(children, timeout=10)
        assert not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
        if run.round(1).merged.exists():
            assert existing(run, 1, fingerprint) is not None
            assert tables(run) == good
        else:
            merge_round(run, 1)
            assert tables(run) == good
            assert not leftovers(run)
        sweep(run.round(1).merged)
        assert not leftovers(run)


def test_two_merges_at_once(tmp_path: Path) -> None:
    run = two_shards(tmp_path / "run")
    merges = [start(run) for _ in range(3)]
    said = [m.communicate()[0] for m in merges]
    assert [m.returncode for m in merges] == [0, 0, 0], said
    assert all("200 of 200" in s for s in said)
    assert sum("nothing to do" not in s for s in said) == 1
    assert existing(run, 1, Plan.load(run).fingerprint) is not None
    assert not leftovers(run)


def test_two_merges_that_replace_a_partial_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [seed(0)], shards=3, allow_partial=True)
    publish_shard(run, 1, 0, [sample(0)])
    merge_round(run, 1)
    publish_shard(run, 1, 1, [sample(1)])
    publish_shard(run, 1, 2, [sample(2)])
    merges = [start(run) for _ in range(2)]
    said = [m.communicate()[0] for m in merges]
    assert [m.returncode for m in merges] == [0, 0], said
    assert existing(run, 1, Plan.load(run).fingerprint)["coverage"]["complete"]  # type: ignore[index]
    assert not leftovers(run)


def test_no_room(tmp_path: Path) -> None:
    """A write that fails, wherever it is: one line, nothing published; and it works once there is room."""
    run = two_shards(tmp_path / "run")
    for limit in (100, 2_000, 5_000, 20_000):
        p = start(run, preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        said = p.communicate()[0]
        assert p.returncode == 1, said
        assert "StorageError" in said
        assert "file too large" in said
        assert len(said.strip().splitlines()) == 1
        assert not run.round(1).merged.exists()
        assert not leftovers(run)
    assert merge_round(run, 1).kept == 200


def test_the_living_are_not_swept(tmp_path: Path) -> None:
    target = tmp_path / "merged"
    with Staging(target) as staging:
        assert sweep(target) == []
        assert staging.path.is_dir()
        code = (
            f"from pathlib import Path; from gra_hpc.whole_directory import sweep; print(sweep(Path({str(target)!r})))"
        )
        assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    assert list(tmp_path.iterdir()) == []


def test_another_hosts_remains_are_swept_when_silent(tmp_path: Path) -> None:
    target = tmp_path / "merged"
    dead = tmp_path / ".merged-elsewhere-00aa"
    dead.mkdir()
    (dead / "lock").touch()
    assert sweep(target) == []
    old = time.time() - 3600
    os.utime(dead / "lock", (old, old))
    assert sweep(target) == [dead]


def test_publish_onto_something(tmp_path: Path) -> None:
    target = tmp_path / "merged"
    for content, better, expected in (("a", True, "a"), ("b", False, "a"), ("c", True, "c")):
        with Staging(target) as staging:
            (staging.out / "file").write_text(content)
            assert staging.publish(lambda better=better: better) is (expected == content)
        assert (target / "file").read_text() == expected
        assert [p.name for p in tmp_path.iterdir()] == ["merged"]


def test_files_and_their_directories_are_durable_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    for name in ("fsync_file", "fsync_dir"):
        real = getattr(storage, name)
        monkeypatch.setattr(storage, name, lambda path, real=real: (synced.append(path.name), real(path)))
    with Staging(tmp_path / "release") as staging:
        (staging.out / "exports" / "deep").mkdir(parents=True)
        (staging.out / "exports" / "deep" / "file").write_text("x")
        staging.publish(lambda: True)
    assert synced == ["file", "deep", "exports", "out", tmp_path.name]


def test_publish_without_atomic_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on file systems that cannot swap directories."""
    from gra_hpc import whole_directory as module

    monkeypatch.setattr(module, "_exchange", lambda *_: False)
    target = tmp_path / "merged"
    for content in "ab":
        with Staging(target) as staging:
            (staging.out / "file").write_text(content)
            assert staging.publish(lambda: True)
        assert (target / "file").read_text() == content
        assert [p.name for p in tmp_path.iterdir()] == ["merged"]
