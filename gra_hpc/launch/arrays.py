"""Slurm jobs through submitit: arrays of workers, and merges that depend on them."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gra_hpc.config.settings import RunConfig
from gra_hpc.config.site import SiteConfig
from gra_hpc.launch import slurm
from gra_hpc.launch.cancel import wait_until_gone
from gra_hpc.launch.environment import overruled
from gra_hpc.launch.legs import legs_of
from gra_hpc.launch.queue_gap import find_gap, settings_digest
from gra_hpc.launch.submissions import Submission, by_hand, job_name, match, refuse_copy, refuse_while_at_work
from gra_hpc.launch.tasks import MergeTask, WorkerTask
from gra_hpc.run.directory import OutputDir, RunDir, round_name
from gra_hpc.run.publish import is_published
from gra_hpc.run.rounds import Step
from gra_hpc.run.run import Run
from gra_hpc.storage import PRIVATE, write_atomic
from gra_hpc.terminal import complain, counted

UNLIMITED = 10**9
"""submitit bounds requeues by time limit; ours are bounded by progress (`shard.attempt`)."""
MERGE_TIMEOUTS = 2
"""A merge starts from the beginning: where it is too long twice, it is too long (`site.merge_time_minutes`)."""


def submit_steps(run: Run, steps: Sequence[Step], add: int = 0, elsewhere: RunConfig | None = None) -> Iterator[str]:
    """Submit workers for what is left and not in the queue, and a merge behind those of each leg.

    Each array depends on the merge before it; each merge on all arrays of its leg (`afterany`: it decides from the
    manifests). What waits or runs already stays; see `queue_gap.find_gap` for what is cancelled and submitted anew.

    Args:
        add: so many more in the first of the steps than there are.
        elsewhere: their settings, if not the run's.

    Yields:
        One line per job.

    Raises:
        LaunchError: it is a copy of a run that is at work; Slurm refuses the jobs, none of which is submitted; or, of
            late, one of them: those before it are recorded and stay.
    """
    config = run.config
    refuse_while_at_work(run)
    queue = slurm.queue()
    refuse_copy(run, queue)
    in_queue = match(run, queue)
    known = {task.id for _, task in in_queue}
    unknown = [task for task in queue if task.id not in known]
    # published since the steps were worked out: nobody is to be submitted for those
    left = [replace(s, shards=tuple(n for n in s.shards if not _published(run, s, n))) for s in steps]
    through = max((job.through for job, task in in_queue if job.kind == "workers" and task.running), default=0)
    legs = legs_of(run, left, through=through)
    for leg in legs:
        in_queue += by_hand(run, (leg.first, leg.last), leg.shards, unknown)
    size = config.site.max_array_size or slurm.max_array_size()
    gap = find_gap(legs, in_queue, settings_digest(config), size, add)
    if gap.jobs:
        examples = {
            "workers": shard_executor(run, elsewhere or config, "gra:"),
            "merge": merge_executor(run, config, "gra:"),
        }
        refuse_refused(*(examples[kind] for kind in sorted({job.kind for job in gap.jobs})))
        if note := overruled_note(examples["merge"]):
            yield note
    if gap.cancel:
        slurm.cancel(gap.cancel)
        yield f"{counted(len(gap.cancel), 'task')} of earlier submissions cancelled: replaced, or done already"
        if running := {task.id for _, task in in_queue if task.running}.intersection(gap.cancel):
            wait_until_gone(running)  # or workers take their shards for taken
    if gap.stay:
        yield f"{counted(len(gap.stay), 'task')} {'waits or runs' if len(gap.stay) == 1 else 'wait or run'} already"
    if not gap.jobs:
        yield "nothing to submit: all that is left is in the queue"
        return
    submission = Submission.new(run, gap.jobs)
    submission.save(run)
    merges = dict(gap.merges)
    for number, job in enumerate(gap.jobs):
        comment = submission.comment(run, number)
        before = merges.get(job.round - 1, "")
        if job.kind == "workers":
            depend = f"afterok:{before}" if before else ""
            leg = next(leg for leg in legs if leg.first == job.round)
            own = elsewhere if elsewhere and leg is legs[0] else config
            tasks = [WorkerTask(str(run.path), leg.first, at, own.site.signal_lead_s, leg.last) for at in job.shards]
            job.id = submit_array(shard_executor(run, own, comment, depend), tasks)
            shards = counted(sum(len(step.shards) for step in leg.steps), "shard")
            yield f"{leg}: array {job.id} of {counted(len(tasks), 'worker')} for {shards}"
        else:
            arrays = [j.id for j in gap.jobs if j.kind == "workers" and j.round == job.round]
            arrays += gap.alive[job.through]
            parents = arrays or ([before] if before else [])
            kind = "afterany" if arrays else "afterok"
            depend = f"{kind}:{':'.join(dict.fromkeys(parents))}" if parents else ""
            executor = merge_executor(run, config, comment, depend, last=job.through == run.rounds[-1])
            job.id = submit_one(executor, MergeTask(str(run.path), job.through))
            merges[job.through] = job.id
            yield f"{round_name(job.through)}: merge {job.id}{f' after {depend}' if depend else ''}"
        submission.complete = job is gap.jobs[-1]
        submission.save(run)


def _published(run: RunDir, step: Step, shard: int) -> bool:
    return is_published(run.round(step.round).shard(shard))


@dataclass(frozen=True)
class Demand:
    """What a job asks of Slurm: one task per node, as often as there are tasks."""

    name: str
    """Behind the run's name; empty for workers."""
    minutes: int
    lead_s: int
    """Seconds before the time limit at which it is signalled; at most a fifth of it."""
    partition: str
    cpus: int
    """Per node, as the other two. 0: what the site gives."""
    memory_gb: float
    gpus: int
    nodes: int = 1
    parallel: int = 0
    """Tasks of an array that run at once; 0: all."""
    timeouts: int = UNLIMITED
    """Time limits after which it is not requeued."""
    mail: str = ""
    """Of what Slurm writes to `site.mail`: FAIL, END; empty: of nothing."""

    @classmethod
    def of_shards(cls, site: SiteConfig, parallel: int = 0) -> Demand:
        """A node, or the share of one that a task of the site is."""
        return cls(
            name="",
            minutes=site.time_minutes,
            lead_s=site.signal_lead_s,
            partition=site.partition,
            cpus=site.task_cpus,
            memory_gb=site.task_memory_gb,
            gpus=site.gpus_per_node,
            parallel=parallel or site.parallel,
        )

    @classmethod
    def of_merge(cls, site: SiteConfig, name: str = "merge") -> Demand:
        """CPUs alone."""
        return cls(
            name=name,
            minutes=site.merge_time_minutes,
            lead_s=site.signal_lead_s,
            partition=site.merge_partition or site.partition,
            cpus=site.merge_cpus,
            memory_gb=site.merge_memory_gb,
            gpus=0,
            timeouts=MERGE_TIMEOUTS,
        )


