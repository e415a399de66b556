"""Slurm's client commands. Nothing else in the package runs them, and this module imports nothing heavy.

Every command is run with a timeout (one that hangs is common when a daemon is gone), without a shell, and without
the user's own output formats (`SQUEUE_FORMAT` and the like). Truth about a run is what lies on disk: what is asked
here tells only what is waiting and running.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gra_hpc.errors import LaunchError, SlurmDownError
from gra_hpc.launch.environment import for_sbatch

TIMEOUT_S = 30.0
"""Longest time a client command may take. With its controller gone, squeue gives up after Slurm's MessageTimeout."""

SUBMIT_TIMEOUT_S = 300.0
"""The same for sbatch: one that is given up may have submitted all the same."""

_DOWN = re.compile(
    r"Unable to contact slurm controller|Connection refused|connect failure|Connection timed out"
    r"|Connection reset|Zero Bytes were|Unexpected message received|Socket timed out"
    r"|standby mode|Unable to establish control|Munge encode failed",
    re.IGNORECASE,
)
_ABSENT = re.compile(r"Could not establish a config|Unable to process configuration file", re.IGNORECASE)
_WAIT = "try again later: running jobs go on, and gra status RUN reads the files alone"
_ADVICE = re.compile(r"^(\w+: )?Try [\"'`].*--(help|usage)|^Usage: ")
_ERROR = re.compile(
    r"\b(error|fatal): |(unrecognized|invalid|ambiguous|unknown) option|option .* (requires|doesn't)", re.I
)
_PREFIX = re.compile(r"^(\w+: )?((error|fatal): )?((Batch job submission failed|allocation failure): )?", re.I)
_PASSING = re.compile(r"not available now|Required node not available|are busy|down, drained", re.IGNORECASE)
"""What `sbatch --test-only` says of jobs that would wait, not be refused."""
_UNKNOWN_JOB = re.compile(r"Invalid job id specified|Job/step already completing or completed", re.IGNORECASE)
_USER_FORMATS = ("SQUEUE_", "SINFO_", "SCONTROL_", "SACCT_", "SACCTMGR_", "SLURM_TIME_FORMAT", "SCANCEL_")
_WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"})
_RUNNING = frozenset(
    {"RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
)
_HOPELESS = frozenset({"DependencyNeverSatisfied", "BadConstraints", "PartitionDown"})
SEPARATOR = "\x1f"  # in no name, comment or reason
_QUEUE_FIELDS = (
    "JobArrayID", "ArrayJobID", "ArrayTaskID", "JobID", "State", "Reason", "NodeList", "TimeLeft", "RestartCnt",
    "UserName", "Name", "Comment",
)  # fmt: skip
_CHUNK = 500  # job ids per command line


@dataclass(frozen=True, slots=True)
class Task:
    """One array task, or one job that is not an array, as Slurm's queue shows it."""

    id: str
    """As Slurm's commands take it: `4242_7`, or `4242` for a job that is not an array."""
    job: int
    """The array's id: what sbatch printed."""
    index: int | None
    """Index in the array; none for a job that is not an array."""
    raw_id: int
    """Slurm's own id of this task (SLURM_JOB_ID inside it); while it waits, the array's."""
    state: str
    """In full: PENDING, RUNNING, COMPLETING, ..."""
    reason: str
    """Why it waits (Priority, Resources, Dependency, JobHeldUser, ...); empty when there is none."""
    node: str
    """Where it runs; empty while it waits."""
    time_left_s: int | None
    """Seconds to its time limit; none when it has no limit."""
    restarts: int
    """How often Slurm has requeued it."""
    user: str
    name: str
    comment: str

    @property
    def waiting(self) -> bool:
        return self.state in _WAITING

    @property
    def running(self) -> bool:
        """On a node, or leaving it: a new attempt at its work would be a second copy."""
        return self.state in _RUNNING

    @property
    def active(self) -> bool:
        return self.waiting or self.running

    @property
    def hopeless(self) -> bool:
        """Waits for what cannot happen any more, or for an administrator: Slurm holds a job that it failed to start."""
        held = self.reason == "JobHeldAdmin" or "requeued_held" in self.reason.replace(" ", "_")
        return self.waiting and (held or self.reason in _HOPELESS)


def output_of(args: Sequence[str], timeout: float = TIMEOUT_S) -> str:
    """What a client command prints.

    Raises:
        SlurmDownError: no answer in time, or the controller cannot be reached.
        LaunchError: the command is missing, or Slurm refused; with Slurm's own line.
    """
    return _run(args, timeout)


def _run(args: Sequence[str], timeout: float, unknown_ok: bool = False) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith(_USER_FORMATS)}
    return _answer(args, timeout, {**env, "LC_ALL": "C"}, unknown_ok).stdout


