"""Why a job ended, from the end of its log: our own errors, Slurm's last words in all their forms, other exceptions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from gra_hpc.log_tail import LINES, OURS, tail, telling

_OF_SLURM = re.compile(
    r"\b(?:slurmstepd|slurmd|slurm_script|srun|salloc)\b|\*\*\* *(?:JOB|STEP|STEPID)\b|\b(?:JobId|StepId)=|^Slurm\b",
    re.IGNORECASE,
)
"""A line of Slurm's: only in these its words have its meaning (a GPU's `out of memory` is another matter)."""
_FOLLOWS = re.compile(r"due to task.?fail", re.IGNORECASE)
"""A step that ends because a task of it failed, which has said why."""
_GENERAL = (
    (r"oom.?kill|out.?of.?memory|exceeded (?:\w+ )*memory limit", "out of memory: raise {memory}"),
    (r"due to time.?limit|time.?limit (?:exceeded|reached)|exceeded (?:\w+ )*time.?limit|\btimeout\b(?! waiting)",
     "killed at its time limit ({time})"),
    (r"due to preempt\w*|\bpreempted\b", "preempted"),
    (r"due to node.?fail\w*|\bnode.?fail\w*", "its node failed"),
    (r"uncorrectable memory error", "its node's memory is broken (uncorrectable memory error): site.exclude=NODE"),
    (r"not ending with signals", "its processes did not end when they were killed: site.exclude=NODE"),
    (r"due to job.?requeue|\brequeued\b", "put back in the queue"),
    (r"(?:prolog|epilog) (?:failed|error)|(?:failed|error) (?:in )?(?:prolog|epilog)", "its node failed to prepare it"),
    (r"disk quota exceeded|no space left", "no room on the disk: df -h, quota -s"),
)  # fmt: skip
_LATER = (
    (r"due to ([a-z ]*[a-z])", "ended by Slurm: {0}"),
    (r"cancelled at|cancelled by|\bstep\b.* cancelled", "cancelled"),
    (r"error: .*\btask[s]? \S+: (segmentation fault|bus error|aborted|illegal instruction|floating point exception)",
     "its process crashed: {0}"),
    (r"error: .*: killed\b", "killed (SIGKILL)"),
    (r"error: .*: terminated\b", "ended by SIGTERM"),
)  # fmt: skip
"""Said also of jobs that ended for a cause of `_GENERAL`."""
_OTHERS = (
    re.compile(r"^(?:srun: )?(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Failed)\w*: "),
    re.compile(r"No such file or directory|command not found|Permission denied|Unable to locate a modulefile"),
    re.compile(r"slurmstepd: error: |srun: error: "),
)
"""An exception, then what looks like a refusal."""


def last_words(path: Path, merge: bool = False) -> str:
    """What a job's log says about its end, in one line; empty when it says nothing.

    An error of ours of the last attempt first, then Slurm's own words, then the last line that looks like a refusal.

    Args:
        merge: it is a merge's, which has settings of its own.
    """
    try:
        lines = tail(path, LINES)
    except OSError:
        return ""
    begin = max((i for i, line in enumerate(lines) if "submitit INFO" in line and "Starting with" in line), default=0)
    lines = lines[begin:]
    ours, slurms = telling(lines, OURS), of_slurm(lines, merge)
    if ours and slurms.startswith("out of memory"):
        return f"{ours} ({slurms})"  # what was killed for it may be a part of the job, and said otherwise
    return ours or slurms or telling(lines, *_OTHERS)


def of_slurm(lines: Sequence[str], merge: bool = False) -> str:
    """What Slurm says about the end of a job, in our words; empty if it says nothing that we know."""
    own = [line for line in lines if _OF_SLURM.search(line) and not _FOLLOWS.search(line)]
    for pattern, meaning in (*_GENERAL, *_LATER):
        for line in reversed(own):
            if found := re.search(pattern, line, re.IGNORECASE):
                words = [g.lower() for g in found.groups()]
                kind = "merge_" if merge else ""
                return meaning.format(*words, memory=f"site.{kind}memory_gb", time=f"site.{kind}time_minutes")
    return ""
