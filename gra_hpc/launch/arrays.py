"""Slurm jobs through submitit: arrays of shards, and merges that depend on them."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gra_hpc.config.settings import RunConfig
from gra_hpc.config.site import SiteConfig
from gra_hpc.errors import LaunchError
from gra_hpc.launch import slurm
from gra_hpc.launch.queue_gap import find_gap, settings_digest
from gra_hpc.launch.slurm import advice
from gra_hpc.launch.submissions import Submission, by_hand, job_name, match, refuse_while_at_work
from gra_hpc.launch.tasks import MergeTask, ShardTask
from gra_hpc.run.directory import OutputDir, RunDir
from gra_hpc.run.publish import is_published
from gra_hpc.run.rounds import Step

UNLIMITED = 10**9
"""submitit bounds requeues by time limit; ours are bounded by progress (`shard.run_shard`)."""
MERGE_TIMEOUTS = 2
"""A merge starts from the beginning: where it is too long twice, it is too long (`site.merge_time_minutes`)."""


def submit_steps(run: RunDir, config: RunConfig, steps: Sequence[Step]) -> Iterator[str]:
    """Submit arrays for the shards that are neither published nor in the queue, and the merges behind them.

    Each array depends on the merge before it; each merge on all arrays of its round (`afterany`: it decides from the
    manifests). What waits or runs already stays; see `queue_gap.find_gap` for what is cancelled and submitted anew.

    Yields:
        One line per job.

    Raises:
        LaunchError: Slurm refused a job; those before it are recorded and stay.
    """
    refuse_while_at_work(run)
    queue = slurm.queue()
    in_queue = match(run, queue)
    known = {task.id for _, task in in_queue}
    unknown = [task for task in queue if task.id not in known]
    for step in steps:
        in_queue += by_hand(run, step.round, step.shards, unknown)
    # published since the steps were worked out: such a task has left the queue, and must not come back
    steps = [replace(s, shards=tuple(n for n in s.shards if not _published(run, s, n))) for s in steps]
    size = config.site.max_array_size or slurm.max_array_size()
    gap = find_gap(steps, in_queue, settings_digest(config), size)
    if gap.cancel:
        slurm.cancel(gap.cancel)
        yield f"{len(gap.cancel)} tasks of earlier submissions cancelled: replaced, or done already"
    if gap.stay:
        yield f"{len(gap.stay)} tasks wait or run already"
    if not gap.jobs:
        yield "nothing to submit: all that is left is in the queue"
        return
    submission = Submission.new(run, gap.jobs)
    submission.save(run)
    merges = dict(gap.merges)
    for number, job in enumerate(gap.jobs):
        comment = submission.comment(run, number)
        before = merges.get(job.round - 1, "")
        if job.kind == "shards":
            depend = f"afterok:{before}" if before else ""
            lead = config.site.signal_lead_s
            tasks = [ShardTask(str(run.path), job.round, s, lead) for s in job.shards]
            job.id = submit_array(shard_executor(run, config, comment, depend), tasks)
            yield f"round {job.round}: array {job.id} of {len(tasks)} shards ({slurm.index_ranges(job.shards)})"
        else:
            arrays = [j.id for j in gap.jobs if j.kind == "shards" and j.round == job.round]
            arrays += gap.alive[job.round]
            parents = arrays or ([before] if before else [])
            kind = "afterany" if arrays else "afterok"
            depend = f"{kind}:{':'.join(dict.fromkeys(parents))}" if parents else ""
            job.id = submit_one(merge_executor(run, config, comment, depend), MergeTask(str(run.path), job.round))
            merges[job.round] = job.id
            yield f"round {job.round}: merge {job.id}{f' after {depend}' if depend else ''}"
        submission.complete = job is gap.jobs[-1]
        submission.save(run)


def _published(run: RunDir, step: Step, shard: int) -> bool:
    return is_published(run.round(step.round).shard(shard))


def shard_executor(run: RunDir, config: RunConfig, comment: str, depend: str = "") -> Any:
    """A submitit executor for shards."""
    site = config.site
    options = _common(site, comment, depend, site.partition)
    options |= _gpus(site)
    executor = _executor(run, site)
    executor.update_parameters(
        job_name=job_name(run),
        time=site.time_minutes,
        signal_delay_s=site.signal_lead_s,
        nodes=1,
        ntasks_per_node=1,
        stderr_to_stdout=True,
        array_parallelism=config.launch.parallel or site.parallel or 100_000,
        srun_args=_srun(site.task_cpus, site),
        setup=_setup(site),
        additional_parameters={**options, **site.sbatch},
        **_size(site.task_cpus, site.task_memory_gb),
    )
    return _without_wckey(executor, site)


def merge_executor(run: RunDir, config: RunConfig, comment: str, depend: str = "") -> Any:
    """A submitit executor for a merge: one CPU task."""
    site = config.site
    executor = _executor(run, site, MERGE_TIMEOUTS)
    executor.update_parameters(
        job_name=f"{job_name(run)}-merge"[:64],
        time=site.merge_time_minutes,
        signal_delay_s=min(site.signal_lead_s, 12 * site.merge_time_minutes),
        nodes=1,
        ntasks_per_node=1,
        stderr_to_stdout=True,
        srun_args=_srun(site.merge_cpus, site),
        setup=_setup(site),
        additional_parameters={**_common(site, comment, depend, site.merge_partition or site.partition), **site.sbatch},
        **_size(site.merge_cpus, site.merge_memory_gb),
    )
    return _without_wckey(executor, site)


@dataclass(frozen=True)
class Shape:
    """What a job that is no shard takes, where it differs from the site's shards. 0 or empty: as they."""

    name: str
    nodes: int = 1
    gpus: int = -1
    """GPUs per node. -1: as the shards."""
    cpus: int = 0
    memory_gb: float = 0.0
    time_minutes: int = 0
    lead_s: int = 0
    """Seconds before the time limit at which it is signalled."""
    partition: str = ""
    parallel: int = 0
    """Tasks of an array that run at once."""


