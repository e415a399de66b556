"""The application that all commands join, and the arguments that many of them share."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gra_hpc.errors import ConfigError

app = typer.Typer(
    name="gra",
    help="Reviewed instruction data from a committee of small LLMs, as batch jobs on Slurm.",
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def no_setting(ctx: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
    """Refuse a setting where a directory or a name is expected: it was forgotten, and the next word was taken for it.

    Raises:
        ConfigError: with the command, and the place of what is missing in it.
    """
    word = str(value)
    key, equals, _ = word.partition("=")
    dotted = "." in key and all(part.isidentifier() for part in key.split("."))  # one that is mistyped too
    if equals and not Path(word).exists() and (dotted or key in _known_keys()):
        typed = sys.argv[1:] if word in sys.argv[1:] else [*ctx.command_path.split()[1:], word]
        at = typed.index(word)
        raise ConfigError(
            f"{word}: is a setting; what comes before it is missing: {param.metavar}, {_MISSING[str(param.metavar)]}",
            f"gra {shlex.join([*typed[:at], str(param.metavar), *typed[at:]])}",
        )
    return value


_MISSING = {
    "RUN": "the run's directory",
    "OUT": "the job's directory",
    "DIR": "the release's directory",
    "NAME": "the experiment's name",
}
"""Operands that settings follow."""


def _known_keys() -> set[str]:
    """First words of the keys of runs, jobs and experiments; thresholds, as `gra decide` takes them."""
    from dataclasses import fields

    from gra_hpc.config.flow_sections import names
    from gra_hpc.config.settings import MethodConfig, RunConfig
    from gra_hpc.evaluation.config import EvaluateConfig
    from gra_hpc.experiments.config import ExperimentConfig
    from gra_hpc.training.config import FinetuneConfig

    kinds = (RunConfig, MethodConfig, FinetuneConfig, EvaluateConfig, ExperimentConfig)
    return {f.name for kind in kinds for f in fields(kind)}.union(names())


RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Directory of the run.", callback=no_setting)]
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
