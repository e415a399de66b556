"""A real full file system, while journalling and while publishing: one clear line, nothing half, and on it goes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gra_hpc.run.directory import ShardDir
from gra_hpc.run.publish import is_published
from gra_hpc.run.run import Run
from tools.faults.faults import MERGE, SYNTHESIZE, Audit, check_shard, journals, release_of, small_disk

MakeRun = Callable[..., Run]
JOB = (0, "--round", 1)
ROOMY_KB = 20_000


@pytest.fixture
def tight(new_run: MakeRun) -> Iterator[tuple[Run, ShardDir, Callable[[int], None]]]:
    """A run whose first shard lies on a file system of its own, and what resizes that."""
    run = new_run()
    shard = run.round(1).shard(0)
    try:
        with small_disk(shard.path, 16) as resize:
            yield run, shard, resize
    except PermissionError as e:
        pytest.skip(str(e))


def test_while_journalling(tight, reference: Run, nursery, tmp_path: Path) -> None:
    run, shard, resize = tight
    audit = Audit(shard)
    for kilobytes in (16, 28, ROOMY_KB):  # each time there is room for a little more
        resize(kilobytes)
        audit.starting()
        log = tmp_path / f"{kilobytes}.log"
        process = nursery.start(SYNTHESIZE, run.path, *JOB, log=log)
        code = process.wait()
        if kilobytes == ROOMY_KB:
            assert code == 0, process.tail()
            continue
        assert code == 1
        last = process.tail().splitlines()[-1]
        assert last.startswith("synthesize: ")
        assert "journal.log: no space left on this file system; nothing was published half" in last
        assert last.endswith("make room, then gra resume RUN")
        assert "Traceback" not in process.tail(100_000)
        assert not is_published(shard)
        audit.stopped()
        assert audit.answered
    assert audit.published()[1] == audit.reasked == 0
    check_shard(shard, reference.round(1).shard(0))


def test_while_publishing(tight, reference: Run, nursery, tmp_path: Path) -> None:
    """All calls are answered and journalled; the tables find no room."""
    run, shard, resize = tight
    resize(ROOMY_KB)
    audit = Audit(shard)
    audit.starting()
    dead = nursery.start(SYNTHESIZE, run.path, *JOB, log=tmp_path / "log", below=run.path, only="write_table", at=1)
    assert dead.wait() == -signal.SIGKILL
    audit.stopped()
    for leftover in shard.path.glob(".*.tmp"):
        leftover.unlink()
    used = sum(f.stat().st_blocks for f in shard.path.rglob("*")) // 2
    for more in (8, 20, 32):
        resize(used + more)
        audit.starting()
        process = nursery.start(SYNTHESIZE, run.path, *JOB, log=tmp_path / f"{more}.log")
        code = process.wait()
        assert code == 1, process.tail()
        last = process.tail().splitlines()[-1]
        assert "no space left on this file system; nothing was published half" in last
        assert not is_published(shard)
        assert not list(shard.path.glob(".*.tmp"))
        audit.stopped()
    assert len(journals(shard)) >= 2
    resize(ROOMY_KB)
    audit.starting()
    process = nursery.start(SYNTHESIZE, run.path, *JOB, log=tmp_path / "log")
    assert process.wait() == 0, process.tail()
    assert audit.published()[1] == audit.reasked == 0
    check_shard(shard, reference.round(1).shard(0))
    for job in ((SYNTHESIZE, run.path, 1), (MERGE, run.path)):
        process = nursery.start(*job, "--round", 1, log=tmp_path / "log")
        assert process.wait() == 0, process.tail()
    assert release_of(run) == release_of(reference)