def job_executor(run: OutputDir, site: SiteConfig, shape: Shape, comment: str, depend: str = "") -> Any:
    """A submitit executor for another job: one task per node."""
    options = _common(site, comment, depend, shape.partition or site.partition)
    options |= _gpus(site, shape.gpus)
    cpus, memory = shape.cpus or site.task_cpus, shape.memory_gb or site.task_memory_gb
    minutes = shape.time_minutes or site.time_minutes
    executor = _executor(run, site)
    executor.update_parameters(
        job_name=f"{job_name(run)}-{shape.name}"[:64],
        time=minutes,
        signal_delay_s=min(shape.lead_s or site.signal_lead_s, 12 * minutes),
        nodes=shape.nodes,
        ntasks_per_node=1,
        stderr_to_stdout=True,
        array_parallelism=shape.parallel or 100_000,
        srun_args=_srun(cpus, site),
        setup=_setup(site),
        additional_parameters={**options, **site.sbatch},
        **_size(cpus, memory),
    )
    return _without_wckey(executor, site)


def sbatch_text(run: RunDir, config: RunConfig, shards: int) -> str:
    """The sbatch file that an array of shards would be submitted with."""
    executor = shard_executor(run, config, "gra:RUN:SUBMISSION:0")
    return script_of(executor, min(shards, config.site.max_array_size or shards))


def script_of(executor: Any, tasks: int = 0) -> str:
    """The sbatch file of a submitit executor: of one job, or of an array of `tasks`."""
    if tasks:
        executor.parameters["map_count"] = tasks
    return str(executor._make_submission_file_text(executor._submitit_command_str, "UID"))


