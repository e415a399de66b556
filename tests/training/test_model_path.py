"""The model that a job begins with: known by its files, refused before anything is frozen where it is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gra_hpc.config import output_settings
from gra_hpc.errors import ConfigError, FingerprintError
from gra_hpc.models.trained import trained_model
from gra_hpc.training.config import compose
from gra_hpc.training.job import explain, refuse_absent_model


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ("", "model.path=m: no model lies there (no config.json) -> ls m"),
        ("plan.json", "model.path=m: is a run, not a model"),
        ("config.yaml", "model.path=m: this fine-tuning job is not done -> gra finetune m"),
        ("config.yaml done.json", "this fine-tuning job is not done"),
        ("checkpoints/1/complete.json model/", "this fine-tuning job is not done"),
        ("config.json checkpoints/1/complete.json model/", "m"),
        ("params.json", "m"),
        ("config.yaml model/config.json", "m/model"),
        ("model/config.json", "m/model"),
    ],
)
def test_a_model_is_known_by_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m").mkdir()
    for name in files.split():
        file = Path("m") / name
        (file if name.endswith("/") else file.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            file.write_text("{}")
    if words.startswith("m/") or words == "m":
        assert trained_model("m", "", "", False) == Path(words)
    else:
        with pytest.raises(ConfigError, match=re.escape(words)):
            trained_model("m", "", "", False)


def test_a_model_that_is_not_there_is_refused_once(tmp_path: Path) -> None:
    for path, words in (
        ("./nosuch", f"model.path=./nosuch: no such directory in {Path.cwd()}, and not in a cache"),
        (
            "some-org/nosuch",
            "model.path=some-org/nosuch: no such directory, and not in a cache -> gra fetch some-org/nosuch",
        ),
    ):
        config = compose("paper", [f"model.path={path}", "data.path=chats.jsonl", "site.gpus_per_node=8"])
        with pytest.raises(ConfigError, match=re.escape(words)):
            refuse_absent_model(tmp_path / "job", config)
        assert not (tmp_path / "job").exists(), "nothing is frozen"
    with pytest.raises(ConfigError, match="gra fetch some-org/nosuch@v2"):
        trained_model("some-org/nosuch", "v2", "", False)
    (tmp_path / "two words").mkdir()
    with pytest.raises(ConfigError, match=r"-> ls '.*two words'"):
        trained_model(f"{tmp_path}/two words", "", "", False)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file, not the directory of a model"):
        trained_model(f"{tmp_path}/file", "", "", False)
    with pytest.raises(ConfigError, match=re.escape(f"no such directory in {Path.cwd()}, and")):
        trained_model("./nosuch", "", "", False)
    (tmp_path / "job" / "submissions").mkdir(parents=True)
    refuse_absent_model(tmp_path / "job", config)  # typed again: a job of `--after` makes it


def test_a_job_does_not_begin_with_what_it_makes(tmp_path: Path) -> None:
    for name in ("job", "job/model"):
        made = [f"model.path={tmp_path / name}", "data.path=chats.jsonl", "site.gpus_per_node=8"]
        with pytest.raises(ConfigError, match="that is what this job makes -> name the model that it begins with"):
            list(explain(tmp_path / "job", compose("paper", made), plan=True))


def test_an_evaluation_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("benchmarks: []\nlaunch: {}\nmodel: {}\nsite: {}\n")
    with pytest.raises(ConfigError, match="is an evaluation, not a model"):
        trained_model(str(tmp_path), "", "", False)


def test_what_was_only_planned_is_planned_anew_by_its_owner(tmp_path: Path) -> None:
    one, other = (compose("paper", [f"model.path={m}", "data.path=d", "site.gpus_per_node=8"]) for m in ("a/b", "a/c"))
    out = tmp_path / "my job"
    output_settings.freeze(out, one)
    changed = r"was begun with other settings: model\.path: planned 'a/b', now 'a/c' -> choose another directory"
    with pytest.raises(FingerprintError, match=rf"{changed}; or, if no job .*, rm '\S+/my job/config.yaml' and type"):
        output_settings.freeze(out, other)
    (out / "submissions").mkdir()
    with pytest.raises(FingerprintError, match=f"{changed}$"):
        output_settings.freeze(out, other)