def _answer(
    args: Sequence[str], timeout: float, env: Mapping[str, str], unknown_ok: bool = False
) -> subprocess.CompletedProcess[str]:
    try:
        # A session of its own: Ctrl-C in a terminal must not cut a command between asking and being told.
        done = subprocess.run(
            list(args),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=env,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            check=False,
        )
    except FileNotFoundError:
        raise LaunchError(
            f"{args[0]}: command not found, so this is no Slurm login node",
            "load the site's Slurm module, or use site.executor=local",
        ) from None
    except OSError as e:
        raise LaunchError(f"{args[0]}: cannot be run ({e.strerror})", "gra doctor") from None
    except subprocess.TimeoutExpired:
        raise SlurmDownError(f"{args[0]}: no answer from Slurm within {timeout:g} s", _WAIT) from None
    if done.returncode == 0 or (unknown_ok and _UNKNOWN_JOB.search(done.stderr)):
        return done
    said = reason(done.stderr) or reason(done.stdout) or f"exit code {done.returncode}"
    if _ABSENT.search(said):
        raise LaunchError(
            f"{args[0]}: Slurm is installed here but not configured: no slurm.conf, and no server that gives one",
            "log in to a login node of the cluster, or use site.executor=local",
        )
    if _DOWN.search(said):
        raise SlurmDownError(f"{args[0]}: Slurm's controller does not answer: {said}", _WAIT)
    raise LaunchError(f"{' '.join(args[:2])}: Slurm refused: {said}", "gra doctor")


def reason(text: str) -> str:
    """What Slurm says about a refusal, in one line: its errors, without its advice and a site's banners; all that it
    says where nothing is marked as an error."""
    lines = [line.strip() for line in text.splitlines() if re.search(r"\w", line)]
    lines = [line for line in lines if not _ADVICE.search(line)]
    lines = [line for line in lines if _ERROR.search(line)] or lines
    lines = [_PREFIX.sub("", line) for line in lines]
    return "; ".join(dict.fromkeys(lines))[:500]


def sbatch(script: Path, timeout: float = SUBMIT_TIMEOUT_S) -> tuple[str, str]:
    """Submit a script, with an environment that holds nothing of another job.

    Returns:
        The job's id, and what else sbatch had to say (a site's notices).

    Raises:
        SlurmDownError: no answer.
        LaunchError: sbatch is missing, or refused; with its reason and what to change.
    """
    env = for_sbatch(os.environ, script.read_text(encoding="utf-8"))
    done = _sbatch([str(script)], timeout, env)
    found = re.search(r"job (\d+)", done.stdout)
    if not found:
        raise LaunchError(f"sbatch: no job's id in its answer {done.stdout.strip()!r}", "squeue --me")
    return found[1], done.stderr.strip()


def refused(script: Path, timeout: float = TIMEOUT_S) -> None:
    """Show a script to Slurm without submitting it (`sbatch --test-only`).

    Raises:
        LaunchError: it would be refused; with the reason and what to change.
    """
    env = for_sbatch(os.environ, script.read_text(encoding="utf-8"))
    try:
        _sbatch(["--test-only", str(script)], timeout, env)
    except LaunchError as e:
        if isinstance(e, SlurmDownError) or not _PASSING.search(e.what):
            raise


