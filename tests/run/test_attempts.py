"""The order of attempts, and whether they get anywhere: by files and processes, whatever clocks say."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gra_hpc.errors import StorageError
from gra_hpc.owner import Owner
from gra_hpc.run import attempts
from gra_hpc.run.attempts import Heartbeat, attempt_names, begin, earlier, newest_attempt, stuck
from gra_hpc.run.directory import RunDir, ShardDir
from tools.faults.faults import small_disk

ENDED = {"pid": 2**22 + 1}


@pytest.fixture
def shard(tmp_path: Path) -> ShardDir:
    return RunDir(tmp_path).round(1).shard(0)


def test_attempts_keep_their_order_on_clocks_that_step_back(shard: ShardDir, monkeypatch: pytest.MonkeyPatch) -> None:
    now, made = time.time(), []
    for i in range(12):
        monkeypatch.setattr(time, "time", lambda i=i: now - 3600 * i)
        monkeypatch.setattr(time, "gmtime", lambda i=i: time.localtime(now - 3600 * i))
        made.append(begin(shard))
        made[-1].journal.touch()
        Heartbeat(made[-1].id, 0, 1, calls=i).write(made[-1])
        beat = newest_attempt(shard)
        assert beat is not None and beat.calls == i
    assert [a.id for a in earlier(shard)] == [a.id for a in made]
    assert [a.id for a in earlier(shard, made[-1])] == [a.id for a in made[:-1]]


def test_names_that_begin_with_a_time_come_first(shard: ShardDir) -> None:
    """As earlier versions wrote them."""
    old = ["20240101T000000-local-7-beef", "20990101T000000-4242_7.0-cafe"]
    for name in old:
        (shard.attempts / name).mkdir(parents=True)
    new = begin(shard)
    assert attempt_names(shard) == [*old, new.id]
    assert new.id.startswith("a00001-")


def test_of_two_that_begin_at_once_always_the_same_comes_first(
    shard: ShardDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(shard)
    real = attempts.attempt_names
    before = real(shard)
    monkeypatch.setattr(attempts, "attempt_names", lambda _: before)
    pair = {begin(shard).id, begin(shard).id}
    monkeypatch.undo()
    assert attempt_names(shard) == [*before, *sorted(pair)]
    assert begin(shard).id.startswith("a00003-"), "and the next is behind both"


def test_numbers_beyond_their_digits(shard: ShardDir) -> None:
    for number in (99_998, 99_999):
        (shard.attempts / f"a{number}-local-1-beef").mkdir(parents=True)
    names = [begin(shard).id, begin(shard).id]
    assert names[0].startswith("a100000-") and names[1].startswith("a100001-")
    assert attempt_names(shard)[2:] == names


@pytest.mark.parametrize(
    ("first", "second", "owner", "expected"),
    [
        (b"", b"", ENDED, True),
        (b"x", b"", ENDED, False),
        (b"", b"x", ENDED, False),
        (b"", b"", {}, False),  # at it: this very process
        (b"", b"", {"host": "elsewhere"}, True),
    ],
)
def test_two_attempts_that_answered_nothing(
    shard: ShardDir, first: bytes, second: bytes, owner: dict[str, object], expected: bool
) -> None:
    """An attempt beside this one, which is only beginning, is no failure."""
    for data in (first, second):
        attempt = begin(shard)
        attempt.journal.write_bytes(data)
        Heartbeat(attempt.id, 0, 1, owner=Owner.me().to_dict() | owner).write(attempt)
    assert stuck(shard, begin(shard)) is expected


def test_how_long_it_took_is_told_by_a_clock_that_never_steps(shard: ShardDir, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = begin(shard)
    beat = Heartbeat(attempt.id, 0, 1)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    beat.write(attempt)
    read = Heartbeat.read(attempt)
    assert read is not None and read.at < read.started and 0 <= read.seconds <= beat.lasted


def test_an_attempt_has_its_heartbeat_from_the_first_moment(shard: ShardDir, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = Path.rename, []

    def rename(path: Path, to: Path) -> Path:
        seen.append(sorted(p.name for p in path.iterdir()) if path.is_dir() else [])
        return real(path, to)

    monkeypatch.setattr(Path, "rename", rename)
    attempt = begin(shard, Heartbeat("", 0, 1, worker="w"))
    assert seen[-1] == ["heartbeat.json"]
    beat = Heartbeat.read(attempt)
    assert beat is not None and (beat.attempt, beat.phase, beat.worker) == (attempt.id, "starting", "w")


def test_an_attempt_that_finds_no_room_leaves_nothing(shard: ShardDir) -> None:
    """Without a heartbeat it would count as at work for a while, and others would leave the shard to it."""
    with small_disk(shard.path.parent, 32):
        begin(shard, Heartbeat("", 0, 1))
        with pytest.raises(OSError, match="No space left"):
            (shard.path / "more").write_bytes(b"x" * 65536)
        before = sorted(shard.attempts.iterdir())
        with pytest.raises(StorageError, match="no space left"):
            begin(shard, Heartbeat("", 0, 1))
        assert sorted(shard.attempts.iterdir()) == before


def test_how_an_attempt_ended_is_known_on_a_full_disk(shard: ShardDir) -> None:
    """No room for another file: what is there is written over, also with a shorter text."""
    with small_disk(shard.path.parent, 64) as resize:
        attempt = begin(shard)
        beat = Heartbeat(attempt.id, 0, 1)
        for phase, message in (("running", ""), ("failed", "no space left on this file system"), ("failed", "short")):
            beat.phase, beat.message = phase, message
            beat.write(attempt)
            found = Heartbeat.read(attempt)
            assert found is not None and (found.phase, found.message) == (phase, message)
            resize(8)
            with pytest.raises(OSError, match="No space left"):
                (shard.path / "more").write_bytes(b"x" * 65536)
