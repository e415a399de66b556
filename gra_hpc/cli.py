"""`gra`: the commands. Each imports what it needs when it runs, so that `gra --help` is instant on a login node."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gra_hpc.errors import GraError

app = typer.Typer(
    name="gra",
    help="Reviewed instruction data from a committee of small LLMs, as batch jobs on Slurm.",
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="The configuration and the meaning of its keys.", rich_markup_mode=None)
app.add_typer(config_app, name="config")

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Directory of the run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings, as gra config show names them."),
]
Preset = Annotated[str, typer.Option("--preset", "-p", help="Preset: a name in configs/, or a YAML file.")]
Site = Annotated[str, typer.Option("--site", "-s", help="Site: a name in configs/sites/, or a YAML file.")]


@app.command()
def plan(run: Run, overrides: Overrides = None, preset: Preset = "demo", site: Site = "") -> None:
    """Plan a run: read the seeds, pin the models, freeze it all. Submits nothing."""
    from gra_hpc import plan as planning
    from gra_hpc import presets
    from gra_hpc.launch.preview import preview

    made = planning.make(run, presets.compose(preset, overrides or [], site))
    for line in preview(made):
        print(line)
    print(f"\nnext: gra submit {run}")


@app.command()
def submit(run: Run) -> None:
    """Hand a planned run to Slurm, or run it here (site.executor=local)."""
    from gra_hpc.launch.submit import submit as do_submit

    do_submit(_existing(run), again=False)


@app.command()
def resume(run: Run, overrides: Overrides = None) -> None:
    """Submit what is neither published nor running. Placement and site settings may change."""
    from gra_hpc.launch.submit import reconfigure
    from gra_hpc.launch.submit import submit as do_submit

    made = _existing(run)
    if overrides:
        reconfigure(made, overrides)
    do_submit(made, again=True)


@app.command()
def status(
    run: Run,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Until the run is done.")] = False,
) -> None:
    """Show every round and the shards that run or failed."""
    from gra_hpc.launch.status import collect

    made = _existing(run)
    if json:
        from gra_hpc.storage import to_json

        print(to_json(collect(made).to_dict()).decode(), end="")
        return
    from gra_hpc.launch.display import show

    show(made, watch)


@app.command()
def merge(
    run: Run,
    round_: Annotated[int | None, typer.Option("--round", help="Round; the current one if left out.")] = None,
    overrides: Overrides = None,
) -> None:
    """Merge the published shards of a round here and now; after the last round, build the release."""
    from gra_hpc.launch.rounds import current_round, finish_round
    from gra_hpc.launch.submit import reconfigure

    made = _existing(run)
    if overrides:
        reconfigure(made, overrides)
    print(finish_round(made, current_round(made) if round_ is None else round_))


@app.command()
def inspect(
    run: Run,
    sample: Annotated[
        str, typer.Argument(help="Start of a sample's id; the best accepted one if left out.")
    ] = "",
    status: Annotated[
        str, typer.Option("--status", help="Without an id: accepted, rejected or failed.")
    ] = "accepted",
) -> None:
    """Show one sample with its whole history."""
    from gra_hpc.inspection import find_sample, history

    row, _, calls = find_sample(_existing(run), sample, status)
    for line in history(row, calls):
        print(line)


@config_app.command("show")
def config_show(overrides: Overrides = None, preset: Preset = "demo", site: Site = "") -> None:
    """Print the resolved configuration with the meaning of each field."""
    from gra_hpc import presets

    for line in presets.explain(presets.compose(preset, overrides or [], site)):
        print(line)


def _existing(run: Path) -> "RunDir":  # type: ignore[name-defined]  # noqa: F821, UP037
    from gra_hpc.rundir import RunDir

    return RunDir.existing(run)


def main() -> None:
    """Run a command; a `GraError` becomes one line and its exit code."""
    try:
        app()
    except GraError as e:
        print(f"gra: {e}", file=sys.stderr)
        sys.exit(e.exit_code)
    except KeyboardInterrupt:
        print("gra: interrupted; what was answered is kept -> gra resume RUN", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)


if __name__ == "__main__":
    main()
