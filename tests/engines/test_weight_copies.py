"""Copies of weights on a node: one per node, whole, shared, evicted by size, never below an engine that reads them."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gra_hpc.config.settings import ModelConfig
from gra_hpc.engines import weight_copies
from gra_hpc.engines.weight_copies import local_copy, local_weights
from gra_hpc.errors import EngineError
from gra_hpc.models.identity import identity

MB = 1_000_000


def model(path: Path, size: int = MB, seed: int = 1) -> tuple[ModelConfig, str]:
    """A directory with the files of a model, and its identity."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(f'{{"seed": {seed}}}')
    (path / "tokenizer.json").write_text("{}")
    (path / "model.safetensors").write_bytes(os.urandom(1024) + bytes(size - 1024))
    entry = ModelConfig(path=str(path))
    return entry, identity(path, entry)


def test_copied_once_and_reused(tmp_path: Path) -> None:
    entry, wanted = model(tmp_path / "m")
    first = local_copy(tmp_path / "m", entry, wanted, tmp_path / "node")
    assert first.made and first.size >= MB
    assert (tmp_path / "node" / f"gra-weights-{os.getuid()}").stat().st_mode & 0o777 == 0o700
    inode = (first.directory / "model.safetensors").stat().st_ino
    second = local_copy(tmp_path / "m", entry, wanted, tmp_path / "node")  # while the first is held
    assert not second.made and second.directory == first.directory
    first.release()
    second.release()
    assert (second.directory / "model.safetensors").stat().st_ino == inode
    assert identity(second.directory, entry) == wanted


