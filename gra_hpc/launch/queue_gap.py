"""The gap between what is left of a run and what Slurm's queue holds for it: what to submit, what to cancel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from gra_hpc.config.settings import RunConfig
from gra_hpc.launch.legs import Leg
from gra_hpc.launch.slurm import Task
from gra_hpc.launch.submissions import Job
from gra_hpc.records import digest


@dataclass
class Gap:
    """What a submission has to do; empty when typed twice."""

    jobs: list[Job] = field(default_factory=list)
    """To submit, in this order: a leg's arrays of workers, then its merge."""
    cancel: list[str] = field(default_factory=list)
    """Tasks that would do what is done already, or with other settings, or wait for what will not come; and all, also
    running, of jobs whose submitter died before it had written everything that they need, or that look for it where the
    run lay before."""
    stay: list[str] = field(default_factory=list)
    """Tasks that wait or run and are right as they are."""
    alive: dict[int, list[str]] = field(default_factory=dict)
    """Arrays, by the last round of their leg, of which tasks stay: its merge must wait for them too."""
    merges: dict[int, str] = field(default_factory=dict)
    """Merges that stay, by round: the arrays of the next round must wait for them."""


def settings_digest(config: RunConfig) -> str:
    """Digest of what a job's sbatch text says: a waiting task with another one is submitted anew."""
    return digest(asdict(config.site), config.launch.parallel, size=8)


def find_gap(legs: Sequence[Leg], in_queue: Sequence[tuple[Job, Task]], settings: str, size: int, add: int = 0) -> Gap:
    """Compare what is left with what is in the queue.

    A worker that runs is left alone: it goes on until no shard is left. One that waits keeps its place in the queue,
    unless its settings have changed since (plain sbatch has settings of its own), or it would end with another round,
    or it waits for something that cannot happen, or there is no shard for it. Tasks of a job whose submitter died
    before it had noted the job's id are replaced: what they need may never have been written, and they would fail for
    lack of it.

    Args:
        legs: what is left, in order.
        in_queue: tasks of the run that wait or run, with what each is for.
        settings: digest of the present settings.
        size: largest array.
        add: so many workers more in the first leg, whatever waits there.
    """
    gap = Gap()
    rearmed = False  # a merge is submitted anew, so what waits for the old one must be too
    gap.cancel += [t.id for job, t in in_queue if _leg_of(job, legs) is None and t.waiting]
    for leg in legs:
        mine = [(job, t) for job, t in in_queue if _leg_of(job, legs) is leg]
        running = [(job, t) for job, t in mine if t.running and _known(job)]
        workers = [(job, t) for job, t in running if job.kind == "workers"]
        gap.stay += [t.id for _, t in running]
        gap.cancel += [t.id for job, t in mine if t.running and not _known(job)]
        more = add if leg is legs[0] else 0
        wanted = leg.most if more else min(leg.workers, leg.most)
        able = sum(job.through >= leg.last for job, _ in workers)
        for job, t in mine:
            if job.kind != "workers" or not t.waiting:
                continue
            right = _right(job, t, settings) or (more and _known(job) and not t.hopeless)
            if right and not rearmed and able < wanted and job.through == leg.last:
                able += 1
                workers.append((job, t))
                gap.stay.append(t.id)
            else:
                gap.cancel.append(t.id)
        lacking = min(more or wanted, wanted - able)
        places = spread(leg.shards, lacking)
        gap.jobs += [Job("workers", leg.first, places[i : i + size], last=leg.last) for i in range(0, lacking, size)]
        gap.alive[leg.last] = list(dict.fromkeys(str(t.job) for _, t in workers))
        merging = [t for job, t in running if job.kind == "merge" and job.through == leg.last]
        waiting = [(job, t) for job, t in mine if job.kind == "merge" and t.waiting]
        fitting = [t for job, t in waiting if _right(job, t, settings) and job.through == leg.last]
        good = fitting if lacking <= 0 and not rearmed else []
        # a merge that runs while shards of its leg are not through will say so and end: another must follow
        if good or (merging and lacking <= 0 and not workers):
            gap.merges[leg.last] = str((good or merging)[0].job)
        else:
            gap.jobs.append(Job("merge", leg.first, last=leg.last))
            rearmed = True
        gap.stay += [t.id for t in good[:1]]
        gap.cancel += [t.id for _, t in waiting if t not in good[:1]]
    for job in gap.jobs:
        job.settings = settings
    return gap


def spread(shards: Sequence[int], workers: int) -> list[int]:
    """Shards for so many workers to begin at, as far from each other as can be."""
    return [shards[i * len(shards) // workers] for i in range(workers)]


def _leg_of(job: Job, legs: Sequence[Leg]) -> Leg | None:
    """What a job is at, or will be; none where that is done."""
    leg = next((leg for leg in legs if leg.last >= job.round), None)
    return leg if leg is not None and job.through >= leg.first else None


def _right(job: Job, task: Task, settings: str) -> bool:
    """Whether a waiting task may stay."""
    return _known(job) and (job.plain or job.settings == settings) and not task.hopeless


def _known(job: Job) -> bool:
    """Whether its submitter came so far that all it needs was written, and where it looks for it."""
    return (bool(job.id) or job.plain) and not job.moved
