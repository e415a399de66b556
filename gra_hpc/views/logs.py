"""Logs of a run, shown: which file belongs to which shard, and its last lines.

RUN/logs/JOB/JOB_INDEX_0_log.out    an array task, over all its restarts (JOB_0_log.out: a job that is no array)
RUN/logs/local/PID_0_log.{out,err}  a job of the local executor
RUN/logs/ATTEMPT/*.log              the engines of one worker, one file per start, named by its first attempt
"""

from __future__ import annotations

from collections.abc import Iterator

from gra_hpc.errors import GraError, IncompleteError
from gra_hpc.launch.log_files import Finder, job_number
from gra_hpc.log_tail import tail
from gra_hpc.run.directory import round_name
from gra_hpc.run.rounds import current_round
from gra_hpc.run.run import Run
from gra_hpc.terminal import word


def show(run: Run, shard: int | None, round_: int | None, merge: bool, lines: int) -> Iterator[str]:
    """What `gra logs` prints.

    Args:
        shard: none: one that failed, else one that runs, of the latest job.
        round_: none: the current one.
        merge: the merge's log in place of a shard's.
        lines: of each log; 0: only their paths.

    Raises:
        GraError: no such shard, or no log of it.
    """
    from gra_hpc.run.attempts import newest_attempt

    number = _current(run) if round_ is None else round_
    finder = Finder(run)
    if merge:
        what, logs = f"merge of {round_name(number)}", finder.merge(number)
    else:
        count = run.shards_of(number)
        if shard is None:
            shard = _interesting(run, number, finder)
        if not 0 <= shard < count:
            raise GraError(
                f"shard {shard}: {round_name(number)} has shards 0 to {count - 1}", f"gra status {word(run.path)}"
            )
        directory = run.round(number).shard(shard)
        what = f"{round_name(number)} shard {shard}"
        beat = newest_attempt(directory)
        logs = finder.shard(number, directory, beat)
        if lines and beat and beat.message:  # its log may have had no room for it
            yield f"{what}: {beat.phase}: {beat.message}"
    files = [*logs.job, *logs.engines]
    if not files:
        done = merge and run.round(number).manifest.is_file()
        why = "it was made by hand, or its log was cleaned" if done else "it has not started yet, or was cleaned"
        raise GraError(f"{what}: no log in {run.logs}", f"{why}; gra status {word(run.path)}")
    for file in files:
        yield f"==> {file}" if lines else str(file)
        if lines:
            try:
                yield from tail(file, lines)
            except OSError as e:
                yield f"({e.strerror})"


def _current(run: Run) -> int:
    """The round that is being worked on; the last one that was, where no further one can be planned."""
    try:
        return current_round(run)
    except IncompleteError:
        return max(n for n in run.rounds if run.round(n).manifest.is_file())


def _interesting(run: Run, number: int, finder: Finder) -> int:
    """The shard of a round that failed, of the latest job; else one that runs, or the last that ran."""
    from gra_hpc.run.attempts import newest_attempt

    def key(shard: int) -> tuple[bool, bool, float]:
        directory = run.round(number).shard(shard)
        beat = newest_attempt(directory)
        main = finder.shard(number, directory, beat).main
        failed, runs = (beat.phase == "failed", not beat.ended) if beat else (False, False)
        return failed, runs, job_number(main) if main else 0.0

    return max(range(run.shards_of(number)), key=key)
