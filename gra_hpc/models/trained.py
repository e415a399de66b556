"""The model that fine-tuning or evaluation begins with: what a fine-tuning job made, a directory, or a Hub id."""

from __future__ import annotations

from pathlib import Path

from gra_hpc.errors import ConfigError
from gra_hpc.models import hub
from gra_hpc.models.files import refuse_strange_code
from gra_hpc.terminal import word
from gra_hpc.whereabouts import kind

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
    directory = Path(path).expanduser()
    if not directory.is_dir():
        found = hub.find(path, revision, "model", scratch)
        if not found:
            raise _absent(path, revision, directory)
        return found
    if not _is_model(directory) and _is_model(directory / "model"):
        directory /= "model"
    elif not _is_model(directory):
        raise _no_model(path, directory)
    refuse_strange_code(path, directory, trust_remote_code)
    return directory


def refuse_own(path: str, out: Path) -> None:
    """Refuse a job whose model is what it makes itself.

    Raises:
        ConfigError: it is.
    """
    mine = out.resolve()
    if Path(path).expanduser().resolve() in (mine, mine / "model"):
        raise ConfigError(f"model.path={path}: that is what this job makes", "name the model that it begins with")


def _absent(path: str, revision: str, directory: Path) -> ConfigError:
    if directory.exists():
        return ConfigError(f"model.path={path}: is a file, not the directory of a model", hub.brings(""))
    relative = not directory.is_absolute() and not hub.ID.fullmatch(path)
    where = f" in {Path.cwd()}" if relative else ""
    return ConfigError(f"model.path={path}: no such directory{where}, and not in a cache", hub.brings(path, revision))


def _no_model(path: str, directory: Path) -> ConfigError:
    made, typed = kind(directory), word(path)
    if made and made.what != "a fine-tuning":
        return ConfigError(f"model.path={path}: is {made.what}, not a model", hub.brings(""))
    if made or (directory / "checkpoints").is_dir() or (directory / "config.yaml").is_file():
        return ConfigError(f"model.path={path}: this fine-tuning job is not done", f"gra finetune {typed}")
    return ConfigError(f"model.path={path}: no model lies there (no config.json)", f"ls {typed}")


def _is_model(directory: Path) -> bool:
    return any((directory / name).is_file() for name in _STATED)
