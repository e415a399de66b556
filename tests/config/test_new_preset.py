"""`gra init` writes a preset that composes; a preset lends other seeds nothing that is its own seeds'."""

from __future__ import annotations

from pathlib import Path

import pytest

from gra_hpc.config import new_preset, presets
from gra_hpc.errors import ConfigError


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    path = tmp_path / "my seeds: 'one' #2.jsonl"
    path.write_text('{"instruction": "a", "response": "b"}\n')
    return path


def written(file: Path, seeds: Path | str, models: list[str], site: str = "", licence: str = "") -> Path:
    new_preset.write(file, new_preset.text(file, str(seeds), models, site, licence))
    return file


def test_of_a_preset_of_models(tmp_path: Path, seeds: Path) -> None:
    config = presets.compose(str(written(tmp_path / "mine.yaml", seeds, ["paper"], licence="cc-by-4.0")))
    assert config.seeds.path == str(seeds) and config.seeds.licence == "cc-by-4.0"
    assert set(config.models) == set(presets.compose("alpaca").models) and config.site.name == "local"
    assert "target_accepted: 10000  # rows wanted of each round" in (tmp_path / "mine.yaml").read_text()
    m = config.method
    assert (m.accept_mean, m.accept_sd, m.adjudicate_mean) == (8, 1.5, 8)  # the paper's


def test_of_models_of_ones_own(tmp_path: Path, seeds: Path) -> None:
    (tmp_path / "A model").mkdir()
    models = ["org/Name-7B", str(tmp_path / "A model"), "other/name-7b"]
    config = presets.compose(str(written(tmp_path / "mine.yaml", seeds, models)))
    assert {n: m.path for n, m in config.models.items()} == {
        "name-7b": "org/Name-7B",
        "a-model": str(tmp_path / "A model"),
        "name-7b-2": "other/name-7b",
    }
    assert {c.model for c in config.committee.values()} == set(config.models)


@pytest.mark.parametrize(
    ("seeds", "models", "site", "named"),
    [
        ("", ["paper"], "", "--seeds"),
        ("nosuch.jsonl", ["paper"], "", "--seeds nosuch.jsonl"),
        ("org/data", [], "", "--model"),
        ("org/data", ["papr"], "", "did you mean paper"),
        ("org/data", ["paper"], "nowhere", "no such site"),
    ],
)
def test_what_cannot_be_is_one_line(seeds: str, models: list[str], site: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        new_preset.text(Path("mine.yaml"), seeds, models, site, "")


def test_an_embedding_model_beside_the_models_is_named(tmp_path: Path, seeds: Path) -> None:
    for name in ("one", "two", "all-minilm-l6-v2"):
        (tmp_path / name).mkdir()
    models = [str(tmp_path / name) for name in ("one", "two")]
    usual = presets.compose(str(written(tmp_path / "a.yaml", seeds, models))).merge.embed_model
    assert usual == "sentence-transformers/all-MiniLM-L6-v2", "an empty directory is none"
    (tmp_path / "all-minilm-l6-v2" / "config.json").write_text("{}")
    file = written(tmp_path / "b.yaml", seeds, models)
    assert presets.compose(str(file)).merge.embed_model == str(tmp_path / "all-minilm-l6-v2")
    uncommented = file.read_text().replace("#   decontamination", "  decontamination")
    (tmp_path / "c.yaml").write_text(uncommented)
    assert presets.compose(str(tmp_path / "c.yaml")).merge.decontamination.sources == ["openai/gsm8k"]


def test_a_committee_that_cannot_dispute_is_named(tmp_path: Path, seeds: Path) -> None:
    models = [f"org/name-{i}" for i in range(3)]
    said = [written(tmp_path / f"{n}.yaml", seeds, models[:n]).read_text() for n in (1, 2, 3)]
    assert "judges its own writing" in said[0] and "nothing adjudicated" in said[1]
    assert "adjudicated." not in said[2] and "own writing" not in said[2]


def test_a_file_stays(tmp_path: Path, seeds: Path) -> None:
    (tmp_path / "mine.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="exists"):
        written(tmp_path / "mine.yaml", seeds, ["paper"])
    assert (tmp_path / "mine.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    "words",
    [["seeds.path={}"], ["seeds.licence=mit", "seeds.path={}"], ["seeds.path=tatsu-lab/alpaca", "seeds.path={}"]],
)
def test_other_seeds_have_nothing_of_the_presets_seeds(seeds: Path, words: list[str]) -> None:
    config = presets.compose("alpaca", [w.format(f'"{seeds}"') for w in words])
    assert config.seeds.licence == ("mit" if "licence" in words[0] else "")
    assert config.release.licence == "other"
    assert config.method.target_accepted == 10000  # the preset's own


def test_the_same_seeds_keep_their_licence() -> None:
    config = presets.compose("alpaca", ["seeds.path=tatsu-lab/alpaca", "seeds.limit=3"])
    assert config.seeds.licence == config.release.licence == "cc-by-nc-4.0"


def test_a_preset_over_another_brings_its_own_seeds(tmp_path: Path, seeds: Path) -> None:
    (tmp_path / "over.yaml").write_text(f'include: [alpaca]\nseeds: {{path: "{seeds}"}}\n')
    assert presets.compose(str(tmp_path / "over.yaml")).seeds.licence == ""
