"""`gra config`: the configuration and the meaning of its keys."""

from __future__ import annotations

from typing import Any

import typer

from gra_hpc.cli.application import Overrides, Preset, Site, app
from gra_hpc.terminal import say

config_app = typer.Typer(help="The configuration and the meaning of its keys.", rich_markup_mode=None)
app.add_typer(config_app, name="config")


@config_app.command("show")
def config_show(overrides: Overrides = None, preset: Preset = "demo", site: Site = "") -> None:
    """Print the resolved configuration with the meaning of each field."""
    from gra_hpc.config import explain

    for line in explain.explain(_composed(preset, overrides or [], site)):
        say(line)


def _composed(preset: str, overrides: list[str], site: str) -> Any:
    """The configuration of a run, or of the job that the preset's folder is of; needed values may be missing there."""
    from gra_hpc.config import presets

    folder = preset.partition("/")[0]
    if folder == "finetune":
        from gra_hpc.training.config import compose as compose_finetune

        return compose_finetune(preset, ["model.path=MODEL", "data.path=DATA", *overrides], site)
    if folder == "evaluate":
        from gra_hpc.evaluation.config import compose as compose_evaluate

        return compose_evaluate(preset, ["model.path=MODEL", *overrides], site)
    return presets.compose(preset, overrides, site)
