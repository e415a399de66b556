"""`site.sbatch`: options that take what is the suite's, or come twice, are refused before anything is submitted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gra_hpc.config.sbatch_options import check, option
from gra_hpc.config.site import SiteConfig
from gra_hpc.errors import ConfigError


@pytest.mark.parametrize(
    ("sbatch", "site", "said"),
    [
        # what is ours
        ({"array": "0-3"}, {}, r"site\.sbatch\.array: --array is the suite's own.*leave it out"),
        ({"output": "/dev/null"}, {}, "gra logs"),
        ({"signal": "USR1@60"}, {}, r"site\.signal_lead_s"),
        ({"time": 60}, {}, r"site\.time_minutes"),
        ({"comment": "mine"}, {}, "knows its jobs"),
        ({"dependency": "singleton"}, {}, "waits for its arrays"),
        ({"no-requeue": True}, {}, "preempted"),
        ({"export": "NONE"}, {}, r"site\.setup"),
        ({"clusters": "other"}, {}, "one cluster"),
        ({"parsable": True}, {}, "answer is read"),
        # by other spellings
        ({"job_name": "x"}, {}, "--job-name"),
        ({"arra": "0-3"}, {}, "--array"),
        ({"sig": "USR1"}, {}, "--signal"),
        ({"--hint": "nomultithread"}, {}, "without dashes -> hint: nomultithread"),
        ({"p": "gpu"}, {}, "long name.* -> partition: gpu"),
        ({"mail_type": "END", "mail-type": "FAIL"}, {}, "the same option as mail_type"),
        # twice
        ({"account": "a"}, {"account": "b"}, r"site\.account says it already"),
        ({"partition": "a"}, {"merge_partition": "b"}, r"site\.merge_partition says it already"),
        ({"mem": "4G"}, {"memory_gb": 8.0}, r"site\.memory_gb says it already"),
        ({"mem-per-cpu": "4G"}, {}, r"set site\.memory_gb and site\.merge_memory_gb instead"),
        ({"cpus-per-task": 4}, {}, r"set site\.cpus_per_task"),
        ({"gpus": 2}, {"gpus_per_node": 4}, "asked for twice"),
        ({"gres": "gpu:a100:2"}, {"gpus_per_node": 4}, "asked for twice"),
        ({"gres": "lscratch:100"}, {"gpus_per_node": 4, "gpu_style": "gres"}, "asked for twice"),
        # no options at all
        ({"hint": None}, {}, "expected a text, a number or true"),
        ({"hint": "x\n#SBATCH --array=0-9"}, {}, "expected a text"),
        ({"exclusive": False}, {}, "expected a text"),
        ({"a b": 1}, {}, "not the name of an option"),
        ({"": 1}, {}, "not the name of an option"),
    ],
)
def test_refused(sbatch: dict[str, Any], site: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check(replace(SiteConfig(), sbatch=sbatch, **site))


@pytest.mark.parametrize(
    ("sbatch", "site"),
    [
        ({"hint": "nomultithread", "mail-type": "FAIL", "exclusive": True, "nice": 100}, {}),
        ({"account": "a", "partition": "p", "mem": 0}, {}),
        ({"gres": "lscratch:100"}, {"gpus_per_node": 4}),
        ({"gpus-per-task": 4}, {"gpus_per_node": 4, "gpu_style": "none"}),
        ({"container-image": "x", "bbb": 1}, {}),  # a plugin's, or nobody's: sbatch judges
        ({"time-min": 30}, {}),
    ],
)
def test_taken(sbatch: dict[str, Any], site: dict[str, Any]) -> None:
    check(replace(SiteConfig(), sbatch=sbatch, **site))


def test_a_shortened_name_is_whole_if_it_can_mean_one_option() -> None:
    assert [option(x) for x in ("mail_typ", "tim", "t", "nonsense")] == ["mail-type", "tim", "time", "nonsense"]
