"""Directories that appear whole: killed, raced, out of room. Real processes, real signals."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from gra_hpc import storage
from gra_hpc import whole_directory as module
from gra_hpc.merge.round import existing_merge, merge_round
from gra_hpc.owner import Beat, Owner
from gra_hpc.run.run import Run
from gra_hpc.whole_directory import SILENT_S, TRIES, Staging, Swept, build_whole, sweep
from tests.conftest import SteadyClock
from tests.merge.fabricate import make_run, publish_shard, sample, seed, tables
from tests.waiting import ended

MERGE = """
import sys
from gra_hpc.merge import index, round
from gra_hpc.errors import GraError
from gra_hpc.run.run import Run
round.INLINE_ROWS = 10  # with worker processes
index.Index.units.__defaults__ = (50,)
try:
    print(round.merge_round(Run.to_look_at(sys.argv[1]), 1))
except GraError as e:
    print(f"{type(e).__name__}: {e}")
    sys.exit(e.exit_code)
"""


def elsewhere(path: Path, **other: object) -> None:
    """A directory's owner is this process, but for what is said."""
    (path / "owner.json").write_text(json.dumps({**Owner.me().to_dict(), **other}))


def set_back(file: Path, seconds: float) -> None:
    """The time of a file by a clock that differs from this machine's."""
    at = time.time() - seconds
    os.utime(file, (at, at))


