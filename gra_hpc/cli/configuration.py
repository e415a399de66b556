"""`gra init` and `gra config`: a preset of one's own, and the meaning of its keys."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gra_hpc.cli.application import Overrides, Preset, Site, app
from gra_hpc.terminal import say, tell, word

config_app = typer.Typer(help="The configuration and the meaning of its keys.", rich_markup_mode=None)
app.add_typer(config_app, name="config")


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The preset to write: mine.yaml.")],
    seeds: Annotated[str, typer.Option("--seeds", help="File, directory or Hub dataset of seeds.")] = "",
    models: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Preset of models, or a Hub id or directory; repeatable.")
    ] = None,
    site: Site = "",
    licence: Annotated[str, typer.Option("--licence", help="Of the seeds.")] = "",
) -> None:
    """Write a preset of your own, with comments; what is not given is asked on a terminal."""
    from gra_hpc.config import new_preset

    given = {"seeds": seeds, "licence": licence, "models": " ".join(models or []), "site": site}
    for question in new_preset.questions() if sys.stdin.isatty() else ():
        if not given[question.name]:
            say(question.about)
            given[question.name] = typer.prompt(question.name, default=question.default or None)
    new_preset.write(
        file, new_preset.text(file, given["seeds"], given["models"].split(), given["site"], given["licence"])
    )
    say(f"{file}: written; open it, every line says what it is for")
    tell("models and the embedding model have to be here, or are fetched, once, where there is a network:")
    say(f"next: gra fetch --preset {word(file)}")
    say(f"then: gra plan runs/first --preset {word(file)}")


@config_app.command("show")
def config_show(overrides: Overrides = None, preset: Preset = "demo", site: Site = "") -> None:
    """Print the resolved configuration with the meaning of each field."""
    from gra_hpc.config import explain

    for line in explain.explain(_composed(preset, overrides or [], site)):
        tell(line)


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