def executor_for(run: OutputDir, site: SiteConfig, demand: Demand, comment: str, depend: str = "") -> Any:
    """A submitit executor for jobs that ask this of Slurm; what a site's `sbatch` says wins."""
    executor = _executor(run, site, demand.timeouts)
    executor.update_parameters(
        job_name="-".join(filter(None, (job_name(run), demand.name)))[:64],
        time=demand.minutes,
        signal_delay_s=min(demand.lead_s, 12 * demand.minutes),
        nodes=demand.nodes,
        ntasks_per_node=1,
        stderr_to_stdout=True,
        array_parallelism=demand.parallel or 100_000,
        srun_args=_srun(demand.cpus, site),
        setup=[*(f"module load {m}" for m in site.modules), *site.setup],
        additional_parameters={
            **_common(site, comment, depend, demand.partition),
            **_gpus(site, demand.gpus),
            **({"mail-type": demand.mail, "mail-user": site.mail} if site.mail and demand.mail else {}),
            **site.sbatch,
        },
        **_size(demand.cpus, demand.memory_gb),
    )
    if not site.wckey:
        executor.parameters["wckey"] = None
    return executor


def shard_executor(run: RunDir, config: RunConfig, comment: str, depend: str = "") -> Any:
    """A submitit executor for shards."""
    return executor_for(run, config.site, Demand.of_shards(config.site, config.launch.parallel), comment, depend)


