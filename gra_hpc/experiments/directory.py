"""The directory of experiments, and the configurations of their parts. Experiments in one directory share what they
have in common.

DIR/NAME.yaml                   the experiment as it was last run
    presets/SEEDS-DATA.yaml     what gra plan reads
    data/SEEDS-DATA/            runs
    models/SEEDS-DATA-BASE-sN/  fine-tuned models, by training seed
    results/SEEDS-DATA-BASE-sN/ evaluations
    NAME.table.md  .csv  .html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra_hpc.config import presets
from gra_hpc.config.settings import RunConfig
from gra_hpc.errors import ConfigError, GraError
from gra_hpc.experiments import config as experiments
from gra_hpc.experiments.config import ExperimentConfig, Row, as_words, merge_settings
from gra_hpc.run.directory import RunDir
from gra_hpc.storage import OWN, write_atomic
from gra_hpc.terminal import word


@dataclass(frozen=True)
class ExperimentDir:
    """Paths of one experiment."""

    path: Path
    name: str

    @classmethod
    def of(cls, name: str, directory: Path | None) -> ExperimentDir:
        """Where an experiment is or will be: `runs/NAME` unless it is told."""
        plain = Path(name).stem
        return cls((directory or Path("runs") / plain).absolute(), plain)

    @classmethod
    def existing(cls, name: str, directory: Path | None) -> ExperimentDir:
        """An experiment that was begun.

        Raises:
            GraError: it was not.
        """
        made = cls.of(name, directory)
        if not made.config.is_file():
            raise GraError(
                f"{made.path}: no such experiment was begun (no {made.config.name})",
                f"gra experiment run {name}{f' --dir {word(directory)}' if directory else ''}",
            )
        return made

    @property
    def config(self) -> Path:
        return self.path / f"{self.name}.yaml"

    def table(self, ending: str) -> Path:
        return self.path / f"{self.name}.table.{ending}"

    def preset(self, row: Row) -> Path:
        return self.path / "presets" / f"{row.made}.yaml"

    def data(self, row: Row) -> RunDir:
        return RunDir(self.path / "data" / row.made)

    def model(self, row: Row, seed: int) -> Path:
        return self.path / "models" / f"{row.name}-s{seed}"

    def result(self, row: Row, seed: int) -> Path:
        return self.path / "results" / f"{row.name}-s{seed}"

    def save(self, config: ExperimentConfig, rows: Sequence[Row]) -> None:
        """Write the experiment and its rows' presets."""
        for d in ("presets", "data", "models", "results"):
            (self.path / d).mkdir(parents=True, exist_ok=True)
        for row in rows:
            if config.data[row.data].trained:
                write_atomic(self.preset(row), experiments.preset_text(config, row).encode(), mode=OWN)
        write_atomic(self.config, presets.dump(config).encode(), mode=OWN)


def seeds_of(config: ExperimentConfig, row: Row) -> list[int]:
    """Training seeds of a row; a model that is not trained has one result."""
    return config.training_seeds if config.data[row.data].trained else config.training_seeds[:1]


def run_config(made: ExperimentDir, config: ExperimentConfig, row: Row) -> RunConfig:
    """Configuration of a row's data run, from the preset that was written."""
    return presets.compose(str(made.preset(row)), [], config.cluster)


def finetune_config(made: ExperimentDir, config: ExperimentConfig, row: Row, seed: int) -> Any:
    """Configuration of a row's fine-tuning."""
    from gra_hpc.training import config as training

    settings = merge_settings(
        merge_settings(config.finetune, config.bases[row.base].finetune), config.data[row.data].finetune
    )
    preset = settings.pop("preset", "paper")
    if settings.get("data", {}).get("limit"):  # each training seed draws its own rows
        settings = merge_settings({"data": {"limit_seed": seed}}, settings)
    settings = merge_settings(settings, {"data": {"path": str(made.data(row).path)}, "seed": seed})
    return training.compose(preset, list(as_words(settings)), config.cluster)


def evaluate_config(made: ExperimentDir, config: ExperimentConfig, row: Row, seed: int) -> Any:
    """Configuration of a row's evaluation: of its fine-tuned model, or of the base model itself.

    Raises:
        ConfigError: a base model without a path.
    """
    from gra_hpc.evaluation import config as evaluation

    settings = merge_settings(config.evaluate, config.bases[row.base].evaluate)
    preset = settings.pop("preset", "paper")
    if config.data[row.data].trained:
        path = str(made.model(row, seed))
    else:
        model = config.bases[row.base].finetune.get("model", {})
        if not model.get("path"):
            raise ConfigError(
                f"bases.{row.base}.finetune.model.path: a value is required",
                f"bases.{row.base}.finetune.model.path=ORG/NAME",
            )
        path = model["path"]
    return evaluation.compose(
        preset, list(as_words(merge_settings(settings, {"model": {"path": path}}))), config.cluster
    )
