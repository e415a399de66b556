"""The environment that jobs are submitted with: the user's, without what belongs to another job.

sbatch hands a job its submitter's environment, and Slurm's own variables in it are orders: inside an allocation or a
job there are `SLURM_MEM_PER_CPU`, `SLURM_CPU_BIND`, `SLURM_STEP_GPUS` and some fifty more, which srun in the new job
obeys, or refuses beside what that job asked for. And variables `SBATCH_*` win over the options in a script.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_OF_THE_SITE = re.compile(r"SLURM_CONF(?:_SERVER)?|SLURM_JWT|SLURM_CLUSTERS|SLURM_DEBUG_FLAGS")
"""Where Slurm is and who we are: not of a job."""
_OF_A_JOB = re.compile(r"SLURM\w*|SRUN_\w*|SALLOC_\w*|PMI\w*|PALS_\w*|OMPI_COMM_\w*|SUBMITIT_\w*|_TEST_CLUSTER_")
"""What Slurm, its launchers and submitit tell a job, and what of it srun takes for orders."""
_GIVEN_TO_A_JOB = (
    "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK",
    "TMPDIR",
)  # fmt: skip
"""A job's devices and its directory, which are gone with it; outside a job they are the user's own."""
_DEFAULTS = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_CONSTRAINT": "constraint",
    "SBATCH_RESERVATION": "reservation",
    "SBATCH_WCKEY": "wckey",
}
"""A user's own defaults, where neither site nor run says otherwise, with the option that each is."""


def for_sbatch(environ: Mapping[str, str], script: str) -> dict[str, str]:
    """The environment to run sbatch in.

    Args:
        environ: the submitter's.
        script: what is submitted; its `#SBATCH` lines say which options are given.
    """
    in_a_job = "SLURM_JOB_ID" in environ
    out = {}
    for name, value in environ.items():
        if name.startswith("SBATCH_"):
            kept = name in _DEFAULTS and f"#SBATCH --{_DEFAULTS[name]}" not in script
        elif in_a_job and name in _GIVEN_TO_A_JOB:
            kept = False
        else:
            kept = bool(_OF_THE_SITE.fullmatch(name)) or not _OF_A_JOB.fullmatch(name)
        if kept:
            out[name] = value
    return out


def overruled(environ: Mapping[str, str], script: str) -> list[str]:
    """The user's `SBATCH_*` variables that do not count, since they would win over the script."""
    kept = for_sbatch(environ, script)
    return sorted(name for name in environ if name.startswith("SBATCH_") and name not in kept)
