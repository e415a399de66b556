"""What is read is what was written, where others may write beside it: digests, seals, files that appear whole."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gra_hpc import storage
from gra_hpc.engines.guard import Guard
from gra_hpc.errors import ReleaseError, StorageError
from gra_hpc.once import write_once
from gra_hpc.records import Record
from gra_hpc.release import export
from gra_hpc.run.attempts import Heartbeat
from gra_hpc.run.directory import AttemptDir
from gra_hpc.sources.seeds import write_records
from gra_hpc.storage import new_file, opened_here, write_atomic

ROOT = Path(__file__).resolve().parent.parent
OURS = b"nobody else's"


def flip(path: Path, at: int) -> None:
    """Change one bit; size and modification time stay as they were."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_file_is_what_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read once a process, also under another name; again when it may have changed."""
    path = tmp_path / "table"
    path.write_bytes(bytes(5000))
    recorded = storage.entry(path)
    reads = []
    digest = storage.hashlib.file_digest
    monkeypatch.setattr(storage.hashlib, "file_digest", lambda *a: (reads.append(1), digest(*a))[1])
    assert storage.checked(path, recorded) == path
    (tmp_path / "out").mkdir()
    path = path.rename(tmp_path / "out" / "table")
    (tmp_path / "out").rename(tmp_path / "merged")
    path = tmp_path / "merged" / "table"
    storage.checked(path, recorded)
    storage.checked(path, recorded)
    once = len(reads)
    assert once <= 1  # a file's own name is noted in its inode; its directory's is not
    flip(path, 4999)
    with pytest.raises(ReleaseError, match=r"merged/table: changed since it was written \(SHA-256 \w+\.\.\., \w+"):
        storage.checked(path, recorded, "gra merge RUN")
    assert len(reads) == once + 1


def test_a_file_that_is_gone_or_shorter(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_bytes(b"rows")
    recorded = storage.entry(path)
    path.write_bytes(b"row")
    with pytest.raises(ReleaseError, match="table: 3 bytes, 4 were recorded -> bring the file back"):
        storage.checked(path, recorded)
    path.unlink()
    with pytest.raises(ReleaseError, match="table: No such file or directory, though it was recorded"):
        storage.checked(path, recorded)


def test_every_bit_of_a_sealed_object_counts(tmp_path: Path) -> None:
    """But for its spaces, and what leaves it without a seal: that changes nothing of what it says."""
    path, value = tmp_path / "plan.json", {"shards": 8, "acceptance": 0.25, "é": ["x", None, True]}
    path.write_bytes(storage.sealed(value))
    assert storage.read_json(path) == value
    good, noticed = path.read_bytes(), 0
    for at in range(len(good)):
        for bit in range(8):
            data = bytearray(good)
            data[at] ^= 1 << bit
            path.write_bytes(data)
            try:
                assert {k: v for k, v in storage.read_json(path).items() if k in value} == value
            except StorageError as e:
                assert "not valid JSON" in e.what or "its seal is not that of its content" in e.what
                noticed += 1
    assert noticed > 6 * len(good)


def test_what_was_never_sealed_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "object.json"
    path.write_bytes(storage.to_json({"a": 1}))
    assert storage.read_json(path) == {"a": 1}
    path.write_bytes(storage.to_json([1, "seal"]))
    assert storage.read_json(path) == [1, "seal"]


def _heartbeat(path: Path) -> None:
    Heartbeat("a", 0, 1).write(AttemptDir(path.parent, "a"))


def _guard(path: Path) -> None:
    Guard([], path, path.parent / "private", 0.0).save()


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "write_atomic": ("f", lambda p: write_atomic(p, b"x")),
    "write_once": ("f", lambda p: write_once(p, b"x")),
    "records": ("f", lambda p: write_records(p, [Record("id", "i", "r")])),
    "export": ("f", lambda p: export._write(p, iter([{"a": 1}]), True)),
    "heartbeat": ("heartbeat.json", _heartbeat),
    "guard": ("e00.state", _guard),
    "log": ("f", lambda p: new_file(p).close()),
}


@pytest.mark.parametrize("name", WRITERS)
def test_links_at_foreseeable_names_are_not_followed(tmp_path: Path, name: str) -> None:
    """Names made of the process's number or of nothing but the file's own, and the file's name itself."""
    victim, (file, write) = tmp_path / "victim", WRITERS[name]
    victim.write_bytes(OURS)
    path = tmp_path / "shared" / file
    path.parent.mkdir()
    pid, host = os.getpid(), os.uname().nodename
    names = {f".{file}.{pid}.tmp", f".{file}.{pid}.{host}.tmp", f".{file}.tmp", f"{file}.tmp", f"{path.stem}.tmp"}
    for planted in names | {file} if name != "write_once" else names:
        (path.parent / planted).symlink_to(victim)
    write(path)
    assert victim.read_bytes() == OURS
    assert path.is_file() and not path.is_symlink()
    assert {p.name for p in path.parent.iterdir()} == names | {file}


@pytest.mark.parametrize("name", [n for n in WRITERS if n != "log"])
def test_a_link_is_not_followed_even_by_who_knows_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Somebody who watches the directory may be as fast as the writer: files are created exclusively."""
    victim, (file, write) = tmp_path / "victim", WRITERS[name]
    victim.write_bytes(OURS)
    path = tmp_path / "shared" / file
    path.parent.mkdir()
    monkeypatch.setattr(os, "urandom", lambda n: b"\0" * n)
    for planted in (f".{file}.{'00' * 8}.tmp", f"{file}.{'00' * 8}.tmp"):
        (path.parent / planted).symlink_to(victim)
    try:
        write(path)
    except FileExistsError:
        pass
    else:
        assert name in ("heartbeat", "guard")  # both only inform: an error ends nothing
    assert victim.read_bytes() == OURS
    assert not path.exists()


def test_a_file_that_is_appended_to_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(OURS)
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    for name in ("lock", "dangling"):
        with pytest.raises(OSError, match="symbolic links"):
            opened_here(str(tmp_path / name), os.O_RDWR | os.O_CREAT | os.O_APPEND)
    assert (tmp_path / "victim").read_bytes() == OURS and not (tmp_path / "new").exists()


WATCHED = """
import os, sys
from pathlib import Path
from tools.faults import faults

run, foreseeable = Path(sys.argv[1]), []

def private(path):
    return any(p.is_dir() and p.stat().st_mode & 0o77 == 0 for p in path.parents if run in p.parents)

def watch(event, args):
    if event == "open" and isinstance(args[0], str) and args[0].startswith(f"{run}/"):
        flags = args[2] or 0
        if flags & os.O_CREAT and not flags & (os.O_EXCL | os.O_NOFOLLOW) and not private(Path(args[0])):
            foreseeable.append(args[0])

sys.addaudithook(watch)
os.umask(0o002)
faults.undisturbed(faults.make_run(run, 2, ["launch.shards=2"]))
print("\\n".join(["done", *foreseeable]))
"""


def test_no_file_of_a_run_is_created_where_a_link_could_wait(tmp_path: Path, tiny_llama: Path) -> None:
    """From plan to release, where a group may write: exclusively, or in a directory that nobody else can enter."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True, timeout=240,
        check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "done", done.stdout


def test_of_two_that_write_a_file_once_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert write_once(path, b"one") and write_once(path, b"one")
    assert not write_once(path, b"two")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]
