"""What is read is what was written: digests of files, seals of JSON."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gra_hpc import storage
from gra_hpc.errors import ReleaseError, StorageError


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
