"""What of a submitter's environment reaches sbatch: nothing of another job, no variable that overrules the script."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from gra_hpc.errors import LaunchError
from gra_hpc.launch import slurm
from gra_hpc.launch.environment import for_sbatch, overruled

SCRIPT = "#!/bin/bash\n#SBATCH --partition=gpu\n#SBATCH --time=240\n"
OWN = {"PATH": "/bin", "HOME": "/home/me", "LANG": "C.UTF-8", "HF_HOME": "/hf", "OMP_NUM_THREADS": "4"}
CONF = {"SLURM_CONF": "/etc/slurm.conf", "SLURM_JWT": "x"}


@pytest.mark.parametrize(
    "leaks",
    [
        {"SLURM_MEM_PER_CPU": "100"},
        {"SLURM_MEM_PER_NODE": "100", "SLURM_MEM_PER_GPU": "1G"},
        {"SLURM_CPU_BIND": "quiet,mask_cpu:0x1", "SLURM_DISTRIBUTION": "cyclic", "SLURM_STEP_GPUS": "0"},
        {"SLURM_NTASKS": "8", "SLURM_NPROCS": "8", "SLURM_EXPORT_ENV": "NONE", "SLURM_TIMELIMIT": "1"},
        {"SLURM_TRES_PER_TASK": "cpu:2", "SRUN_CPUS_PER_TASK": "1", "SLURMD_NODENAME": "n1", "SLURM_JOBID": "4"},
        {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "2"},
        {"PMI_RANK": "0", "PMIX_RANK": "0", "OMPI_COMM_WORLD_RANK": "1", "SUBMITIT_EXECUTOR": "local"},
        {"SUBMITIT_PREEMPT_SIGNAL": "TERM"},
        {"SBATCH_TIMELIMIT": "1", "SBATCH_ARRAY_INX": "0-3", "SBATCH_SIGNAL": "USR1@1", "SBATCH_EXPORT": "NONE"},
        {"SBATCH_PARTITION": "low"},  # the script names one
        {"SLURM_JOB_ID": "9", "CUDA_VISIBLE_DEVICES": "", "TMPDIR": "/scratch/job-9", "ROCR_VISIBLE_DEVICES": "1"},
    ],
)
def test_what_is_another_job_s_stays_behind(leaks: dict[str, str]) -> None:
    assert for_sbatch(OWN | CONF | leaks, SCRIPT) == OWN | CONF


def test_outside_a_job_devices_and_directories_are_the_user_s_own() -> None:
    own = OWN | {"CUDA_VISIBLE_DEVICES": "1", "TMPDIR": "/fast", "SBATCH_ACCOUNT": "abc", "SBATCH_QOS": "long"}
    assert for_sbatch(own, SCRIPT) == own
    assert overruled(own, SCRIPT) == []


def test_what_does_not_count_is_named() -> None:
    given = OWN | {"SBATCH_TIMELIMIT": "1", "SBATCH_ACCOUNT": "a", "SBATCH_PARTITION": "b"}
    assert overruled(given, SCRIPT) == ["SBATCH_PARTITION", "SBATCH_TIMELIMIT"]
    assert overruled(given, SCRIPT + "#SBATCH --account=c\n") == [
        "SBATCH_ACCOUNT", "SBATCH_PARTITION", "SBATCH_TIMELIMIT",
    ]  # fmt: skip


@pytest.fixture
def as_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for sbatch: runs `body`, which tests write."""
    body, command = tmp_path / "body", tmp_path / "sbatch"
    command.write_text(f"#!/bin/bash\nsource {body}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "job.sh").write_text(SCRIPT)
    return body


def test_sbatch_is_run_in_it_and_its_notices_are_passed_on(as_sbatch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "100")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    as_sbatch.write_text("env > ${0%/*}/seen; echo 'maintenance on Monday' >&2; echo Submitted batch job 42 on hal")
    assert slurm.sbatch(as_sbatch.with_name("job.sh")) == ("42", "maintenance on Monday")
    seen = as_sbatch.with_name("seen").read_text()
    assert "SLURM_MEM" not in seen
    assert "LC_ALL=C.UTF-8" in seen, "the job's locale is the user's"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "sbatch: unrecognized option '--nodez=3'\nTry \"sbatch --help\" for more information",
            "sbatch refused: unrecognized option '--nodez=3' -> mend site.sbatch: sbatch --help",
        ),
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
            "sbatch refused: Invalid account or account/partition combination specified -> site.account=",
        ),
        (
            "sbatch: *************\nsbatch:  Welcome to HAL\nsbatch: error: invalid partition specified: gup\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified",
            "sbatch refused: invalid partition specified: gup; Invalid partition name specified -> site.partition=",
        ),
        ("allocation failure: Requested time limit is invalid (missing or exceeds some limit)", "site.time_minutes="),
        ("sbatch: error: --gres-flags: invalid\nsbatch: fatal: x\nUsage: sbatch [-A account]", "flags: invalid; x ->"),
    ],
)
def test_sbatch_s_own_reason_and_not_its_advice(as_sbatch: Path, words: str, said: str) -> None:
    as_sbatch.with_name("words").write_text(words)
    as_sbatch.write_text("cat ${0%/*}/words >&2; exit 1")
    for act in (slurm.sbatch, slurm.refused):
        with pytest.raises(LaunchError, match=re.escape(said)) as e:
            act(as_sbatch.with_name("job.sh"))
        assert not re.search(r"Try|Usage|Welcome", str(e.value))


def test_a_job_that_would_wait_is_not_refused(as_sbatch: Path) -> None:
    as_sbatch.write_text("echo 'allocation failure: Requested partition configuration not available now' >&2; exit 1")
    slurm.refused(as_sbatch.with_name("job.sh"))
    with pytest.raises(LaunchError):
        slurm.sbatch(as_sbatch.with_name("job.sh"))
