"""A path that is no run's: what is there instead is said, and what to type about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gra_hpc.cli.releases import _directory
from gra_hpc.config.output_settings import preset_of
from gra_hpc.config.presets import dump
from gra_hpc.errors import ConfigError, GraError, ReleaseError
from gra_hpc.evaluation.config import compose as evaluation
from gra_hpc.run.directory import RunDir
from gra_hpc.training.config import compose as training


@pytest.fixture(scope="module")
def settings() -> tuple[str, str]:
    """Of a fine-tuning, and of an evaluation."""
    return dump(training("paper", ["model.path=m", "data.path=d"])), dump(evaluation("paper", ["model.path=m"]))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, str]) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("plan.json", "release/manifest.json", "release/data/train.parquet", "rounds/01/plan.json"):
        write(f"runs/first/{name}")
    write("runs/second/plan.json")
    write("runs/ft/config.yaml", settings[0])
    write("runs/ft/model/config.json")
    write("runs/ev/config.yaml", settings[1])
    for part in ("presets", "data", "models", "results"):
        (tmp_path / "runs/table" / part).mkdir(parents=True)
    write("runs/table/table2.yaml")
    write("runs/lost/run.yaml")
    (tmp_path / "runs/void").mkdir()
    write("runs/notes/thesis.tex")
    write("own/seeds.jsonl")
    write("given/manifest.json")
    (tmp_path / "given/data").mkdir()
    write("mine.yaml")
    return tmp_path


def write(name: str, text: str = "{}") -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("path", "what", "then"),
    [
        ("runs/ft", "is a fine-tuning", "gra finetune runs/ft"),
        ("runs/ft/model", "is a part of runs/ft, a fine-tuning", "gra finetune runs/ft"),
        ("runs/ev", "is an evaluation", "gra evaluate runs/ev"),
        ("runs/table", "is an experiment", "gra experiment status table2 --dir runs/table"),
        ("runs", "holds runs: first, second", "gra status runs/first"),
        ("runs/first/release", "is the release of runs/first, a run", "gra status runs/first"),
        ("runs/first/rounds/01", "is a part of runs/first, a run", "gra status runs/first"),
        ("runs/first/plan.json", "is a part of runs/first, a run", "gra status runs/first"),
        ("runs/lost", "is a run without its plan (no plan.json)", "bring it back, or gra plan runs/lost-2"),
        ("runs/void", "is empty, and no run yet", "gra plan runs/void --preset mine.yaml"),
        ("runs/notes", "not a run (no plan.json)", "gra status DIR"),
        ("runs/firsst", "no such directory; did you mean runs/first?", "gra status runs/first"),
        ("second", "no such directory; did you mean runs/second?", "gra status runs/second"),
        ("runs/fft", "no such directory; did you mean runs/ft?", "gra finetune runs/ft"),
        ("zzz", "no such directory (there are runs/ev", "gra evaluate runs/ev"),
        ("own", "holds data, and is not a run", "gra plan runs/first --preset mine.yaml seeds.path=own"),
        (
            "own/seeds.jsonl",
            "is a file, not a run's",
            "gra plan runs/first --preset mine.yaml seeds.path=own/seeds.jsonl",
        ),
        ("given", "is a release without its run", "gra release verify given"),
        ("mine.yaml", "is a file of settings, not a run's", "gra plan runs/first --preset mine.yaml"),
    ],
)
def test_what_is_not_a_run_is_told(desk: Path, path: str, what: str, then: str) -> None:
    for given in (path, str(desk / path)):
        with pytest.raises(GraError) as e:
            RunDir.existing(given)
        assert e.value.what.startswith(f"{given}: {what}")
        assert e.value.then.replace(f"{desk}/", "").startswith(then)


def test_nothing_near_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GraError, match=r"runs/first: no such directory -> gra plan runs/first --preset mine.yaml"):
        RunDir.existing("runs/first")
    with pytest.raises(GraError, match=r"mine.yaml: no such directory -> gra plan runs/first --preset mine.yaml"):
        RunDir.existing("mine.yaml")


def test_a_release_is_told_from_what_is_none(desk: Path) -> None:
    with pytest.raises(ReleaseError, match="runs/ft: is a fine-tuning -> gra finetune runs/ft"):
        _directory(Path("runs/ft"))
    with pytest.raises(ReleaseError, match="runs/firsst: no such directory; did you mean runs/first"):
        _directory(Path("runs/firsst"))


def test_a_job_begins_in_no_run(desk: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"runs/first: is a run; .* -> gra finetune runs/first-finetune --preset paper"
    ):
        preset_of(Path("runs/first"), "paper", "finetune")
    assert preset_of(Path("runs/other"), "paper", "finetune") == "paper"