def _executor(run: OutputDir, site: SiteConfig, timeouts: int = UNLIMITED) -> Any:
    import submitit

    class Executor(submitit.SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            """Also where sbatch is missing: texts are rendered on any machine; submitting says what is missing."""
            return 2

    python = launcher(site)
    return Executor(folder=run.logs / "%A", max_num_timeout=timeouts, python=python)


def launcher(site: SiteConfig) -> str | None:
    """What starts Python in the job: the site's, in its container if it has one; None: the submitter's own."""
    import shlex

    kind, _, image = site.container.partition(":")
    python = site.python or sys.executable
    if kind == "apptainer":
        nv = "--nv " if site.gpus_per_node else ""
        return f"apptainer exec {nv}{shlex.quote(image)} {shlex.quote(site.python or 'python3')}"
    return shlex.quote(python) if site.python else None


def _common(site: SiteConfig, comment: str, depend: str, partition: str) -> dict[str, Any]:
    named = {
        "account": site.account,
        "partition": partition,
        "qos": site.qos,
        "constraint": site.constraint,
        "reservation": site.reservation,
        "exclude": site.exclude,
        "dependency": depend,
    }
    return {
        **{k: v for k, v in named.items() if v},
        "comment": comment,
        "requeue": True,
        "kill-on-invalid-dep": "yes",
        "open-mode": "append",
    }


def _gpus(site: SiteConfig, count: int = -1) -> dict[str, Any]:
    count = site.gpus_per_node if count < 0 else min(count, site.gpus_per_node)
    if not count or site.gpu_style == "none":
        return {}
    typed = f"{site.gpu_type}:" if site.gpu_type else ""
    if site.gpu_style == "gres":
        return {"gres": f"gpu:{typed}{count}"}
    return {"gpus-per-node": f"{typed}{count}"}


def _size(cpus: int, memory_gb: float) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if cpus:
        out["cpus_per_task"] = cpus
    if memory_gb:
        out["mem"] = f"{int(memory_gb * 1024)}M"
    return out


def _srun(cpus: int, site: SiteConfig) -> list[str]:
    args = ["--kill-on-bad-exit=1"]
    if cpus:  # since Slurm 22.05 srun does not inherit it
        args.append(f"--cpus-per-task={cpus}")
    kind, _, image = site.container.partition(":")
    if kind == "pyxis":
        args.append(f"--container-image={image}")
    return args


def _setup(site: SiteConfig) -> list[str]:
    return [*(f"module load {m}" for m in site.modules), *site.setup]


def _without_wckey(executor: Any, site: SiteConfig) -> Any:
    if not site.wckey:
        executor.parameters["wckey"] = None
    return executor


def submit_array(executor: Any, tasks: Sequence[Any]) -> str:
    """Submit an array; its id."""
    if len(tasks) == 1:  # one submission is no array: its id has no index
        return submit_one(executor, tasks[0])
    return str(_guarded(lambda: executor.submit_array(tasks))[0].job_id.split("_")[0])


def submit_one(executor: Any, task: Any) -> str:
    """Submit a job that is no array; its id."""
    return str(_guarded(lambda: executor.submit(task)).job_id.split("_")[0])


def _guarded(act: Any) -> Any:
    """submitit's and sbatch's refusals as one line."""
    import submitit

    heard = io.StringIO()  # submitit repeats what sbatch said, which the one line says too
    try:
        with contextlib.redirect_stderr(heard):
            done = act()
        print(heard.getvalue(), end="", file=sys.stderr)
        return done
    except FileNotFoundError as e:
        raise LaunchError(
            f"{e.filename or 'sbatch'}: command not found", "site.executor=local, or load Slurm"
        ) from None
    except submitit.core.utils.FailedJobError as e:
        lines = [x for x in str(e).splitlines() if "error" in x.lower()] or str(e).splitlines()[-1:]
        said = "; ".join(dict.fromkeys(x.strip().removeprefix("sbatch: error: ") for x in lines))
        raise LaunchError(f"sbatch refused: {said}", advice(said)) from None