def test_the_shared_copy_may_go_once_there_is_a_local_one(tmp_path: Path) -> None:
    entry, wanted = model(tmp_path / "m")
    local_copy(tmp_path / "m", entry, wanted, tmp_path / "node").release()
    (tmp_path / "m" / "model.safetensors").unlink()
    assert not local_copy(tmp_path / "m", entry, wanted, tmp_path / "node").made


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "no mark", "torn mark"])
def test_a_damaged_copy_is_made_anew(tmp_path: Path, damage: str) -> None:
    entry, wanted = model(tmp_path / "m")
    copy = local_copy(tmp_path / "m", entry, wanted, tmp_path / "node")
    copy.release()
    weights, mark = copy.directory / "model.safetensors", copy.directory.with_name(f"{wanted}.json")
    if damage == "cut":
        os.truncate(weights, 1000)
    elif damage == "changed":
        with weights.open("r+b") as f:
            f.seek(MB // 2)
            f.write(b"x")
    elif damage == "missing":
        weights.unlink()
    elif damage == "no mark":
        mark.unlink()
    else:
        mark.write_bytes(b'{"model')
    again = local_copy(tmp_path / "m", entry, wanted, tmp_path / "node")
    again.release()
    assert again.made
    assert identity(again.directory, entry) == wanted


def test_a_source_that_changed_is_refused(tmp_path: Path) -> None:
    entry, wanted = model(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text('{"seed": 2}')
    with pytest.raises(EngineError, match="changed since the run was planned"):
        local_copy(tmp_path / "m", entry, wanted, tmp_path / "node")
    home = tmp_path / "node" / f"gra-weights-{os.getuid()}"
    assert [p.name for p in home.iterdir()] == [f"{wanted}.lock"], "nothing half is left"


def test_a_blob_that_is_not_what_its_name_says_is_refused(tmp_path: Path) -> None:
    entry, _ = model(tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    blob = tmp_path / "blobs" / ("0" * 64)
    blob.parent.mkdir()
    weights.rename(blob)
    weights.symlink_to(blob)
    with pytest.raises(EngineError, match="is not what the Hub's cache says"):
        local_copy(tmp_path / "m", entry, identity(tmp_path / "m", entry), tmp_path / "node")


def test_two_tasks_at_once_make_one_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, wanted = model(tmp_path / "m")
    copy = weight_copies._copy
    copied: list[int] = []
    begun = threading.Barrier(5)

    def slow(files: list[Path], target: Path) -> object:
        copied.append(len(copied))
        begun.wait(60)  # until all others are about to look
        return copy(files, target)

    monkeypatch.setattr(weight_copies, "_copy", slow)
    got: list[weight_copies.Copy] = []

    def task() -> None:
        threading.Thread(target=begun.wait, daemon=True).start()
        got.append(local_copy(tmp_path / "m", entry, wanted, tmp_path / "node"))

    threads = [threading.Thread(target=task) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert len(copied) == 1
    assert sorted(c.made for c in got) == [False, False, False, True]
    for c in got:
        c.release()


def test_a_killed_copier_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    entry, wanted = model(tmp_path / "m")
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from gra_hpc.config.settings import ModelConfig\n"
        "from gra_hpc.engines import weight_copies\n"
        "copy = weight_copies._copy\n"
        "def half(files, target):\n"
        "    copy(files[:2], target); print('half', flush=True); time.sleep(60)\n"
        "weight_copies._copy = half\n"
        "weight_copies.local_copy(Path(sys.argv[1]), ModelConfig(path=sys.argv[1]), sys.argv[2], Path(sys.argv[3]))\n"
    )
    args = [sys.executable, "-c", code, str(tmp_path / "m"), wanted, str(tmp_path / "node")]
    with subprocess.Popen(args, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.kill()
    copy = local_copy(tmp_path / "m", entry, wanted, tmp_path / "node")
    copy.release()
    assert copy.made


def test_the_longest_unused_goes_first_and_none_in_use(tmp_path: Path) -> None:
    node, budget = tmp_path / "node", 0.0031  # three copies of 1 MB
    entries = [(tmp_path / f"m{i}", *model(tmp_path / f"m{i}", seed=i)) for i in range(5)]
    held = local_copy(*entries[0], node, budget)
    for i in (1, 2):
        local_copy(*entries[i], node, budget).release()
    os.utime(held.directory, (1, 1))  # the oldest, but in use
    third = local_copy(*entries[3], node, budget)
    home = node / f"gra-weights-{os.getuid()}"
    left = {p.name for p in home.iterdir() if p.is_dir()}
    assert left == {entries[i][2] for i in (0, 2, 3)}
    fourth = local_copy(*entries[4], node, budget)
    with pytest.raises(EngineError, match="no room"):
        local_copy(*entries[1], node, budget)
    for c in (held, third, fourth):
        c.release()


def test_what_cannot_be_copied_is_used_where_it_lies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (a, ida), (b, idb) = model(tmp_path / "a"), model(tmp_path / "b", 3 * MB)
    with (
        caplog.at_level(logging.INFO, "gra_hpc"),
        local_weights({"a": a, "b": b}, {"a": ida, "b": idb}, tmp_path / "node", 0.002) as models,
    ):
        assert models["a"].path.endswith(ida)
        assert models["b"].path == b.path
    text = caplog.text
    assert "weights of a: 0.00 GB copied to" in text and "GB/s), verified" in text
    assert "weights of b are read from" in text and "no room" in text
    with local_weights({"a": a}, {"a": ida}, tmp_path / "node", 0.002) as models:
        pass


def test_a_directory_in_other_hands_is_not_trusted(tmp_path: Path) -> None:
    """The copy lies beside it, under a name that the next task finds again."""
    entry, wanted = model(tmp_path / "m")
    home = tmp_path / "node" / f"gra-weights-{os.getuid()}"
    home.mkdir(parents=True)
    (home / wanted).mkdir()
    (home / wanted / "config.json").write_text("planted")
    home.chmod(0o775)
    copy = local_copy(tmp_path / "m", entry, wanted, tmp_path / "node")
    assert copy.made and copy.directory.parent != home and copy.directory.parent.stat().st_mode & 0o777 == 0o700
    copy.release()
    shutil.rmtree(home)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    home.symlink_to(tmp_path / "elsewhere")
    again = local_copy(tmp_path / "m", entry, wanted, tmp_path / "node")
    assert not again.made and again.directory == copy.directory
    assert not list((tmp_path / "elsewhere").iterdir())
    again.release()
