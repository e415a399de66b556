"""A run of three rounds dies at any of its writes; what is left of it is known from its files, and goes on to the same
release."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from gra_hpc.release.verify.verify import verify
from gra_hpc.run.merged import Merged
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.publish import is_published
from gra_hpc.run.rounds import current_round, remaining
from gra_hpc.run.run import Run
from gra_hpc.run.worker import run_shard
from gra_hpc.views.status import collect
from gra_hpc.views.status_lines import next_command
from tests.crash.test_boundaries import copy_of
from tools.faults import faults
from tools.faults.faults import WHOLE_RUN, Nursery, check_shard, release_of


@pytest.fixture(scope="module")
def three(crash_dir: Path) -> tuple[Run, Run]:
    """A planned run of three rounds of one shard with a target, and the same, undisturbed."""
    words = ["launch.shards=1", "method.rounds=3", "method.target_accepted=2", "method.expected_acceptance=0.8"]
    words.append("launch.inline_merge_rows=0")  # merges in the process that is killed
    run = faults.make_run(crash_dir / "three", 2, words)
    return run, faults.undisturbed(faults.make_run(crash_dir / "three-reference", 2, words))


def same_end(run: Run, reference: Run, where: str) -> None:
    """All rounds and the release are those of the undisturbed run, and nothing else is left."""
    assert remaining(Run.open(run.path)) == [], where
    assert release_of(run) == release_of(reference), where
    for number in run.rounds:
        assert RoundPlan.load(run.round(number)) == RoundPlan.load(reference.round(number)), where
        check_shard(run.round(number).shard(0), reference.round(number).shard(0))
    left = [p.relative_to(run.path) for p in run.path.rglob(".*") if not p.is_relative_to(run.submissions)]
    assert not left, where


@pytest.mark.timeout(600)
def test_death_right_after_each_merge_is_published(three: tuple[Run, Run], nursery: Nursery, tmp_path: Path) -> None:
    """The next round is planned with it: what is told and what is done next are right, at once."""
    planned, reference = three
    run = copy_of(planned, "after-merges")
    for merged in (1, 2, 3):  # and after the last one the release, which is all that is left
        after = rf"rename rounds/{merged:02d}/\.merged[^/]*/out$"
        dead = nursery.start(WHOLE_RUN, run.path, log=tmp_path / "log", below=run.path, after=after)
        assert dead.wait() == -signal.SIGKILL, dead.tail()
        assert run.round(merged).manifest.is_file() and not run.round(merged + 1).path.exists()
        here = Run.open(run.path)
        assert current_round(here) == min(3, merged + 1)
        assert [s.round for s in remaining(here)] == [*range(merged + 1, 4)] or merged == 3
        assert next_command(collect(here, ask_slurm=False)) == f"gra resume {run.path}"
        if merged < 3:
            assert RoundPlan.load(here.round(merged + 1)) == RoundPlan.load(reference.round(merged + 1))
    again = nursery.start(WHOLE_RUN, run.path, log=tmp_path / "log")
    assert again.wait() == 0, again.tail()
    same_end(run, reference, "after every merge")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_death_right_after_a_merge_without_some_shards(crash_dir: Path, nursery: Nursery, tmp_path: Path) -> None:
    """It has kept too few rows, and died before anybody was told; so does the one that replaces it."""
    words = ["launch.shards=8", "launch.window=1", "launch.stop_at_target=true", "method.target_accepted=6"]
    words += ["method.expected_acceptance=0.25", "merge.fuzzy_threshold=0.25", "merge.shingle=1"]
    words += ["method.accept_mean=1", "method.accept_sd=10", "engine.simulated_failures=0"]
    run = faults.make_run(crash_dir / "stopped", 12, words)
    shards = [run.round(1).shard(s) for s in range(8)]
    while (step := remaining(run)[0]).shards:  # one at a time: workers have several open
        run_shard(run, 1, step.shards[0])
    for after in (r"rename rounds/01/\.merged[^/]*/out$", "exchange rounds/01/merged$"):
        before = sum(map(is_published, shards))
        dead = nursery.start(WHOLE_RUN, run.path, log=tmp_path / "log", below=run.path, after=after)
        assert dead.wait() == -signal.SIGKILL, dead.tail()
        more = sum(map(is_published, shards)) > before
        assert remaining(run)[0].round == 1 and (more or remaining(run)[0].shards)
        assert next_command(collect(run, ask_slurm=False)) == f"gra resume {run.path}"
    assert more, "made before the merge that was to replace the first one"
    again = nursery.start(WHOLE_RUN, run.path, log=tmp_path / "log")
    assert again.wait() == 0, again.tail()
    assert remaining(run) == [] and Merged.of(run.round(1)).complete and verify(run.release) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_death_at_every_write_of_a_run(three: tuple[Run, Run], nursery: Nursery, tmp_path: Path) -> None:
    """Of boundaries of one round that differ in numbers alone, one: `test_boundaries.py` dies at every answer."""
    planned, reference = three
    log, listing = tmp_path / "log", tmp_path / "boundaries"
    copy = copy_of(planned, "listed")
    assert nursery.start(WHOLE_RUN, copy.path, log=log, below=copy.path, listing=listing).wait() == 0
    kinds: dict[str, int] = {}
    for at, step in enumerate(listing.read_text().splitlines(), 1):
        what, _, path = step.partition(" ")
        head, _, tail = path.partition("/shards/")  # which round it is counts
        tail = re.sub(r"\d[\w-]*", "N", tail)
        kinds.setdefault(f"{what} {re.sub(r'-.*?(?=/|$)', '', head)} {tail}", at)
    assert len(kinds) > 100 and sum("round 3" in k or "rounds/03" in k for k in kinds) > 25
    for kind, at in kinds.items():
        copy = copy_of(planned, "dying")
        where = f"{kind} (boundary {at})"
        dead = nursery.start(WHOLE_RUN, copy.path, log=log, below=copy.path, at=at)
        assert dead.wait() == -signal.SIGKILL, where
        again = nursery.start(WHOLE_RUN, copy.path, log=log)
        assert again.wait() == 0, f"{where}: {again.tail()}"
        same_end(copy, reference, where)
