"""Room for a run is checked when it is planned: bytes and files, on real small file systems."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gra_hpc import storage
from gra_hpc.config.settings import RunConfig
from gra_hpc.errors import StorageError
from gra_hpc.run import disk_space
from gra_hpc.run.disk_space import DiskSpace
from tools.faults.faults import journals, make_run, undisturbed


@pytest.fixture
def tight(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB and 50 files."""
    path = tmp_path / "tight"
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=50", "tmpfs", str(path)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_free_room_of_a_real_file_system(tight: Path) -> None:
    (tight / "a").write_bytes(bytes(200_000))
    have = disk_space.free(tight)
    assert have.bytes == 1024 * 1024 - 49 * 4096
    assert have.files == 48  # the root and one file
    assert disk_space.file_system(tight) == "tmpfs"


def test_a_run_that_cannot_fit_is_not_planned(tight: Path, tiny_llama: Path) -> None:
    with pytest.raises(StorageError, match=r"about .* needed, 1 MB and \d+ files free for you") as e:
        make_run(tight / "run", 500)
    assert "another file system" in e.value.then
    assert not (tight / "run").exists()


def test_files_count_too(tight: Path) -> None:
    with pytest.raises(StorageError, match="1,000 files needed"):
        disk_space.check(tight / "not" / "yet" / "there", DiskSpace(1000, 1000))
    disk_space.check(tight, DiskSpace(1000, 60))  # it may do, and the estimate is rough
    assert "60 files needed" in disk_space.shortage(tight, DiskSpace(1000, 60))
    assert disk_space.shortage(tight, DiskSpace(1000, 40)) == ""
    assert "about 2 MB and 10 files needed" in disk_space.shortage(tight, DiskSpace(1_500_000, 10))


def test_the_estimate_is_above_what_a_run_takes_and_not_by_much(tmp_path: Path, tiny_llama: Path) -> None:
    """With the simulated engine, whose answers are shorter than a model's."""
    run = make_run(tmp_path / "run", 60, ["launch.shards=1"])
    config = RunConfig()
    config.method.sampling.max_tokens, config.method.verdict_tokens = 256, 160
    need = disk_space.needed(config, 60, 1)
    undisturbed(run)
    took = sum(f.stat().st_size for f in run.path.rglob("*") if f.is_file())
    assert took < need.bytes
    assert need.bytes / 60 < 30_000
    assert sum(1 for _ in run.path.rglob("*")) < (need.files or 0)
    assert not journals(run.round(1).shard(0))


def test_the_estimate_grows_with_the_run() -> None:
    config = RunConfig()
    one = disk_space.needed(config, 1000, 10)
    config.method.rounds = 5
    five = disk_space.needed(config, 1000, 10)
    assert five.bytes == 5 * one.bytes
    assert one.files and five.files and five.files > one.files
    assert 10_000 < one.bytes / 1000 < 60_000


@pytest.mark.parametrize(
    ("text", "room"),
    [
        ("  /mnt/lustre  460000  500000  600000       -      26  100  200  -\n", DiskSpace(140_000 * 1024, 174)),
        ("  /mnt/lustre  460104* 460000  600000   6d23h      26  0  0  -\n", DiskSpace(139_896 * 1024, None)),
        ("/a/name/so/long/that/it/wraps\n   700  0  600  -  10  5  9  none\n", DiskSpace(0, 0)),
        ("  /mnt/lustre  460104       0       0       -      26  0  0  -\n", None),
        ("Permission denied.\n", None),
        ("", None),
    ],
)  # fmt: skip
def test_lustre_quotas(text: str, room: DiskSpace | None) -> None:
    """As Lustre's manual prints them."""
    assert disk_space.parse_lfs_quota(text) == room


def test_a_quota_of_the_path_s_own_file_system(tight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `quota -w -p` prints them: other file systems' lines are not ours."""
    device = storage.mount_of(tight)[0]
    told = f"Disk quotas for user me (uid 7):\n  {device} 900 0 1000 0 90 0 100 0\n  nas:/home 1 0 2 0 1 0 2 0\n"
    monkeypatch.setattr(disk_space, "_said", lambda *command: told if command[-1] == "-u" else "")
    monkeypatch.setattr(disk_space.os, "getuid", lambda: 7)
    assert disk_space.free(tight) == DiskSpace(100 * 1024, 10)
