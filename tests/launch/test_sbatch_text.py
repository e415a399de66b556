"""The sbatch files of shards and merges, word for word (`pytest --snapshot-update` after a change)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from gra_hpc.config import presets
from gra_hpc.config.settings import RunConfig
from gra_hpc.config.site import Executor
from gra_hpc.errors import ConfigError
from gra_hpc.launch.arrays import merge_executor, sbatch_text, script_of, shard_executor
from gra_hpc.run.directory import RunDir

RUN = RunDir(Path("/scratch/me/runs/first"))

SITES: dict[str, dict[str, Any]] = {
    "cpu, a quarter of an hour": {"time_minutes": 15, "cpus_per_task": 4, "memory_gb": 8.0},
    "gpus": {
        "account": "abc", "partition": "gpu", "qos": "long", "gpus_per_node": 4, "gpu_type": "a100",
        "cpus_per_task": 32, "time_minutes": 240, "signal_lead_s": 150, "modules": ["cuda/12"],
        "setup": ["export HF_HUB_OFFLINE=1"],
        "merge_partition": "cpu", "merge_cpus": 8, "merge_memory_gb": 64.0,
    },
    "gres in a container": {
        "gpu_style": "gres", "gpus_per_node": 8, "constraint": "v100-32g", "exclude": "bad[1-2]", "reservation": "week",
        "container": "apptainer:/images/gra.sif", "python": "/opt/python", "wckey": True,
        "sbatch": {"hint": "nomultithread", "mail-type": "FAIL"},
    },
}  # fmt: skip


def config(site: str, parallel: int = 0) -> RunConfig:
    made = RunConfig()
    made.site.executor = Executor.slurm
    made.site.max_array_size = 1001
    made.launch.parallel = parallel
    for key, value in SITES[site].items():
        setattr(made.site, key, value)
    return made


@pytest.mark.parametrize("site", list(SITES))
def test_shards(site: str, snapshot: Any) -> None:
    assert plain(sbatch_text(RUN, config(site, parallel=3 if site == "gpus" else 0), 8)) == snapshot


def test_an_array_is_no_larger_than_the_site_allows() -> None:
    assert "#SBATCH --array=0-1000%1001\n" in sbatch_text(RUN, config("gpus"), 5000)


@pytest.mark.parametrize("site", list(SITES))
def test_merges(site: str, snapshot: Any) -> None:
    executor = merge_executor(RUN, config(site), "gra:RUN:SUBMISSION:1", "afterany:41:42")
    assert plain(executor._make_submission_file_text(executor._submitit_command_str, "UID")) == snapshot


def test_a_merge_that_is_too_long_is_not_requeued_for_ever() -> None:
    """Shards are bounded by their progress, merges by their time limits: they start from the beginning."""
    assert merge_executor(RUN, config("gpus"), "", "").max_num_timeout == 2
    assert shard_executor(RUN, config("gpus"), "").max_num_timeout > 1000


def mail_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if "mail" in line]


def test_one_mail_at_the_release() -> None:
    """And one where a merge fails before; none of arrays, of which each task would send one."""
    made = config("gpus")
    assert not mail_of(script_of(merge_executor(RUN, made, "", last=True)))
    made.site.mail = "me@example.org"
    assert not mail_of(sbatch_text(RUN, made, 8))
    user = "#SBATCH --mail-user=me@example.org"
    assert mail_of(script_of(merge_executor(RUN, made, ""))) == ["#SBATCH --mail-type=FAIL", user]
    assert mail_of(script_of(merge_executor(RUN, made, "", last=True))) == ["#SBATCH --mail-type=END,FAIL", user]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("site.mail='a b'", "site.mail=a b: expected one address"),
        ("site.mail='a@b.c --wrap=x'", "expected one address"),
        ("site.sbatch={mail_type: ALL}", "site.mail says it already"),
    ],
)
def test_what_is_no_address_or_given_twice(word: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        presets.compose("demo", ["site.mail=me@example.org", word])


def plain(text: str) -> str:
    """Without what differs between machines."""
    return text.replace(sys.executable, "PYTHON").replace(str(Path.cwd()), "HERE")