def merge_executor(run: RunDir, config: RunConfig, comment: str, depend: str = "", last: bool = False) -> Any:
    """A submitit executor for a merge: one CPU task.

    Args:
        last: it makes the release, of which `site.mail` is told; of the others only where one fails.
    """
    demand = replace(Demand.of_merge(config.site), mail="END,FAIL" if last else "FAIL")
    return executor_for(run, config.site, demand, comment, depend)


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

    from gra_hpc.launch import task_file

    submitit.JobEnvironment.USR_SIG = "USR2"  # whatever SUBMITIT_PREEMPT_SIGNAL says here: the jobs are not told

    class Executor(submitit.SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            """Also where sbatch is missing: texts are rendered on any machine; submitting says what is missing."""
            return 2

        @property
        def _submitit_command_str(self) -> str:
            return task_file.command(self.python, shlex.quote(str(self.folder)))

    python = launcher(site)
    return Executor(folder=run.logs / "%A", max_num_timeout=timeouts, python=python)


def launcher(site: SiteConfig) -> str | None:
    """What starts Python in the job: the site's, in its container if it has one; None: the submitter's own."""
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


def _gpus(site: SiteConfig, count: int) -> dict[str, Any]:
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


def submit_array(executor: Any, tasks: Sequence[Any]) -> str:
    """Submit an array; its id."""
    return _submit(executor, tasks)


def submit_one(executor: Any, task: Any) -> str:
    """Submit a job that is no array; its id."""
    return _submit(executor, [task])


def _submit(executor: Any, tasks: Sequence[Any]) -> str:
    """Hand tasks to Slurm. What the jobs begin with is this user's alone, whatever the umask (`task_file`)."""
    from submitit.core.utils import JobPaths

    from gra_hpc.launch import task_file

    logs = JobPaths.get_first_id_independent_folder(executor.folder)
    minutes = executor.parameters.get("time", 5)
    files = task_file.write(logs, tasks, minutes, executor.max_num_timeout)
    script = logs / f".submission_file_{files[0].stem}.sh"
    array = len(tasks) if len(tasks) > 1 else 0  # one submission is no array: its id has no index
    write_atomic(script, script_of(executor, array).encode(), durable=False, mode=PRIVATE)
    job, notices = slurm.sbatch(script)
    if notices:
        complain(notices, lines=True)
    ids = [f"{job}_{number}" if array else job for number in range(len(files))]
    places = (JobPaths(executor.folder, id_) for id_ in ids)
    task_file.place(zip(files, places, strict=True), "submitted_pickle")
    task_file.place([(script, JobPaths(executor.folder, job))], "submission_file")
    return job


def refuse_refused(*executors: Any) -> None:
    """Show Slurm the scripts of what will be submitted, before any of it is.

    Raises:
        LaunchError: it would refuse one.
    """
    for executor in executors:
        with tempfile.NamedTemporaryFile("w", prefix="gra-", suffix=".sh", encoding="utf-8") as script:
            script.write(script_of(executor))
            script.flush()
            slurm.refused(Path(script.name))


def overruled_note(executor: Any) -> str:
    """What of the user's environment does not count for jobs; empty if there is nothing."""
    names = overruled(os.environ, script_of(executor))
    return f"{', '.join(names)} in your environment: left out; the site's settings count" if names else ""
