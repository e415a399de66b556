"""An experiment file: a grid, of which each row is a chain of jobs (data, fine-tuning, evaluation).

The parts of a row are fragments of ordinary presets, merged from wide to narrow: `run`, then the seed dataset's, then
the data's. What comes out is written as a preset of its own, so that `gra plan` reads it like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from gra_hpc.config import presets
from gra_hpc.config.directories import config_dirs
from gra_hpc.config.fields import Most, expecting, setting
from gra_hpc.config.rules import check_bounds
from gra_hpc.errors import ConfigError, nearest

FOLDER = "experiments"
"""Where in `configs/` experiments are."""


@dataclass
class DataVariant:
    """One way to make training data."""

    label: str = ""
    """Shown in tables. Empty: its name."""
    trained: bool = True
    """Off: nothing is made and nothing is trained; the base model itself is evaluated."""
    of: str = ""
    """Variant whose data are used instead of own ones: for what differs in fine-tuning alone."""
    run: dict[str, Any] = setting({})
    """Fragment of a preset for `gra plan`; `include` names presets that come first."""
    finetune: dict[str, Any] = setting({})
    """Fragment of a fine-tuning configuration, last in order."""


@dataclass
class Base:
    """One model that is fine-tuned."""

    label: str = ""
    """Shown in tables. Empty: its name."""
    finetune: dict[str, Any] = setting({})
    """Fragment of a fine-tuning configuration: `model.path` at least."""
    evaluate: dict[str, Any] = setting({})
    """Fragment of an evaluation configuration."""


@dataclass
class Rows:
    """Rows of the grid: every seed dataset with every data variant and every base model. `*` stands for all."""

    seeds: list[str] = setting(["*"])
    """Names from `seeds`."""
    data: list[str] = setting(["*"])
    """Names from `data`."""
    bases: list[str] = setting(["*"])
    """Names from `bases`."""


@dataclass
class ExperimentConfig:
    """Everything about an experiment."""

    title: str = ""
    """One line for people."""
    printed: str = ""
    """Table of printed figures to compare with, as `gra_hpc/experiments/printed.yaml` names it."""
    metric: str = "mean"
    """Figure that is compared: `mean`, or a benchmark's name."""
    higher_is_better: bool = True
    """Whether more of it is better."""
    run: dict[str, Any] = setting({})
    """Fragment that every data run starts from."""
    seeds: dict[str, dict[str, Any]] = setting({})
    """Seed datasets: fragments of a preset."""
    data: dict[str, DataVariant] = setting({})
    """Ways to make training data."""
    bases: dict[str, Base] = setting({})
    """Models that are fine-tuned."""
    finetune: dict[str, Any] = setting({})
    """Fragment that every fine-tuning starts from; `preset` names its preset."""
    evaluate: dict[str, Any] = setting({})
    """Fragment that every evaluation starts from; `preset` names its preset."""
    rows: list[Rows] = setting(lambda: [Rows()])
    """Which rows of the grid there are, in the order of the table."""
    training_seeds: list[int] = setting([0], ge=0, le=Most.SEED)
    """Each row is trained once with each; from three on the table has confidence intervals."""
    cluster: str = ""
    """Site preset of all jobs; `gra experiment run --site` sets it."""


@dataclass(frozen=True, order=True)
class Row:
    """One row: `SEEDS/DATA/BASE`."""

    seeds: str
    data: str
    base: str
    of: str = ""
    """Variant whose data it uses; empty: its own."""

    def __str__(self) -> str:
        return f"{self.seeds}/{self.data}/{self.base}"

    @property
    def made(self) -> str:
        """Name of its data: rows with other base models share them."""
        return f"{self.seeds}-{self.of or self.data}"

    @property
    def name(self) -> str:
        """Name of its models and results, before the training seed."""
        return f"{self.seeds}-{self.data}-{self.base}"


def compose(experiment: str, overrides: Sequence[str] = (), site: str = "") -> ExperimentConfig:
    """The checked configuration of an experiment in `configs/experiments/`, or of a YAML file.

    Raises:
        ConfigError: unknown key, or rows that name what is not there.
    """
    config = presets.compose_as(ExperimentConfig, FOLDER, experiment, overrides)
    check_bounds(config, expecting("gra experiment rows NAME"))
    config.cluster = site or config.cluster
    rows_of(config)
    return config


def load(path: Path) -> ExperimentConfig:
    """A saved one."""
    return presets.load_as(ExperimentConfig, path)


