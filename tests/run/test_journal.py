"""The journal keeps every answered call, and nothing but."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gra_hpc.records import Call
from gra_hpc.run.journal import Journal, encode


def call(i: int, text: str = "hello", digest: str = "d") -> Call:
    return Call(f"s{i}/response/generator/0", digest, "a", "m", text, "stop", 3, 4, 5, 1.0, 0.5)


def write(path: Path, calls: list[Call]) -> Path:
    journal = Journal([], path)
    for c in calls:
        journal.append(c)
    journal.close()
    return path


def test_serves_what_was_appended_in_this_and_earlier_attempts(tmp_path: Path) -> None:
    first = write(tmp_path / "a", [call(0), call(1)])
    journal = Journal([first], tmp_path / "b")
    journal.append(call(2))
    assert [journal.get(call(i).key, "d") for i in range(4)] == [call(0), call(1), call(2), None]
    assert [c.key for c in journal.used()] == [call(i).key for i in range(3)]
    journal.close()


def test_another_request_under_the_same_key_is_not_served(tmp_path: Path) -> None:
    journal = Journal([write(tmp_path / "a", [call(0)])], tmp_path / "b")
    assert journal.get(call(0).key, "another prompt") is None
    journal.append(call(0, "new", "another prompt"))
    assert journal.get(call(0).key, "another prompt") == call(0, "new", "another prompt")
    journal.close()


def test_first_answer_in_attempt_order_wins(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", [call(0, "first")]), write(tmp_path / "b", [call(0, "second")])
    journal = Journal([a, b], tmp_path / "c")
    served = journal.get(call(0).key, "d")
    assert served is not None and served.text == "first"
    journal.close()


@given(cut=st.integers(0, 400))
@settings(max_examples=50)
def test_torn_tail_costs_only_the_torn_call(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    tmp = tmp_path_factory.mktemp("j")
    path = write(tmp / "a", [call(i) for i in range(5)])
    size = path.stat().st_size
    with path.open("r+b") as f:
        f.truncate(max(0, size - cut))
    line = len(encode(call(0)))
    whole = max(0, size - cut) // line
    journal = Journal([path], tmp / "b")
    assert sum(journal.get(call(i).key, "d") is not None for i in range(5)) == whole
    journal.close()


@given(at=st.integers(0, 10_000), value=st.integers(0, 255))
@settings(max_examples=200)
def test_a_corrupt_byte_costs_at_most_the_calls_it_touches(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    tmp = tmp_path_factory.mktemp("j")
    path = write(tmp / "a", [call(i, "text " * i) for i in range(8)])
    data = bytearray(path.read_bytes())
    at %= len(data)
    changed = data[at] != value
    data[at] = value
    path.write_bytes(bytes(data))
    journal = Journal([path], tmp / "b")
    lost = [i for i in range(8) if journal.get(call(i).key, "d") is None]
    assert len(lost) <= 1
    if changed:
        assert journal.scans[0].corrupt or journal.scans[0].torn
    for i in set(range(8)) - set(lost):
        assert journal.get(call(i).key, "d") == call(i, "text " * i)
    journal.close()


def test_an_empty_journal_of_a_killed_attempt(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    journal = Journal([tmp_path / "a"], tmp_path / "b")
    assert len(journal) == 0
    journal.close()


def test_never_reopens_a_file_for_writing(tmp_path: Path) -> None:
    path = write(tmp_path / "a", [call(0)])
    with pytest.raises(FileExistsError):
        Journal([], path)


def test_disk_full_stops_the_attempt_with_one_line_and_keeps_the_rest(tmp_path: Path) -> None:
    """A real full file system: a 1 MiB tmpfs (needs root), else RLIMIT_FSIZE in a child would do the same."""
    import subprocess

    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        from gra_hpc.errors import StorageError

        journal = Journal([], mount / "a")
        kept = 0
        with pytest.raises(StorageError, match="no space left"):
            for i in range(10_000):
                journal.append(call(i, "x" * 500))
                kept += 1
        with pytest.raises(StorageError):
            journal.append(call(0))
        again = Journal([mount / "a"], tmp_path / "b")
        assert all(again.get(call(i).key, "d") for i in range(kept))
        assert kept > 500
        again.close()
        journal.close()
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)
