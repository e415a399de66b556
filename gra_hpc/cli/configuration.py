"""`gra config`: the configuration and the meaning of its keys."""

from __future__ import annotations

import typer

from gra_hpc.cli.application import Overrides, Preset, Site, app

config_app = typer.Typer(help="The configuration and the meaning of its keys.", rich_markup_mode=None)
app.add_typer(config_app, name="config")


@config_app.command("show")
def config_show(overrides: Overrides = None, preset: Preset = "demo", site: Site = "") -> None:
    """Print the resolved configuration with the meaning of each field."""
    from gra_hpc import presets

    for line in presets.explain(presets.compose(preset, overrides or [], site)):
        print(line)
