"""The journal keeps every answered call, and nothing but."""

from __future__ import annotations

import dataclasses
import os
import tracemalloc
import zlib
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gra_hpc.records import Call
from gra_hpc.run import journal as journal_module
from gra_hpc.run.journal import Journal, Scan, call_name, decode, encode, scan


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


def test_thoughts_are_kept_and_lines_without_any_are_as_before(tmp_path: Path) -> None:
    plain, thought = call(0), dataclasses.replace(call(1), thoughts="Two and two.")
    assert not encode(plain).endswith(b',""]\n') and decode(encode(plain)[:-1]) == plain
    journal = Journal([write(tmp_path / "a", [plain, thought])], tmp_path / "b")
    assert [journal.get(c.key, "d") for c in (plain, thought)] == [plain, thought]
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


def line_of(values: object, name: bytes | None = None) -> bytes:
    """A line with a right checksum, whatever it holds."""
    body = b"%s %s" % ((name or call_name(call(0).key, "d")).hex().encode(), orjson.dumps(values))
    return b"%08x %s\n" % (zlib.crc32(body), body)


FIELDS = list(dataclasses.astuple(call(0)))


@pytest.mark.parametrize(
    "values",
    [
        *([*FIELDS[:i], wrong, *FIELDS[i + 1 :]] for i in range(len(FIELDS)) for wrong in (None, [], {"a": 1}, True)),
        *([*FIELDS[:i], wrong, *FIELDS[i + 1 :]] for i in (6, 7) for wrong in (-1, 1 << 31, 3.0, "3")),
        [*FIELDS[:8], 1 << 63, *FIELDS[9:]],
        [*FIELDS[:9], "1.0", 0.5],
        ["s1/response/generator/0", *FIELDS[1:]],
        [FIELDS[0], "another digest", *FIELDS[2:]],
        FIELDS[:-2],
        [*FIELDS, 1],
        [],
        {"key": 1},
        dict(zip((f.name for f in dataclasses.fields(Call)), FIELDS, strict=True)),
        "text",
        7,
        None,
    ],
)
def test_a_line_with_a_right_checksum_and_wrong_contents_is_counted(tmp_path: Path, values: object) -> None:
    """It stops no attempt, is served to nobody, and hides no right answer behind it."""
    (tmp_path / "a").write_bytes(encode(call(1)) + line_of(values) + encode(call(2)))
    later = write(tmp_path / "b", [call(0)])
    journal = Journal([tmp_path / "a", later], tmp_path / "c")
    assert [journal.get(call(i).key, "d") for i in range(3)] == [call(i) for i in range(3)]
    assert (journal.scans[0].calls, journal.scans[0].corrupt) == (2, 1)
    assert journal.scans[0].corrupt_at == [len(encode(call(1)))]
    assert [c.key for c in journal.used()] == [call(i).key for i in range(3)]
    journal.close()


@pytest.mark.parametrize("text", [b"[1e999", b"NaN", b"[[[[", b"\xff\xfe", b'["\\ud800"]', b"[" * 5000])
def test_what_is_no_json_behind_a_right_checksum_is_counted(tmp_path: Path, text: bytes) -> None:
    body = b"%s %s" % (call_name(call(0).key, "d").hex().encode(), text)
    (tmp_path / "a").write_bytes(b"%08x %s\n" % (zlib.crc32(body), body) + encode(call(1)))
    journal = Journal([tmp_path / "a"], tmp_path / "b")
    assert journal.corrupt == 1 and journal.get(call(1).key, "d") == call(1)
    journal.close()


def test_whole_numbers_may_stand_for_times(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(line_of([*FIELDS[:9], 1, 2]))
    journal = Journal([tmp_path / "a"], tmp_path / "b")
    served = journal.get(call(0).key, "d")
    assert served is not None and (type(served.at), served.seconds) == (float, 2.0)
    journal.close()


def test_what_bears_a_journals_name_and_is_none(tmp_path: Path) -> None:
    """A directory, a FIFO that nobody writes to, a device without an end, links to nothing and to themselves."""
    names = [tmp_path / n for n in ("directory", "fifo", "device", "dangling", "loop")]
    names[0].mkdir()
    os.mkfifo(names[1])
    for path, target in zip(names[2:], ("/dev/zero", "nowhere", "loop"), strict=True):
        path.symlink_to(target)
    good = write(tmp_path / "good", [call(0)])
    journal = Journal([*names[:3], good, *names[3:]], tmp_path / "new")
    assert journal.get(call(0).key, "d") == call(0)
    journal.append(call(1))
    assert [s.problem for s in journal.scans] == [
        *["not a regular file"] * 3, "", "No such file or directory", "Too many levels of symbolic links",
    ]  # fmt: skip
    assert journal.unread == 5
    assert [c.key for c in journal.used()] == [call(0).key, call(1).key]
    journal.close()


def test_a_line_without_an_end_costs_no_more_than_itself(tmp_path: Path) -> None:
    """Longer than any of ours: it is dropped as it is read, and counted once; what follows is served."""
    good = encode(call(0))
    (tmp_path / "a").write_bytes(good + b"x" * (60 << 20) + b"\n" + encode(call(1)) + b"y" * (20 << 20))
    found = Scan(tmp_path / "a")
    tracemalloc.start()
    places = [(at, size) for _, at, size, _ in scan(found.path, found)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert places == [(0, len(good) - 1), (len(good) + (60 << 20) + 1, len(good) - 1)]
    assert (found.calls, found.corrupt, found.torn) == (2, 2, 0)
    assert peak < 60 << 20


def test_beginnings_of_lines_within_a_line_are_looked_at_so_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look reads the rest of the line."""
    looked = []
    real = journal_module._call
    monkeypatch.setattr(journal_module, "_call", lambda line: (looked.append(1), real(line))[1])
    (tmp_path / "a").write_bytes((b"0" * 8 + b" " + b"0" * 32 + b" [ ") * 20_000 + b"\n" + encode(call(0)))
    found = Scan(tmp_path / "a")
    assert sum(1 for _ in scan(found.path, found)) == 1
    assert found.corrupt == 1 and len(looked) < 100


def test_corrupt_lines_are_counted_and_the_first_of_them_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\n" * 100_000)
    found = Scan(tmp_path / "a")
    assert not list(scan(found.path, found))
    assert found.corrupt == 100_000 and found.corrupt_at == list(range(20))


def test_a_line_destroyed_after_it_was_read(tmp_path: Path) -> None:
    """Wanted before it is served, it is asked again; served already, it is missing from the books, and counted."""
    path = write(tmp_path / "a", [call(i) for i in range(4)])
    journal = Journal([path], tmp_path / "b")
    assert journal.get(call(0).key, "d") == call(0) and journal.get(call(3).key, "d") == call(3)
    data = bytearray(path.read_bytes())
    size = len(encode(call(0)))
    for i in (0, 1):
        data[i * size + 60] ^= 1
    path.write_bytes(data)
    assert journal.get(call(1).key, "d") is None
    assert (journal.gone, journal.corrupt) == (1, 1)
    journal.append(call(1))
    assert [c.key for c in journal.used()] == [call(1).key, call(3).key]
    assert len(journal.lost) == 1
    path.write_bytes(b"")
    assert [c.key for c in journal.used()] == [call(1).key]
    assert len(journal.lost) == 2
    journal.close()
