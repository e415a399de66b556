"""One of those that create a file wins, with hard links and without: raced, moved away, tried out. Only the call that
makes a link is simulated, as it ends on file systems without links. `crash/test_without_links.py` kills."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gra_hpc import once
from gra_hpc.doctor import directories
from gra_hpc.doctor.finding import FAILURE
from gra_hpc.errors import StorageError
from gra_hpc.once import CLAIM, write_once

ROOT = Path(__file__).resolve().parent.parent

WRITE = """
import sys
from pathlib import Path
from gra_hpc.once import write_once
from tests.test_once import link
import os
os.link = link
for line in sys.stdin:
    path, data = line.split()
    print(write_once(Path(path), data.encode()), flush=True)
"""


def link(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "simulated: no hard links on this file system")


@pytest.fixture
def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", link)


def claims(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir() if CLAIM.fullmatch(p.name))


@pytest.mark.usefixtures("without_links")
def test_without_links_the_first_wins(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert write_once(path, b"one") and write_once(path, b"one")
    assert not write_once(path, b"two")
    assert path.read_bytes() == b"one"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".f.once-0", "f"]


@pytest.mark.usefixtures("without_links")
def test_what_was_moved_away_is_written_again_once(tmp_path: Path) -> None:
    """As `gra` says to do with a manifest that is damaged."""
    path = tmp_path / "f"
    for i in range(3):
        assert write_once(path, b"%d" % i) and not write_once(path, b"late")
        path.rename(tmp_path / f"away{i}")
    assert claims(tmp_path) == [".f.once-0", ".f.once-1", ".f.once-2"]


def test_two_at_once_without_links(tmp_path: Path) -> None:
    """Whoever is told that it won is the one whose data is there: many times, both at once."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for i in range(60):
        path = tmp_path / f"{i}"
        for n, writer in enumerate(writers):
            assert writer.stdin is not None
            writer.stdin.write(f"{path} data-{n}\n")
            writer.stdin.flush()
        said = [w.stdout is not None and w.stdout.readline() == "True\n" for w in writers]
        assert [n for n, won in enumerate(said) if won] == [int(path.read_text().removeprefix("data-"))]
    for writer in writers:
        writer.communicate()
    assert not list(tmp_path.glob(".*.tmp*"))


def test_how_results_are_published_is_tried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert once.check(tmp_path) == "hard links"
    assert "hard links are exclusive" in "".join(f.what for f in directories.shared(tmp_path, slurm=False))
    monkeypatch.setattr(os, "link", link)
    assert once.check(tmp_path) == "directories"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lie", ["links replace", "directories replace"])
def test_where_two_could_win_nothing_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str) -> None:
    """Simulated file systems that do not keep the promise."""

    def replace(path: Path, to: Path) -> Path:
        shutil.rmtree(to, ignore_errors=True)
        return real(path, to)

    real = Path.rename
    if lie == "links replace":
        monkeypatch.setattr(os, "link", shutil.copyfile)
    else:
        monkeypatch.setattr(os, "link", link)
        monkeypatch.setattr(Path, "rename", replace)
    with pytest.raises(StorageError, match="could both publish"):
        once.check(tmp_path)
    (finding, *_) = directories.shared(tmp_path, slurm=False)
    assert finding.level == FAILURE and "could both publish" in finding.what
