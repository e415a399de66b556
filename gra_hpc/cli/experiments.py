"""`gra experiment`: the paper's tables, row by row, as chains of jobs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gra_hpc.cli.application import Json, Site, app, no_setting
from gra_hpc.terminal import say, tell, word

if TYPE_CHECKING:
    from gra_hpc.experiments.config import ExperimentConfig
    from gra_hpc.experiments.directory import ExperimentDir

experiment_app = typer.Typer(help="Experiments: data, fine-tuning and evaluation in one go.", rich_markup_mode=None)
app.add_typer(experiment_app, name="experiment")

Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Experiment in configs/experiments/, or a YAML file.", callback=no_setting),
]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ROW|KEY=VALUE]...", help="Rows as SEEDS/DATA/BASE (* for all; left out: all rows); settings."
    ),
]
Directory = Annotated[Path | None, typer.Option("--dir", help="Its directory; runs/NAME if left out.")]


@experiment_app.command("run")
def experiment_run(name: Name, words: Words = None, directory: Directory = None, site: Site = "") -> None:
    """Make the data, fine-tune and evaluate, as jobs that wait for each other (or here, without Slurm). Typed again, it
    goes on with what is left. Ends with the table where all of it was done here."""
    from gra_hpc.config.site import Executor
    from gra_hpc.experiments import chain, config, progress
    from gra_hpc.experiments.directory import ExperimentDir

    began = time.monotonic()
    rows, settings = config.sorted_words(words or [])
    experiment = config.compose(name, settings, site)
    made = ExperimentDir.of(name, directory)
    chain.run(made, experiment, rows, say)
    shown = f" --dir {word(directory)}" if directory else ""
    if progress.executor(experiment) is Executor.local:
        _show_table(made, experiment, rows, every=True)
        say(f"{(time.monotonic() - began) / 60:.1f} minutes")
        say(f"next: gra experiment table {name}{shown} --all")
    else:
        say(f"next: gra experiment status {name}{shown}; gra experiment table {name}{shown}")


@experiment_app.command("plan")
def experiment_plan(name: Name, words: Words = None, directory: Directory = None, site: Site = "") -> None:
    """Plan the data of all rows and check every setting. Submits nothing."""
    from gra_hpc.experiments import chain, config
    from gra_hpc.experiments.directory import ExperimentDir

    rows, settings = config.sorted_words(words or [])
    for line in chain.preview(ExperimentDir.of(name, directory), config.compose(name, settings, site), rows):
        say(line)


@experiment_app.command("rows")
def experiment_rows(name: Name, words: Words = None) -> None:
    """Name the rows, and the Hub repositories that they need."""
    from gra_hpc.experiments import config

    rows, settings = config.sorted_words(words or [])
    experiment = config.compose(name, settings)
    found = config.rows_of(experiment, rows)
    for row in found:
        say(row)
    needed = config.repositories(experiment, found)
    if needed:
        say(f"gra fetch {' '.join(needed)}")


@experiment_app.command("status")
def experiment_status(name: Name, words: Words = None, directory: Directory = None, json: Json = False) -> None:
    """Show every row's stages: from the files, and by one look at Slurm's queue."""
    from gra_hpc.experiments import config, progress
    from gra_hpc.experiments.directory import ExperimentDir

    made = ExperimentDir.existing(name, directory)
    experiment = config.load(made.config)
    statuses, trouble = progress.collect(made, experiment, config.rows_of(experiment, words or []))
    if json:
        from gra_hpc.storage import to_json

        say(to_json(progress.to_dict(statuses, trouble)).decode(), lines=True)
        return
    for line in progress.lines(statuses):
        tell(line, 4)
    if trouble:
        tell(f"Slurm was not asked: {trouble}")


@experiment_app.command("table")
def experiment_table(
    name: Name,
    words: Words = None,
    directory: Directory = None,
    json: Json = False,
    every: Annotated[bool, typer.Option("--all", help="All metrics, not only the compared one.")] = False,
) -> None:
    """Show our figures beside the printed ones; writes them as NAME.table.md, .csv and .html."""
    from gra_hpc.experiments import config, table
    from gra_hpc.experiments.directory import ExperimentDir

    made = ExperimentDir.existing(name, directory)
    experiment = config.load(made.config)
    if json:
        from gra_hpc.storage import to_json

        found = table.build(made, experiment, config.rows_of(experiment, words or []))
        say(to_json(table.to_dict(found)).decode(), lines=True)
        return
    _show_table(made, experiment, words or [], every)


def _show_table(made: ExperimentDir, experiment: ExperimentConfig, words: list[str], every: bool) -> None:
    """Print the table; write it where it is of all rows."""
    from gra_hpc.experiments import config, page, table
    from gra_hpc.storage import write_atomic

    found = table.build(made, experiment, config.rows_of(experiment, words))
    for line in table.plain(found, every):
        say(line)
    if not words:
        for ending, content in (
            ("md", table.markdown(found)),
            ("csv", table.comma_separated(found)),
            ("html", page.page(found)),
        ):
            write_atomic(made.table(ending), content.encode())
        say(f"wrote {made.table('md')}, .csv, .html")
