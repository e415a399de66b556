"""What fine-tuning and evaluation share when they are launched: the frozen configuration, and one job in Slurm's queue.

An output directory is, to the launching code, a run without rounds: it has `logs/` and `submissions/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gra_hpc import presets
from gra_hpc.config import fingerprinted
from gra_hpc.errors import ConfigError, FingerprintError, LaunchError
from gra_hpc.launch.submissions import Submission, live, refuse_while_at_work
from gra_hpc.plan import differences
from gra_hpc.rundir import RunDir
from gra_hpc.storage import write_atomic


def preset_of(out: Path, preset: str, verb: str) -> str:
    """The preset that was named, else the settings that the directory was begun with.

    Args:
        verb: finetune or evaluate.

    Raises:
        ConfigError: neither is there.
    """
    if preset:
        return preset
    if not (out / "config.yaml").is_file():
        raise ConfigError(f"{out}: was not begun yet", f"gra {verb} {out} --preset paper")
    return str(out / "config.yaml")


def freeze(out: Path, config: Any) -> Path:
    """Save the configuration in the output directory; what the result depends on may not change any more.

    Returns:
        The directory, absolute.

    Raises:
        FingerprintError: there is one, and it differs.
        LaunchError: a name that Slurm cannot take.
    """
    out = out.absolute()
    if "%" in str(out):
        raise LaunchError(f"{out}: Slurm reads % in the names of logs", "choose a directory without one")
    out.mkdir(parents=True, exist_ok=True)
    path = out / "config.yaml"
    if path.is_file():
        before = presets.load_as(type(config), path)
        if before.fingerprint != config.fingerprint:
            keys = ", ".join(differences(fingerprinted(before), fingerprinted(config)))
            raise FingerprintError(
                f"{out}: was begun with other settings: {keys}", "choose another directory"
            )
    write_atomic(path, presets.dump(config).encode())
    return out


def in_queue(run: RunDir, kind: str) -> str:
    """Slurm's id of a job of this kind that waits or runs; empty if there is none.

    Raises:
        LaunchError: Slurm cannot be asked, or another process submits just now.
    """
    refuse_while_at_work(run)
    ids = [str(task.job) for job, task in live(run) if job.kind == kind and not task.hopeless]
    return ids[-1] if ids else ""


def dependency(kind: str, ids: Sequence[str]) -> str:
    """`afterok:1:2`, or nothing."""
    known = [i for i in ids if i]
    return f"{kind}:{':'.join(dict.fromkeys(known))}" if known else ""


def note(run: RunDir, submission: Submission, done: bool = False) -> None:
    """Write a submission down; before sbatch is called, and after."""
    submission.complete = done
    submission.save(run)
