"""A shard dies at every point where what lies on the disk changes; the next attempt makes the same result."""

from __future__ import annotations

import re
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest

from gra_hpc.run.publish import is_published
from gra_hpc.run.run import Run
from tools.faults import faults
from tools.faults.faults import SYNTHESIZE, Audit, Nursery, check_shard

SHARD = (0, "--round", 1)


@pytest.fixture(scope="module")
def tiny(crash_dir: Path) -> tuple[Run, Run]:
    """A run of one shard and about twenty calls, and the same, undisturbed."""
    run = faults.make_run(crash_dir / "tiny", 3, ["launch.shards=1"])
    return run, faults.undisturbed(faults.make_run(crash_dir / "tiny-reference", 3, ["launch.shards=1"]))


def copy_of(run: Run, name: str) -> Run:
    path = run.path.with_name(name)
    shutil.rmtree(path, ignore_errors=True)
    return Run.open(shutil.copytree(run.path, path))


def boundaries(run: Run, nursery: Nursery, log: Path) -> list[str]:
    """What an undisturbed attempt does to the disk, in order."""
    copy, listing = copy_of(run, "listed"), log.with_name("boundaries")
    assert nursery.start(SYNTHESIZE, copy.path, *SHARD, log=log, below=copy.path, listing=listing).wait() == 0
    return listing.read_text().splitlines()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("of_a_kind", [1, pytest.param(1000, marks=pytest.mark.slow)])
def test_death_at_every_write_boundary(tiny: tuple[Run, Run], nursery: Nursery, tmp_path: Path, of_a_kind: int) -> None:
    """Of boundaries that differ in numbers alone, only so many; the test after this one dies at every answer."""
    run, reference = tiny
    log = tmp_path / "log"
    steps = boundaries(run, nursery, log)
    kinds = {s.split()[0] for s in steps}
    assert {"write", "write_table", "fsync", "rename", "link", "remove", "rmtree"} <= kinds
    seen: Counter[str] = Counter()
    for at, step in enumerate(steps, 1):
        torn = at % 2 == 1  # where it is a write: half of it is done
        kind = re.sub(r"\d[\w-]*|(?<=\.)[\da-f]{16}(?=\.tmp)", "N", step) + (
            " torn" if torn and step.startswith("write") else ""
        )
        seen[kind] += 1
        if seen[kind] > of_a_kind:
            continue
        where = f"{step} (boundary {at})"
        copy = copy_of(run, "dying")
        shard = copy.round(1).shard(0)
        audit = Audit(shard)
        audit.starting()
        dead = nursery.start(SYNTHESIZE, copy.path, *SHARD, log=log, below=copy.path, at=at, torn=torn)
        assert dead.wait() == -signal.SIGKILL, where
        audit.stopped()
        linked = any(s.startswith("link ") for s in steps[: at - 1])
        assert is_published(shard) == linked, where
        audit.starting()
        again = nursery.start(SYNTHESIZE, copy.path, *SHARD, log=log)
        assert again.wait() == 0, f"{where}: {again.tail()}"
        assert audit.published()[1] == 0, f"{where}: an answered call was lost"
        assert audit.reasked == 0, f"{where}: an answered call was asked again"
        check_shard(shard, reference.round(1).shard(0))
    assert len(seen) > 25


@pytest.mark.timeout(600)
def test_every_attempt_dies_after_one_more_answer(tiny: tuple[Run, Run], nursery: Nursery, tmp_path: Path) -> None:
    """A chain of as many attempts as there are calls; every other one leaves a torn line behind."""
    run, reference = tiny
    log = tmp_path / "log"
    copy = copy_of(run, "chain")
    shard = copy.round(1).shard(0)
    audit = Audit(shard)
    for attempt in range(200):
        audit.starting()
        process = nursery.start(
            SYNTHESIZE, copy.path, *SHARD, log=log, below=copy.path, only="write", at=2, torn=attempt % 2 == 1
        )
        if process.wait() == 0:
            break
        assert process.wait() == -signal.SIGKILL, process.tail()
        audit.stopped()
        assert len(audit.answered) == attempt + 1
    calls, lost = audit.published()
    assert (lost, audit.reasked) == (0, 0)
    assert calls == attempt + 1 > 15
    check_shard(shard, reference.round(1).shard(0))
