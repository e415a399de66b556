"""What a value may refer to: another key (`${method.rounds}`), and in a site's paths a variable of the shell, by list.

Whatever a value resolves to is written into run.yaml, manifests, cards and releases. So nothing resolves that could
read a secret: no resolver of OmegaConf's (`${oc.env:HF_TOKEN}`), and no variable that names no place.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from gra_hpc.errors import ConfigError

V = TypeVar("V")

VARIABLES = (
    # whose
    "HOME", "USER", "LOGNAME",
    # shared directories, as sites name them
    "SCRATCH", "PSCRATCH", "CSCRATCH", "GSCRATCH", "SCRATCHDIR", "MYSCRATCH", "FASTSCRATCH", "GROUP_SCRATCH",
    "VSC_SCRATCH", "CCFRSCRATCH", "WORK", "WORKDIR", "HPCWORK", "CCFRWORK", "PROJECT", "PROJECTS", "PROJECTDIR",
    "GROUP_HOME", "VSC_HOME", "CFS", "OAK", "DATA", "DSDIR", "VSC_DATA", "STORE", "CCFRSTORE",
    # directories of a node
    "TMPDIR", "TMP", "TEMP", "SLURM_TMPDIR", "JOBSCRATCH", "LOCAL_SCRATCH", "LOCALSCRATCH", "LSCRATCH", "L_SCRATCH",
    "SNIC_TMP", "XDG_RUNTIME_DIR",
    # a job's names, which sites put into such paths
    "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_USER", "SLURM_JOB_ACCOUNT",
    "SLURM_CLUSTER_NAME",
    # Python environments
    "VIRTUAL_ENV", "CONDA_PREFIX",
)  # fmt: skip
"""Variables of the shell that expand in a site's paths. They name directories, jobs and people, never a secret."""

_BRACED = re.compile(r"(\\*)\$\{")
_KEY = re.compile(r"\$\{[^{}:]*\}")
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


def refuse_resolvers(data: Any, source: str, key: str = "") -> None:
    """Refuse values in which `${...}` is more than another key's name.

    Args:
        data: maps, lists and values as YAML gives them.
        source: the file, for the message.
        key: where `data` stands.

    Raises:
        ConfigError: naming the key.
    """
    if isinstance(data, dict):
        for name, value in data.items():
            refuse_resolvers(value, source, f"{key}.{name}" if key else str(name))
    elif isinstance(data, (list, tuple)):
        for number, value in enumerate(data):
            refuse_resolvers(value, source, f"{key}[{number}]")
    elif isinstance(data, str) and "${" in data:
        left, text = "", _BRACED.sub(lambda m: "" if len(m[1]) % 2 else "${", data)  # `\${` is no reference
        while text != left:
            left, text = text, _KEY.sub("", text)  # from within: a reference may be part of another one's name
        if re.search(r"\$\{[^}]*:", text):
            raise ConfigError(
                f"{source}: {key}={data}: ${{...}} may name another key, and nothing else is read from here",
                "write the value itself; site.scratch, container, python and local_dir take $SCRATCH and its like",
            )


def escaped(value: V) -> V:
    """A configuration, or a part of one, whose texts read back as they are: `${` in a text is no reference any more."""
    out: Any = value
    if isinstance(value, str):
        out = _BRACED.sub(lambda m: f"{m[1] * 2}\\${{", value)
    elif isinstance(value, dict):
        out = {k: escaped(v) for k, v in value.items()}
    elif isinstance(value, list):
        out = [escaped(v) for v in value]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        out = dataclasses.replace(value, **{f.name: escaped(getattr(value, f.name)) for f in dataclasses.fields(value)})
    return cast(V, out)


def expanded(key: str, path: str, environ: Mapping[str, str] = os.environ) -> str:
    """A site's path with the `VARIABLES` in it expanded; those that are not set stay as they are.

    Args:
        key: the setting, for the message.

    Raises:
        ConfigError: another variable.
    """

    def of(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in VARIABLES:
            raise ConfigError(
                f"{key}={path}: ${name} is not among the variables that expand here ($SCRATCH, $WORK, $HOME, ...)",
                f"{key}=/the/path, or one that docs/configuration.md lists",
            )
        return environ.get(name) or found[0]

    return _VARIABLE.sub(of, path)
