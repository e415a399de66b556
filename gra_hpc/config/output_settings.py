"""The settings that an output directory of a fine-tuning or an evaluation was begun with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gra_hpc.config import presets
from gra_hpc.config.frozen import differences, fingerprinted
from gra_hpc.errors import ConfigError, FingerprintError, LaunchError
from gra_hpc.storage import OWN, write_atomic
from gra_hpc.terminal import word


def preset_of(out: Path, preset: str, verb: str) -> str:
    """The preset that was named, else the settings that the directory was begun with.

    Args:
        verb: finetune or evaluate.

    Raises:
        ConfigError: neither is there; or the directory is a run's.
    """
    if (out / "plan.json").is_file():
        told = f" data.path={word(out)}" if verb == "finetune" else ""
        raise ConfigError(
            f"{out}: is a run; this needs a directory of its own",
            f"gra {verb} {word(f'{out}-{verb}')} --preset paper{told}",
        )
    if preset:
        return preset
    if not (out / "config.yaml").is_file():
        raise ConfigError(f"{out}: was not begun yet", f"gra {verb} {word(out)} --preset paper")
    return str(out / "config.yaml")


def freeze(out: Path, config: Any) -> Path:
    """Save the configuration in the output directory; what the result depends on may not change any more.

    Returns:
        The directory, absolute.

    Raises:
        FingerprintError: there is one, and it differs.
        OwnershipError: it is another user's, or others may write it.
        LaunchError: a name that Slurm cannot take.
    """
    out = out.absolute()
    if "%" in str(out):
        raise LaunchError(f"{out}: Slurm reads % in the names of logs", "choose a directory without one")
    out.mkdir(parents=True, exist_ok=True)
    path = out / "config.yaml"
    if path.is_file():
        before = presets.load_as(type(config), path, own=True)
        if before.fingerprint != config.fingerprint:
            keys = ", ".join(differences(fingerprinted(before), fingerprinted(config)))
            then = "choose another directory"
            if all(p == path for p in out.iterdir()):
                then += f"; or, if no job of yours waits for it, rm {word(path)} and type this again"
            raise FingerprintError(f"{out}: was begun with other settings: {keys}", then)
    write_atomic(path, presets.dump(config).encode(), mode=OWN)
    return out
