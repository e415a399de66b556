"""The model that fine-tuning or evaluation begins with: what a fine-tuning job made, a directory, or a Hub id."""

from __future__ import annotations

from pathlib import Path

from gra_hpc.errors import ConfigError
from gra_hpc.models import hub
from gra_hpc.models.files import refuse_strange_code


def trained_model(path: str, revision: str, scratch: str, trust_remote_code: bool) -> Path:
    """The directory of a model, without any network.

    Args:
        path: the directory of a fine-tuning job or of a model, or a Hub id that lies in a local cache.
        revision: of the Hub id.
        scratch: `site.scratch`, whose cache is looked at first.
        trust_remote_code: whether code that comes with the model is run.

    Raises:
        ConfigError: neither a directory nor in a cache, or a fine-tuning job that is not done.
        OwnershipError: code would be run that is in other hands.
    """
    directory = Path(path)
    if (directory / "checkpoints").is_dir() or (directory / "model").is_dir():
        if not (directory / "done.json").is_file():
            raise ConfigError(f"model.path={path}: this fine-tuning job is not done", f"gra finetune {path}")
        directory /= "model"
    if directory.is_dir():
        refuse_strange_code(path, directory, trust_remote_code)
        return directory
    found = hub.find(path, revision, "model", scratch)
    if not found:
        raise ConfigError(f"model.path={path}: no such directory, and not in a cache", hub.brings(path))
    return found
