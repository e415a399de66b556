"""A setting where a directory or a name is expected: the command says which one was forgotten."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gra_hpc.cli import app
from gra_hpc.errors import ConfigError


@pytest.mark.parametrize(
    ("typed", "missing", "then"),
    [
        (
            "plan --preset demo engine.kind=simulated",
            "RUN, the run's",
            "gra plan --preset demo RUN engine.kind=simulated",
        ),
        ("plan seeds.path=s.jsonl -p demo", "RUN, the run's", "gra plan RUN seeds.path=s.jsonl -p demo"),
        ("plan enigne.kind=simulated -p demo", "RUN, the run's", "gra plan RUN enigne.kind=simulated -p demo"),
        ("calibrate engine.gpus=1", "RUN, the run's", "gra calibrate RUN engine.gpus=1"),
        ("submit launch.window=2", "RUN, the run's", "gra submit RUN launch.window=2"),
        ("status reviewers=2", "RUN, the run's", "gra status RUN reviewers=2"),
        ("resume site.time_minutes=9", "RUN, the run's", "gra resume RUN site.time_minutes=9"),
        ("decide accept_mean=7", "RUN, the run's", "gra decide RUN accept_mean=7"),
        ("finetune data.path=runs/first --plan", "OUT, the job's", "gra finetune OUT data.path=runs/first --plan"),
        ("evaluate model.path=m", "OUT, the job's", "gra evaluate OUT model.path=m"),
        ("experiment run cluster=nc", "NAME, the experiment's", "gra experiment run NAME cluster=nc"),
        ("release verify release.licence=mit", "DIR, the release's", "gra release verify DIR release.licence=mit"),
    ],
)
def test_what_was_forgotten_before_a_setting_is_named(
    typed: str, missing: str, then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gra", *typed.split()])
    said = CliRunner().invoke(app, typed.split()).exception
    assert isinstance(said, ConfigError), said
    assert f"what comes before it is missing: {missing}" in said.what and said.then == then
    assert not list(tmp_path.iterdir())


def test_a_directory_may_have_an_equals_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "method=gra").mkdir()
    for name in ("method=gra", "lr=0.1", "runs/engine.kind=simulated"):
        assert "is a setting" not in str(CliRunner().invoke(app, ["status", name]).exception)
