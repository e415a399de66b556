"""Rounds: what is left to do of a run, and what follows when a round's shards are published."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys

from gra_hpc import whole_directory
from gra_hpc.errors import IncompleteError
from gra_hpc.launch.log_files import BESIDE
from gra_hpc.log_tail import last_words
from gra_hpc.permissions import closed_directory
from gra_hpc.run.attempts import job_id
from gra_hpc.run.directory import round_name
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.publish import is_published, sweep
from gra_hpc.run.rounds import is_taken_back, late_shards
from gra_hpc.run.run import Run
from gra_hpc.terminal import word
from gra_hpc.workers import child_environment

PROCESS = "gra_hpc.launch.merge_process"


def finish_round(run: Run, number: int) -> str:
    """Merge a round whose shards are published, which plans the next one, or make the release. Safe to repeat.

    Where the merge takes back that some shards are not needed (`rounds.is_taken_back`), no release is made yet.

    Raises:
        IncompleteError: shards are missing and `merge.allow_partial` is off; or nothing survived by which the next
            round could be sized.
    """
    from gra_hpc.merge.described_seeds import merge_described
    from gra_hpc.merge.round import merge_round

    if number not in run.rounds:
        raise IncompleteError(f"{round_name(number)}: this run has rounds {run.rounds}", f"gra status {word(run.path)}")
    own = ((number, s) for s in range(run.shards_of(number)))
    for shard in (run.round(r).shard(s) for r, s in (*own, *late_shards(run, number))):
        if shard.attempts.is_dir() and is_published(shard):
            sweep(shard)  # it died between its manifest and this
    tidy(run)
    if number == 0:
        return merge_described(run)
    summary = merge_round(run, number)
    if is_taken_back(run, number):  # asked first: without its shards there may be nothing to size the next round by
        return str(summary)
    if number < run.config.method.rounds:
        RoundPlan.load(run.round(number + 1))  # or says why there is none
        return str(summary)
    from gra_hpc.release.build import build, made_from

    before = made_from(run.release)
    build(run)
    if summary.done_before and made_from(run.release) != before:
        return f"round {number}: was merged before; release built anew in {run.release}"
    return f"{summary}; release in {run.release}"


def tidy(run: Run) -> None:
    """Remove what merges and builds left that died once they had published; nobody would run them again."""
    for number in run.rounds:
        whole_directory.sweep(run.round(number).merged)
        if run.round(number).manifest.is_file():
            shutil.rmtree(run.round(number).merging.path, ignore_errors=True)
    whole_directory.sweep(run.release)


async def merge_beside(run: Run, number: int) -> None:
    """`finish_round` in a process of its own, without the GPUs, which ends with whoever waits for it.

    Raises:
        IncompleteError: it failed; the log says how.
    """
    words = [sys.executable, "-P", "-m", PROCESS, str(run.path), str(number), str(os.getpid())]
    env = {**os.environ, **child_environment(CUDA_VISIBLE_DEVICES="")}
    log = closed_directory(run.logs / BESIDE) / f"merge-{number}-{job_id() or f'local-{os.getpid()}'}.log"
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out, env=env
        )
    try:
        code = await process.wait()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if code:
        said = last_words(log) or f"ended with code {code}"
        raise IncompleteError(f"{round_name(number)}: its merge: {said} (log: {log})", f"gra merge {word(run.path)}")