def rows_of(config: ExperimentConfig, patterns: Sequence[str] = ()) -> list[Row]:
    """The rows, in order, each once; only those that match a pattern, if there are any (`alpaca/*/qwen`).

    Raises:
        ConfigError: a name or a pattern that matches nothing.
    """
    found: dict[Row, None] = {}
    for i, rows in enumerate(config.rows):
        axes = [
            _names(getattr(rows, axis), list(getattr(config, axis)), f"rows[{i}].{axis}")
            for axis in ("seeds", "data", "bases")
        ]
        for data in axes[1]:
            if config.data[data].of and config.data[data].of not in config.data:
                raise ConfigError(
                    f"data.{data}.of={config.data[data].of}: no such variant", f"one of {', '.join(config.data)}"
                )
        found |= dict.fromkeys(Row(s, d, b, config.data[d].of) for s in axes[0] for d in axes[1] for b in axes[2])
    for row in found:
        for name in (row.seeds, row.data, row.base):
            if not name.replace("-", "").replace(".", "").replace("_", "").isalnum():
                raise ConfigError(f"{name}: not a name for a directory", "letters, digits, - _ .")
    if not found:
        raise ConfigError("rows: there are none", "fill seeds, data and bases")
    for pattern in patterns:
        if not any(fnmatchcase(str(row), pattern) for row in found):
            raise ConfigError(
                f"{pattern}: matches no row{nearest(pattern, [str(r) for r in found])}",
                "SEEDS/DATA/BASE, * for all: gra experiment rows NAME",
            )
    return [r for r in found if not patterns or any(fnmatchcase(str(r), p) for p in patterns)]


def _names(wanted: Sequence[str], known: Sequence[str], key: str) -> list[str]:
    out: dict[str, None] = {}
    for pattern in wanted:
        matching = [name for name in known if fnmatchcase(name, pattern)]
        if not matching:
            raise ConfigError(f"{key}: {pattern}{nearest(pattern, known)}", f"there are: {', '.join(known) or 'none'}")
        out |= dict.fromkeys(matching)
    return list(out)


def fragment(config: ExperimentConfig, row: Row) -> dict[str, Any]:
    """The preset of a row's data run."""
    parts = (config.run, config.seeds[row.seeds], config.data[row.of or row.data].run)
    include: list[str] = next((p["include"] for p in reversed(parts) if "include" in p), [])
    merged: dict[str, Any] = {"include": include} if include else {}
    for part in parts:
        merged = merge_settings(merged, {k: v for k, v in part.items() if k != "include"})
    return merged


def preset_text(config: ExperimentConfig, row: Row) -> str:
    """The same as a YAML file."""
    label = config.data[row.of or row.data].label or row.of or row.data
    head = f"# {config.title or 'An experiment'}: {row.seeds}, {label}. Written by gra experiment.\n"
    return head + yaml.safe_dump(fragment(config, row), sort_keys=False, allow_unicode=True)


def merge_settings(wide: dict[str, Any], narrow: dict[str, Any]) -> dict[str, Any]:
    """Mappings are merged key by key, everything else is replaced."""
    out = dict(wide)
    for key, value in narrow.items():
        before = out.get(key)
        out[key] = merge_settings(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return out


def as_words(settings: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Settings as `a.b=value` words of a command line."""
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from as_words(value, f"{prefix}{key}.")
        else:
            text = yaml.safe_dump(value, default_flow_style=True, width=100_000, allow_unicode=True)
            yield f"{prefix}{key}={text.removesuffix('...' + chr(10)).strip()}"


def sorted_words(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Patterns of rows, and settings, of a command line."""
    return [w for w in given if "=" not in w], [w for w in given if "=" in w]


def repositories(config: ExperimentConfig, rows: Sequence[Row]) -> list[str]:
    """Hub repositories that the rows' data and base models come from, as `gra fetch` takes them. Benchmarks are not
    among them: `gra evaluate` names its own."""
    import tempfile

    from gra_hpc.models import hub

    found: dict[str, None] = {}
    with tempfile.TemporaryDirectory(prefix="gra-experiment-") as temporary:
        file = Path(temporary) / "preset.yaml"
        for row in rows:
            named = [str(config.bases[row.base].finetune.get("model", {}).get("path", ""))]
            if config.data[row.data].trained:
                file.write_text(preset_text(config, row), encoding="utf-8")
                run = presets.compose(str(file))
                named += [f"datasets/{run.seeds.path}", *(m.path for m in run.models.values())]
                named += [run.merge.embed_model] if run.merge.semantic else []
            for name in named:
                plain = name.removeprefix("datasets/")
                here = any((d / plain).exists() for d in (Path(), *config_dirs()))
                if hub.ID.fullmatch(plain) and not here:
                    found.setdefault(name)
    return list(found)
