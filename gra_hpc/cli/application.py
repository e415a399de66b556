"""The application that all commands join, and the arguments that many of them share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="gra",
    help="Reviewed instruction data from a committee of small LLMs, as batch jobs on Slurm.",
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Directory of the run.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, as gra config show names them.")
]
Preset = Annotated[str, typer.Option("--preset", "-p", help="Preset: a name in configs/, or a YAML file.")]
Site = Annotated[str, typer.Option("--site", "-s", help="Site: a name in configs/sites/, or a YAML file.")]
Round = Annotated[int | None, typer.Option("--round", help="Round; the current one if left out.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


def _say_version(wanted: bool) -> None:
    if wanted:
        import platform

        from gra_hpc import __version__
        from gra_hpc.terminal import say

        say(f"gra-hpc {__version__}, Python {platform.python_version()}")
        raise typer.Exit


@app.callback()
def general(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Reviewed instruction data from a committee of small LLMs, as batch jobs on Slurm."""
