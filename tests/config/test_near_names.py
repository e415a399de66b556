"""A file, preset or site that is not there: what lies beside it is named, of its own kind, and where it was sought."""

from __future__ import annotations

from pathlib import Path

import pytest

from gra_hpc.config import presets
from gra_hpc.config.directories import looked, near_file
from gra_hpc.errors import ConfigError, SeedError
from gra_hpc.experiments.config import compose as experiment
from gra_hpc.sources.files import find_file
from gra_hpc.training.config import compose as training


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_only_presets_of_its_kind_are_named(elsewhere: Path) -> None:
    with pytest.raises(ConfigError) as e:
        presets.compose("mini.yaml")
    assert "did you mean" not in e.value.what and f"looked for {elsewhere / 'mini.yaml'}" in e.value.what
    assert "demo" in e.value.then and "/" not in e.value.then
    with pytest.raises(
        ConfigError, match=r"did you mean finetune/mini\? .*presets: finetune/mini, finetune/paper$"
    ) as e:
        training("minni")
    with pytest.raises(ConfigError, match=r"presets: experiments/ablations, .*experiments/rounds$"):
        experiment("zzz")


@pytest.mark.parametrize("typed", ["mine.yml", "mnie.yaml", "mine", "{}/mine.yml"])
def test_a_preset_beside_the_name_is_meant(elsewhere: Path, typed: str) -> None:
    typed = typed.format(elsewhere)
    (elsewhere / "mine.yaml").write_text("{}")
    (elsewhere / "mine.txt").write_text("")
    with pytest.raises(ConfigError) as e:
        presets.compose(typed)
    assert f"no such file or preset; did you mean {Path(typed).with_name('mine.yaml')}?" in e.value.what


def test_where_a_site_was_sought_is_said(elsewhere: Path) -> None:
    with pytest.raises(ConfigError, match=f"site nc: no such site .*looked in {elsewhere}/configs/sites") as e:
        presets.find_site("nc")
    assert "did you mean" not in e.value.what
    (elsewhere / "nc.yaml").write_text("{}")
    with pytest.raises(ConfigError, match=r"site nc: no such site; did you mean nc.yaml\?"):
        presets.find_site("nc")
    with pytest.raises(ConfigError, match=r"preset nc.yml: no such file or preset; did you mean nc.yaml\?"):
        presets.find_site("nc.yml")


def test_a_file_beside_the_name_is_meant(elsewhere: Path) -> None:
    (elsewhere / "data").mkdir()
    (elsewhere / "data" / "seed_tasks.jsonl").write_text("")
    with pytest.raises(SeedError, match=r"no such file or directory; did you mean data/seed_tasks.jsonl\?"):
        find_file("data/seed_task.jsonl")
    assert looked("data/seed_tasks.json").startswith("; did you mean data/seed_tasks.jsonl? (looked in ")
    assert looked(str(elsewhere / "data" / "sed_tasks.jsonl")).endswith("/data/seed_tasks.jsonl?")
    assert near_file("data/other.csv") == near_file("nowhere/x") == near_file("") == near_file("a\0b") == ""
