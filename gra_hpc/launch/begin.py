"""Which settings a `gra finetune` or `gra evaluate` means: a preset's, or those its directory was begun with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from gra_hpc import presets
from gra_hpc.errors import ConfigError
from gra_hpc.evaluation import config as evaluation
from gra_hpc.evaluation.config import EvaluateConfig
from gra_hpc.training import config as training
from gra_hpc.training.config import FinetuneConfig

C = TypeVar("C")


def begun_finetune(out: Path, preset: str, overrides: Sequence[str], site: str) -> FinetuneConfig:
    """The settings of a fine-tuning job."""
    name = _preset(out, preset, "finetune")
    return training.checked(_composed(FinetuneConfig, training.FOLDER, name, overrides, site))


def begun_evaluate(out: Path, preset: str, overrides: Sequence[str], site: str) -> EvaluateConfig:
    """The settings of an evaluation."""
    name = _preset(out, preset, "evaluate")
    return evaluation.checked(_composed(EvaluateConfig, evaluation.FOLDER, name, overrides, site))


def _preset(out: Path, preset: str, verb: str) -> str:
    if preset:
        return preset
    if not (out / "config.yaml").is_file():
        raise ConfigError(f"{out}: was not begun yet", f"gra {verb} {out} --preset paper")
    return str(out / "config.yaml")


def _composed(kind: type[C], folder: str, name: str, overrides: Sequence[str], site: str) -> C:
    return presets.compose_as(kind, folder, name, overrides, site)
