"""Why a job ended: Slurm's last words, in the forms that its versions and parts give them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gra_hpc.views.last_words import last_words

AT = "2026-11-03T10:00:00"
BEGIN = "submitit INFO (2026-11-03 10:00:00,1) - Starting with JobEnvironment(job_id=5_0)"
OURS = "gra_hpc.errors.EngineError: engine a-0 died 3 times in a row -> see its log"


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        (f"slurmstepd: error: *** JOB 51 ON n1 CANCELLED AT {AT} DUE TO TIME LIMIT ***", "time limit"),
        (f"slurmstepd-n1: error: *** STEP 51.0 ON n1 CANCELLED AT {AT} DUE TO TIME LIMIT ***", "time limit"),
        (f"slurmd[n1]: *** JOB 51 CANCELLED AT {AT} DUE TO TIME LIMIT ***", "time limit"),
        (f"0: slurmstepd: error: *** STEP 51.batch ON n1 CANCELLED AT {AT} DUE to TIMELIMIT ***", "time limit"),
        ("srun: error: Job step's time limit exceeded", "time limit"),
        (f"slurmstepd: error: *** JOB 51 ON n1 CANCELLED AT {AT} DUE TO PREEMPTION ***", "preempted"),
        (f"slurmstepd: error: *** STEP 51.0 ON n[1-2] CANCELLED AT {AT} DUE TO PREEMPTION ***", "preempted"),
        (f"slurmstepd: error: *** STEP 51.0 ON n1 CANCELLED AT {AT} DUE TO PREEMPTED ***", "preempted"),
        (
            f"slurmstepd: error: *** JOB 51 ON n1 CANCELLED AT {AT} DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR"
            " DETAILS ***",
            "its node failed",
        ),
        ("srun: error: Node failure on n1", "its node failed"),
        ("srun: error: NODE_FAIL: n1 is not responding", "its node failed"),
        ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=51.0. Some of the step tasks have been OOM Killed.",
         "out of memory: raise site.memory_gb"),
        ("slurmstepd: error: Detected 2 oom_kill events in StepId=51.batch. Some of your processes may have been killed"
         " by the cgroup out-of-memory handler.", "out of memory: raise site.memory_gb"),
        ("srun: error: n1: task 0: Out Of Memory", "out of memory"),
        ("slurmstepd: error: Exceeded job memory limit at some point.", "out of memory"),
        ("slurmstepd: error: Step 51.0 exceeded memory limit (9000000 > 8388608), being killed", "out of memory"),
        ("slurmstepd: error: JobId=51 exceeded virtual memory limit", "out of memory"),
        (f"slurmstepd: error: *** STEP 51.0 ON n1 UNCORRECTABLE MEMORY ERROR AT {AT} ***", "memory is broken"),
        (f"slurmstepd: error: *** STEP 51.0 STEPD TERMINATED ON n1 AT {AT} DUE TO JOB NOT ENDING WITH SIGNALS ***",
         "did not end when they were killed"),
        (f"slurmstepd: error: *** JOB 51 ON n1 CANCELLED AT {AT} DUE TO JOB REQUEUE ***", "put back in the queue"),
        (f"slurmstepd: error: *** JOB 51 ON n1 CANCELLED AT {AT} DUE TO ADMIN DECISION ***",
         "ended by Slurm: admin decision"),
        (f"slurmstepd: error: *** JOB 51 ON n1 CANCELLED AT {AT} ***", "cancelled"),
        ("srun: error: n1: task 0: Segmentation fault (core dumped)", "crashed: segmentation fault"),
        ("srun: error: n1: tasks 0-1: Bus error", "crashed: bus error"),
        ("srun: error: n1: task 0: Killed", "killed (SIGKILL)"),
    ],
)  # fmt: skip
def test_slurm_s_words(tmp_path: Path, line: str, meaning: str) -> None:
    log = tmp_path / "log"
    log.write_text(f"{BEGIN}\n10:00:00 INFO gra_hpc: 12 calls\n{line}\nsrun: error: n1: task 0: Exited with code 1\n")
    assert meaning in last_words(log)


def test_the_cause_and_not_what_follows_from_it(tmp_path: Path) -> None:
    """Slurm says several things about one end; in a log of many lines the cause stands far above."""
    log = tmp_path / "log"
    log.write_text(
        f"{BEGIN}\nslurmstepd: error: Detected 1 oom_kill event in StepId=51.0. Some of the step tasks have been OOM"
        f" Killed.\nsrun: error: n1: task 0: Killed\nslurmstepd: error: *** STEP 51.0 ON n1 CANCELLED AT {AT} ***\n"
        + "srun: warning: can't set\n"
        * 300
    )
    assert last_words(log) == "out of memory: raise site.memory_gb"
    assert last_words(log, merge=True) == "out of memory: raise site.merge_memory_gb"


def test_an_engine_that_was_killed_for_memory_says_both(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"{BEGIN}\n{OURS}\nslurmstepd: error: Detected 1 oom_kill event in StepId=51.0.\n")
    assert last_words(log) == "engine a-0 died 3 times in a row (out of memory: raise site.memory_gb)"


def test_what_others_call_out_of_memory_or_time_is_theirs(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"{BEGIN}\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n")
    assert last_words(log) == "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"
    log.write_text(f"{BEGIN}\nValueError: time limit exceeded by the node failure of a test\n")
    assert last_words(log).startswith("ValueError")


def test_of_a_requeued_job_the_last_attempt_counts(tmp_path: Path) -> None:
    log = tmp_path / "log"
    before = f"slurmstepd: error: *** JOB 5 ON n1 CANCELLED AT {AT} DUE TO PREEMPTION ***"
    log.write_text(f"{BEGIN}\n{before}\n{BEGIN}\nKeyError: 'x'\n")
    assert last_words(log) == "KeyError: 'x'"


def test_a_step_that_ends_because_its_task_failed_is_no_cause(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        f"{BEGIN}\nKeyError: 'x'\nslurmstepd: error: *** STEP 5.0 ON n1 CANCELLED AT {AT} DUE TO TASK FAILURE ***\n"
    )
    assert last_words(log) == "KeyError: 'x'"
