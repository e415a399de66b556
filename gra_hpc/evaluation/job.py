"""Evaluation as jobs: one task of an array per benchmark, and a merge behind it."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gra_hpc.config import output_settings
from gra_hpc.config.site import Executor, SiteConfig
from gra_hpc.engines import guard
from gra_hpc.errors import IncompleteError, LaunchError
from gra_hpc.evaluation import config as configs
from gra_hpc.evaluation import table
from gra_hpc.evaluation.config import EvaluateConfig
from gra_hpc.evaluation.directory import EvaluateDir
from gra_hpc.launch import submissions
from gra_hpc.launch.arrays import Demand, executor_for, refuse_refused, script_of, submit_array, submit_one
from gra_hpc.launch.submissions import Job, Submission, live, refuse_while_at_work
from gra_hpc.launch.tasks import Restartable, await_kill, requeue, start_job
from gra_hpc.log_tail import ANY, last_words, telling
from gra_hpc.models import hub
from gra_hpc.models.trained import trained_model
from gra_hpc.permissions import in_other_hands
from gra_hpc.run.attempts import job_id, restart_count
from gra_hpc.run.engines import local_directory
from gra_hpc.signals import Signals
from gra_hpc.storage import new_file
from gra_hpc.terminal import word
from gra_hpc.workers import child_environment

log = logging.getLogger(__name__)

RESTARTS = 3
"""A benchmark begins anew after a time limit or a preemption: so often, then its limit is too short."""
POLL_S = 0.2
_ONLINE = ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "ssl_cert_file", "requests_ca_bundle", "hf_token")
"""Variables, in small letters, that only what fetches data is given."""


def refuse_absent_model(out: Path, config: EvaluateConfig) -> None:
    """Refuse to begin an evaluation whose model is not there. What was submitted waits for it, or has had it, and
    where `backend.env` names other caches only the node can tell.

    Raises:
        GraError: it is not, with what to type.
    """
    made, m = EvaluateDir(out.absolute()), config.model
    elsewhere = any(name.startswith("HF_") for name in config.backend.env) and not Path(m.path).is_dir()
    if table.remaining(made, config) and not made.submissions.is_dir() and not elsewhere:
        trained_model(m.path, m.revision, config.site.scratch, m.trust_remote_code)


def submit_evaluate(
    out: Path, config: EvaluateConfig, after: Sequence[str] = (), say: Callable[[str], None] = print
) -> str | None:
    """Submit what is left of an evaluation, or do it here.

    Args:
        out: its directory; made if it is not there.
        config: its settings; those that results depend on must be the ones it was begun with.
        after: Slurm ids of jobs that must succeed first (the model need not be there yet).
        say: takes one line per benchmark, for people.

    Returns:
        Slurm's id of the merge, to depend on; empty when it is done already; none when it ran here.

    Raises:
        GraError: other settings, Slurm refused, or (here) a benchmark failed.
    """
    made = EvaluateDir(output_settings.freeze(out, config))
    if config.site.executor is Executor.local:
        evaluate_here(made, config, say)
        return None
    if made.done.is_file():
        return ""
    refuse_while_at_work(made)
    queue = [(job, task) for job, task in live(made) if not job.moved]
    waiting = [str(t.job) for job, t in queue if job.kind == "evaluate-merge" and not t.hopeless]
    if waiting:
        return waiting[-1]
    alive = {job.shards[t.index or 0] for job, t in queue if job.kind == "evaluate" and not t.hopeless}
    arrays = [str(t.job) for job, t in queue if job.kind == "evaluate" and not t.hopeless]
    left = table.remaining(made, config)
    numbers = [n for n, name in enumerate(config.names) if name in left and n not in alive]
    jobs = ([Job("evaluate", 0, numbers)] if numbers else []) + [Job("evaluate-merge", 0)]
    refuse_refused(
        executor_for(made, config.site, demand(config), "gra:"),
        executor_for(made, config.site, Demand.of_merge(config.site, "evaluate-merge"), "gra:"),
    )
    submission = Submission.new(made, jobs)
    submissions.record(made, submission)
    for number, job in enumerate(jobs):
        comment = submission.comment(made, number)
        if job.kind == "evaluate":
            executor = executor_for(
                made, config.site, demand(config), comment, submissions.dependency("afterok", after)
            )
            job.id = submit_array(executor, [EvaluateTask(str(made.path), config.names[n]) for n in numbers])
            arrays.append(job.id)
        else:
            depend = submissions.dependency("afterany", arrays) or submissions.dependency("afterok", after)
            executor = executor_for(made, config.site, Demand.of_merge(config.site, "evaluate-merge"), comment, depend)
            job.id = submit_one(executor, EvaluateMergeTask(str(made.path)))
        submissions.record(made, submission, done=job is jobs[-1])
    return jobs[-1].id


def explain(out: Path, config: EvaluateConfig, plan: bool) -> Iterator[str]:
    """What an evaluation will do, for people; with `plan`, its sbatch text too. Freezes its settings."""
    made = EvaluateDir(output_settings.freeze(out, config))
    left = table.remaining(made, config)
    yield f"model {config.model.path}, {config.backend.kind.value}: {len(left)} of {len(config.names)} benchmarks left"
    if plan and config.site.executor is Executor.slurm:
        executor = executor_for(made, config.site, demand(config), "gra:RUN:SUBMISSION:0")
        yield script_of(executor, len(config.names))


def demand(config: EvaluateConfig) -> Demand:
    """What a benchmark asks of Slurm: a node, or the share of one that goes with some of its GPUs."""
    n, usual, all_gpus = config.launch, Demand.of_shards(config.site), config.site.gpus_per_node
    gpus = min(n.gpus or all_gpus, all_gpus)
    share = gpus / all_gpus if gpus else 1.0
    return replace(
        usual,
        name="evaluate",
        gpus=gpus,
        cpus=n.cpus or math.ceil(usual.cpus * share),
        memory_gb=n.memory_gb or usual.memory_gb * share,
        minutes=n.time_minutes or usual.minutes,
        partition=n.partition or usual.partition,
        parallel=n.parallel,
    )


def evaluate_here(out: EvaluateDir, config: EvaluateConfig, say: Callable[[str], None]) -> None:
    """Measure what is left, one benchmark after another, and merge. All are tried before a failure is told.

    Raises:
        IncompleteError: benchmarks that failed.
        LaunchError: interrupted.
    """
    for name in table.remaining(out, config):
        say(f"{name} ...")
        log_file = out.path / "logs" / f"{name}.log"
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with Signals().caught() as signals, new_file(log_file) as f:
            code = run_worker(out, name, config, signals, f)
        if signals.first:
            raise LaunchError(f"{out.path}: interrupted during {name}", f"gra evaluate {word(out.path)}")
        if code:
            why = last_words(log_file, r"^evaluate: (.*)", r"^[\w.]*(?:Error|Exception|Exit|Interrupt)\b")
            say(f"{name}: failed: {why or '(nothing)'} (log: {log_file})")
    merge(out, config, say)


def merge(out: EvaluateDir, config: EvaluateConfig, say: Callable[[str], None]) -> None:
    """Merge, and show the table.

    Raises:
        IncompleteError: benchmarks without a result.
    """
    for line in table.plain(table.merge(out, config)):
        say(line)


def environment(site: SiteConfig, extra: dict[str, str], offline: bool = True) -> dict[str, str]:
    """Environment of a benchmark's process: the site's shared caches, and no network."""
    env = child_environment()
    if not offline:  # the way out of the site, and gated data
        env |= {k: v for k, v in os.environ.items() if k.lower() in _ONLINE}
    if site.scratch:
        for key, name in (("HF_HUB_CACHE", "hub"), ("HF_DATASETS_CACHE", "datasets"), ("HF_MODULES_CACHE", "modules")):
            env[key] = f"{site.scratch}/{name}"
    if offline:
        env |= hub.OFFLINE
    env |= {
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_LOGGING_COLOR": "0",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_LOOPBACK_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    return env | {str(k): str(v) for k, v in extra.items()}


def run_worker(out: EvaluateDir, name: str, config: EvaluateConfig, signals: Signals, output: Any = None) -> int:
    """Run one benchmark as a process; when a signal comes, end it. Its exit code.

    It runs under an engine's guard: however this process ends, none of the benchmark's (vLLM starts several) is left.
    """
    local = local_directory(config.site)
    private = Path(tempfile.mkdtemp(prefix="gra-e-", dir=None if in_other_hands(local) else local))
    command = [sys.executable, "-I", "-S", guard.__file__, "--grace", "5"]
    command += ["--state", str(private / "guard.state"), "--private", str(private)]
    if not config.site.gpus_per_node:
        command.append("--own-network")  # no other user reaches the ports of its parts
    process = subprocess.Popen(
        [*command, "--", sys.executable, "-P", "-m", "gra_hpc.evaluation.process.worker", str(out.path), name],
        env=environment(config.site, config.backend.env) | {"TMPDIR": str(private), "VLLM_RPC_BASE_PATH": str(private)},
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        start_new_session=True,
    )
    assert process.stdin
    try:
        while process.poll() is None and not signals.first:
            time.sleep(POLL_S)
    finally:
        with contextlib.suppress(OSError):  # it has ended by itself
            process.stdin.write(guard.KILL)  # nothing is kept of an unfinished benchmark
            process.stdin.close()
    return process.wait()


@dataclass(frozen=True)
class EvaluateTask(Restartable):
    """What a task of the array runs: one benchmark."""

    out: str
    name: str

    def __call__(self) -> str:
        """Measure it; returns one sentence. Begins anew after a warning, a bounded number of times."""
        start_job()
        made = EvaluateDir.existing(self.out)
        if made.result(self.name).is_file():
            return f"evaluate {self.name}: done already"
        config = configs.load(made.config)
        with Signals().caught() as signals:
            code = run_worker(made, self.name, config, signals)
        if signals.first == signal.SIGTERM:
            await_kill()
        if signals.first:
            if job_id() and restart_count() >= RESTARTS:
                raise LaunchError(
                    f"evaluate {self.name}: stopped {restart_count() + 1} times before it was through",
                    f"gra evaluate {word(made.path)} launch.time_minutes=MORE",
                )
            requeue()
        if code:
            raise LaunchError(
                f"evaluate {self.name}: ended with code {code}; see above", f"gra evaluate {word(made.path)}"
            )
        return f"evaluate {self.name}: done"


@dataclass(frozen=True)
class EvaluateMergeTask(Restartable):
    """What the merge's job runs."""

    out: str

    def __call__(self) -> str:
        start_job()
        made = EvaluateDir.existing(self.out)
        merge(made, configs.load(made.config), print)
        return f"evaluate: {made.results}"


def stage_data(out: Path, config: EvaluateConfig, say: Callable[[str], None] = print) -> None:
    """Fetch the data (and metrics) of all benchmarks into the site's shared caches, then look whether they are
    found without the network.

    Raises:
        IncompleteError: benchmarks whose data cannot be had, with the reason.
    """
    made = EvaluateDir(output_settings.freeze(out, config))
    command = [sys.executable, "-P", "-m", "gra_hpc.evaluation.process.worker", str(made.path)]
    problems = []
    for name in config.names:
        for offline in (False, True):
            env = environment(config.site, config.backend.env, offline)
            if config.site.proxy:
                env |= {"HTTPS_PROXY": config.site.proxy, "HTTP_PROXY": config.site.proxy}
            words = [*command, name, "--data"]
            done = subprocess.run(words, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if done.returncode:
                problems.append(f"{name}: {telling(done.stderr.splitlines(), ANY)[:300] or 'no message'}")
                break
        say(f"{name}: {'not to be had' if done.returncode else 'found without the network'}")
    if problems:
        raise IncompleteError(f"data of {len(problems)} benchmarks are missing: {'; '.join(problems)}")
