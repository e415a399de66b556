"""Paths in a preset start at the working directory; where one is not there, it is said where it was looked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gra_hpc.config.settings import MethodConfig, ModelConfig
from gra_hpc.errors import GraError
from gra_hpc.flows import own_templates
from gra_hpc.flows.registry import find
from gra_hpc.models import files
from gra_hpc.sources import benchmarks, gold


def of_chat_template(path: str) -> object:
    model = Path("model")
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "tokenizer.json").write_text("{}")
    return files.check_files(model, ModelConfig(path="./model", load_format="dummy", chat_template=path))


@pytest.mark.parametrize(
    "read",
    [
        lambda path: own_templates.read(path, find(MethodConfig().flow)),
        lambda path: gold.read(path, (), 100, re.compile("x")),
        lambda path: files.model_directory(f"./{path}"),
        lambda path: benchmarks.find(path),
        of_chat_template,
    ],
    ids=["method.prompts", "method.gold", "models.NAME.path", "decontamination", "chat_template"],
)
def test_a_relative_path_that_is_not_there(
    read: Callable[[str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GraError) as e:
        read("pr")
    assert f"looked in {tmp_path}: a path starts at the working directory" in e.value.what
    with pytest.raises(GraError) as e:
        own_templates.read("/no/where", find(MethodConfig().flow))
    assert "looked in" not in e.value.what, "it says so itself"