def start(run: Run, **more: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MERGE, str(run.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **more,
    )  # type: ignore[call-overload,no-any-return]


def two_shards(path: Path, **merge: object) -> Run:
    run = make_run(path, [seed(i) for i in range(3)], shards=2, **merge)
    for n in (0, 1):
        publish_shard(run, 1, n, [sample(i, score=8 + i % 5 / 4) for i in range(n, 200, 2)])
    return run


def leftovers(run: Run) -> list[Path]:
    return list(run.round(1).path.glob(".*"))


def watched(p: subprocess.Popen[str], run: Run, until: int = 10_000) -> int:
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
    fingerprint = run.plan.fingerprint
    for kill in range(kills):
        shutil.rmtree(run.round(1).merged)
        p = start(run)
        watched(p, run, 1 + kill * files // kills)
        children = psutil.Process(p.pid).children(recursive=True) if p.poll() is None else []
        p.kill()
        assert p.wait() == -signal.SIGKILL or kill  # the first is killed at its first file
        ended(children)
        if run.round(1).merged.exists():
            assert existing_merge(run, 1, fingerprint) is not None
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
    assert existing_merge(run, 1, run.plan.fingerprint) is not None
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
    assert existing_merge(run, 1, run.plan.fingerprint)["coverage"]["complete"]  # type: ignore[index]
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


def test_a_stopped_owner_on_this_machine_is_alive(tmp_path: Path, steady: SteadyClock) -> None:
    """By its process, however long it stands still and whatever the time of its files says."""
    target = tmp_path / "merged"
    code = (
        "import sys, time; from pathlib import Path; from gra_hpc.whole_directory import Staging\n"
        f"with Staging(Path({str(target)!r})) as staging:\n"
        "    print(staging.path, flush=True)\n"
        "    sys.stdin.read()\n"
        "    print(staging.publish(lambda: True), flush=True)\n"
    )
    p = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert p.stdout is not None
    path = Path(p.stdout.readline().strip())
    p.send_signal(signal.SIGSTOP)
    for age in (-960, 960):
        set_back(path / "owner.json", age)
        assert sweep(target) == []
        steady.now += 10 * SILENT_S
    p.send_signal(signal.SIGCONT)
    said = p.communicate("")[0]
    assert said == "True\n"
    assert [x.name for x in tmp_path.iterdir()] == ["merged"]


@pytest.mark.parametrize("age", [-960, 0, 960])
def test_another_nodes_remains_are_swept_when_they_were_seen_silent(
    tmp_path: Path, steady: SteadyClock, age: int
) -> None:
    """Its clock, or the file server's, says nothing: only that no beat came while this machine looked."""
    target, path = tmp_path / "merged", tmp_path / ".merged-n-2-0011aabb"
    path.mkdir()
    elsewhere(path, host=f"{os.uname().nodename}-2")
    set_back(path / "owner.json", age)
    assert sweep(target) == []
    steady.now += SILENT_S - 1
    assert sweep(target) == []
    set_back(path / "owner.json", age + 1)  # a beat, to a server whose clock was set back
    steady.now += SILENT_S - 1
    assert sweep(target) == []
    steady.now += SILENT_S
    assert sweep(target) == [path]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["boot", "namespace"])
def test_a_container_of_the_same_name_is_no_process_of_ours(tmp_path: Path, what: str) -> None:
    """Its process ids mean something else here: one that is not found is not dead."""
    target, path = tmp_path / "merged", tmp_path / ".merged-n-0011aabb"
    path.mkdir()
    elsewhere(path, **{what: "another", "pid": 2**22 + 1})
    assert sweep(target) == []
    elsewhere(path, pid=2**22 + 1)
    assert sweep(target) == [path]


def test_what_an_owner_left_before_it_said_who_it_is(tmp_path: Path, steady: SteadyClock) -> None:
    target, path = tmp_path / "merged", tmp_path / ".merged-n-0011aabb"
    for content in (None, "", '{"host": 1}', "[]"):
        path.mkdir()
        if content is not None:
            (path / "owner.json").write_text(content)
        assert sweep(target) == []
        steady.now += SILENT_S
        assert sweep(target) == [path]


def test_somebody_elses_directory_of_a_similar_name_stays(tmp_path: Path, steady: SteadyClock) -> None:
    for name in (".merged-notes", ".merged", ".merged-n-2-thesis00", ".merged2-n-0011aabb"):
        (tmp_path / name).mkdir()
    for _ in range(2):
        assert sweep(tmp_path / "merged") == []
        steady.now += SILENT_S


def test_a_heart_beats_on_after_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stale handle, as a network file system has them now and then."""
    touched, beats = os.utime, threading.Semaphore(0)
    errors = iter([errno.ESTALE, errno.EIO, errno.ESTALE])

    def hesitant(path: Path) -> None:
        if (code := next(errors, 0)) != 0:
            raise OSError(code, os.strerror(code))
        touched(path)
        beats.release()

    (tmp_path / "heart").touch()
    monkeypatch.setattr(os, "utime", hesitant)
    with Beat(tmp_path / "heart", every_s=0.001):
        for _ in range(3):
            beats.acquire()


def taken_for_dead(staging: Staging, steady: SteadyClock) -> None:
    """What another node does to an owner that stood still for long."""
    mine = json.loads((staging.path / "owner.json").read_text())
    (staging.path / "owner.json").write_text(json.dumps({**mine, "boot": "another"}))
    assert sweep(staging.target) == []
    steady.now += SILENT_S
    assert sweep(staging.target) == [staging.path]


def test_one_that_was_taken_for_dead_begins_again(tmp_path: Path, steady: SteadyClock) -> None:
    """And publishes the whole, or says that it could not."""
    tries: list[int] = []

    def work(staging: Staging, dies: int) -> bool:
        tries.append(len(tries))
        (staging.out / "file").write_text("whole")
        if len(tries) <= dies:
            taken_for_dead(staging, steady)
        return staging.publish(lambda: True)

    target = tmp_path / "merged"
    assert build_whole(target, lambda staging: work(staging, 2))
    assert (target / "file").read_text() == "whole"
    assert len(tries) == TRIES
    with pytest.raises(Swept, match="taken for dead"):
        build_whole(tmp_path / "never", lambda staging: work(staging, 99))
    assert [p.name for p in tmp_path.iterdir()] == ["merged"]


def test_a_merge_that_was_taken_for_dead_merges_again(
    tmp_path: Path, steady: SteadyClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, told = two_shards(tmp_path / "run"), []
    real = module.Staging.publish

    def publish(staging: Staging, better: Callable[[], bool]) -> bool:
        if not told:
            told.append(staging.path)
            taken_for_dead(staging, steady)
        return real(staging, better)

    monkeypatch.setattr(module.Staging, "publish", publish)
    assert merge_round(run, 1).kept == 200
    assert existing_merge(run, 1, run.plan.fingerprint) is not None
    assert not leftovers(run)


def test_a_sweep_leaves_what_was_published_under_its_hands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner on another node holds a handle of its directory, which a rename does not take away from it."""
    target = tmp_path / "merged"
    with Staging(target) as staging:
        (staging.out / "file").write_text("whole")
        handle = os.open(staging.path, os.O_RDONLY)
        real = Path.rename

        def rename(path: Path, to: Path) -> Path:
            moved = real(path, to)
            if path == staging.path:
                os.rename("out", target, src_dir_fd=handle)
            return moved

        monkeypatch.setattr(Path, "rename", rename)
        assert module._remove(staging.path, target)
        os.close(handle)
    assert (target / "file").read_text() == "whole"
    assert [p.name for p in tmp_path.iterdir()] == ["merged"]


def test_what_is_not_whole_after_its_rename_is_not_called_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever removed files of it while it was published: a site's purge, say."""
    target = tmp_path / "merged"
    real = storage.fsync_dir

    def purge(path: Path) -> None:
        real(path)
        if path == target.parent:
            (target / "b").unlink()

    monkeypatch.setattr(storage, "fsync_dir", purge)
    with Staging(target) as staging:
        for name in "ab":
            (staging.out / name).write_text(name)
        with pytest.raises(Swept):
            staging.publish(lambda: True)
    assert not target.exists()


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
    monkeypatch.setattr(module, "_exchange", lambda *_: False)
    target = tmp_path / "merged"
    for content in "ab":
        with Staging(target) as staging:
            (staging.out / "file").write_text(content)
            assert staging.publish(lambda: True)
        assert (target / "file").read_text() == content
        assert [p.name for p in tmp_path.iterdir()] == ["merged"]


@pytest.mark.parametrize("told", ["", "{"])
def test_what_was_left_before_its_owner_was_written_down_goes_at_once(tmp_path: Path, told: str) -> None:
    host = os.uname().nodename
    mine, of_another = tmp_path / f".there-{host}-0123abcd", tmp_path / f".there-{host}-2-0123abcd"
    for path in (mine, of_another):
        path.mkdir()
        if told:
            (path / "owner.json").write_text(told)
    assert sweep(tmp_path / "there") == [mine]
    assert sorted(tmp_path.iterdir()) == [of_another], "only its own node sees it as it is"


def test_whoever_is_swept_before_it_is_written_down_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, me, times = tmp_path / "there", Owner.me, iter([True, True, False])

    def late() -> Owner:
        if next(times):
            assert len(sweep(target)) == 1
        return me()

    monkeypatch.setattr(Owner, "me", late)
    with Staging(target) as staging:
        (staging.out / "file").write_text("x")
        assert staging.publish(lambda: False)
    assert [p.name for p in tmp_path.rglob("*")] == ["there", "file"]