def _sbatch(words: Sequence[str], timeout: float, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return _answer(["sbatch", *words], timeout, env)
    except SlurmDownError:
        raise
    except LaunchError as e:
        said = e.what.partition(": Slurm refused: ")[2]
        if not said:
            raise
        raise LaunchError(f"sbatch refused: {said}", advice(said)) from None


def queue(
    jobs: Iterable[int | str] = (),
    user: str = "",
    comment: str = "",
    finished: bool = False,
    timeout: float = TIMEOUT_S,
) -> list[Task]:
    """Array tasks and jobs in the queue, by one squeue.

    Args:
        jobs: ids (of arrays, jobs or array tasks); forgotten ones are left out. Empty: all of the user's.
        user: whose; empty: this user's when no jobs are named, else anyone's.
        comment: only those whose comment starts with it.
        finished: also those that ended lately (Slurm remembers them for MinJobAge, 5 minutes on most sites).

    Raises:
        SlurmDownError: the controller does not answer.
        LaunchError: squeue is missing, or refused.
    """
    ids = [str(j) for j in jobs]
    user = user or ("" if ids else str(os.getuid()))
    args = ["squeue", "--noheader", "--array"]
    args.append("--Format=" + ",".join(f"{f}:{SEPARATOR}" for f in _QUEUE_FIELDS))
    if finished:
        args.append("--states=all")
    if user:
        args.append(f"--user={user}")
    if ids:
        args.append(f"--jobs={','.join(ids)}")
    tasks = parse_queue(_run(args, timeout, unknown_ok=True))
    return [t for t in tasks if t.comment.startswith(comment)]


def parse_queue(text: str) -> list[Task]:
    """Tasks in squeue's answer to `queue`. Lines of another shape (`CLUSTER: x`, warnings) are passed over."""
    tasks = []
    for line in text.split(f"{SEPARATOR}\n"):
        fields = [field_value(f) for f in line.split(SEPARATOR)]
        if len(fields) != len(_QUEUE_FIELDS):
            continue
        shown, job, index, raw, state, reason, node, left, restarts, owner, name, comment = fields
        base = shown.rpartition("\n")[2].partition("_")[0]
        if not base.isdigit():
            continue
        tasks.append(
            Task(
                id=f"{base}_{index}" if index.isdigit() else base,
                job=int(job) if job.isdigit() else int(base),
                index=int(index) if index.isdigit() else None,
                raw_id=int(raw) if raw.isdigit() else int(base),
                state=state,
                reason="" if reason == "None" else reason,
                node=node,
                time_left_s=seconds_of(left),
                restarts=int(restarts) if restarts.isdigit() else 0,
                user=owner,
                name=name,
                comment=comment,
            )
        )
    return tasks


def field_value(text: str) -> str:
    """A field as Slurm prints it, with nothing for its words for nothing."""
    text = text.strip(" ")
    return "" if text in {"(null)", "N/A", "n/a"} else text


def seconds_of(text: str) -> int | None:
    """Slurm's time (`MM`, `MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM`, `D-HH:MM:SS`) in seconds; none: no bound."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if not match:
        return None
    days, a, b, c = (int(g) if g else 0 for g in match.groups())
    if match[1]:
        return ((days * 24 + a) * 60 + b) * 60 + c
    if match[4]:
        return (a * 60 + b) * 60 + c
    return a * 60 + b


def cancel(ids: Iterable[int | str], timeout: float = TIMEOUT_S) -> None:
    """Cancel jobs, arrays or array tasks; those that have ended are passed over."""
    for chunk in _chunks(ids):
        _run(["scancel", *chunk], timeout, unknown_ok=True)


def requeue(ids: Iterable[int | str], timeout: float = TIMEOUT_S) -> None:
    """Stop tasks, without a signal, and put them back in the queue.

    Raises:
        LaunchError: Slurm refused (unknown task, or requeueing is off).
    """
    for chunk in _chunks(ids):
        _run(["scontrol", "requeue", ",".join(chunk)], timeout)


def hold(ids: Iterable[int | str], timeout: float = TIMEOUT_S) -> None:
    """Keep waiting tasks from starting."""
    for chunk in _chunks(ids):
        _run(["scontrol", "hold", ",".join(chunk)], timeout)


def release(ids: Iterable[int | str], timeout: float = TIMEOUT_S) -> None:
    """Let held tasks start."""
    for chunk in _chunks(ids):
        _run(["scontrol", "release", ",".join(chunk)], timeout)


def _chunks(ids: Iterable[int | str]) -> Iterator[list[str]]:
    words = [str(i) for i in ids]
    for i in range(0, len(words), _CHUNK):
        yield words[i : i + _CHUNK]


def index_ranges(indices: Iterable[int]) -> str:
    """Array indices as Slurm writes them: `0-3,7,9-10`."""
    runs: list[list[int]] = []
    for i in sorted(set(indices)):
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ",".join(f"{a}-{b}" if a != b else f"{a}" for a, b in runs)


def max_array_size(timeout: float = TIMEOUT_S) -> int:
    """Largest array of the site: indices run from 0 to one less."""
    return leading_number(config(timeout).get("MaxArraySize", ""), 1001)


def config(timeout: float = TIMEOUT_S) -> dict[str, str]:
    """The controller's settings (`scontrol show config`); what is not set is empty."""
    pairs = (line.partition("=") for line in output_of(["scontrol", "show", "config"], timeout).splitlines())
    return {key.strip(): field_value(text) for key, eq, text in pairs if eq}


def leading_number(text: str, default: int = 0) -> int:
    """The number that a value starts with (`30 sec`)."""
    match = re.match(r"\d+", text)
    return int(match[0]) if match else default


_REFUSALS = (
    (
        r"(unrecognized|unknown|ambiguous|invalid) option|option .* (requires|doesn't)",
        "mend site.sbatch: sbatch --help",
    ),
    (r"account|association", "site.account=ONE OF YOURS: sacctmgr show assoc user=$USER format=account,qos"),
    (r"qos", "site.qos=ONE OF YOURS: sacctmgr show assoc user=$USER format=account,qos"),
    (r"invalid partition|partition.*not|no partition", "site.partition=ONE OF: sinfo -s"),
    (r"time limit", "site.time_minutes=LESS: sinfo -o '%P %l'"),
    (r"feature|constraint", "site.constraint=ONE OF: sinfo -o '%f'"),
    (r"gres|generic resource|tres", "site.gpu_style=gres or gpus, site.gpu_type as sinfo -o '%G' shows it"),
    (r"reservation", "site.reservation=ONE OF: scontrol show reservation"),
    (r"wckey", "site.wckey=false"),
    (r"memory|cpu count|node configuration", "ask for less: site.cpus_per_task, site.memory_gb, site.gpus_per_node"),
    (r"submit limit|job.?limit|policy limit|MaxSubmit", "fewer jobs at once: launch.shards=LESS, or wait"),
    (r"array", "site.max_array_size=LESS"),
)


def advice(said: str) -> str:
    """What to change after Slurm's refusal."""
    for pattern, then in _REFUSALS:
        if re.search(pattern, said, re.IGNORECASE):
            return then
    return "gra doctor SITE  (compares the site file with the cluster)"
