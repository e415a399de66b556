"""The model that fine-tuning or evaluation begins with: what a fine-tuning job made, a directory, or a Hub id."""

from __future__ import annotations

import shlex
from pathlib import Path

from gra_hpc.errors import ConfigError
from gra_hpc.models import hub
from gra_hpc.models.files import refuse_strange_code

_STATED = ("config.json", "params.json")
"""One of them lies in every model's directory."""


def trained_model(path: str, revision: str, scratch: str, trust_remote_code: bool) -> Path:
    """The directory of a model, without any network.

    Args:
        path: the directory of a model or of a fine-tuning job, or a Hub id that lies in a local cache.
        revision: of the Hub id.
        scratch: `site.scratch`, whose cache is looked at first.
        trust_remote_code: whether code that comes with the model is run.

    Raises:
        ConfigError: neither a directory nor in a cache, a fine-tuning job that is not done, or no model.
        OwnershipError: code would be run that is in other hands.
    """
    directory, typed = Path(path).expanduser(), shlex.quote(path)
    if not directory.is_dir():
        found = hub.find(path, revision, "model", scratch)
        if not found:
            raise ConfigError(f"model.path={path}: no such directory, and not in a cache", hub.brings(path, revision))
        return found
    if not _is_model(directory) and _is_model(directory / "model"):
        directory /= "model"
    elif not _is_model(directory):
        if (directory / "config.yaml").is_file() or (directory / "checkpoints").is_dir():
            raise ConfigError(f"model.path={path}: this fine-tuning job is not done", f"gra finetune {typed}")
        raise ConfigError(f"model.path={path}: no model lies there (no config.json)", f"ls {typed}")
    refuse_strange_code(path, directory, trust_remote_code)
    return directory


def _is_model(directory: Path) -> bool:
    return any((directory / name).is_file() for name in _STATED)
