"""`gra flow`: methods, those that come with the package and those of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gra_hpc.cli.application import app
from gra_hpc.terminal import say, tell, word

flow_app = typer.Typer(help="Methods: which there are, what one asks, a new one.", rich_markup_mode=None)
app.add_typer(flow_app, name="flow")

FlowName = Annotated[str, typer.Argument(metavar="FLOW", help="Name of the flow, as method.flow has it.")]


@flow_app.command("list")
def flow_list() -> None:
    """List the flows that are installed."""
    from gra_hpc.views.flows import listed

    for line in listed():
        tell(line, 13)


@flow_app.command("show")
def flow_show(name: FlowName) -> None:
    """Show a flow: its stages and settings, and a prompt of each question."""
    from gra_hpc.views.flows import shown

    for line in shown(name):
        say(line)


@flow_app.command("new")
def flow_new(
    name: FlowName,
    parent: Annotated[Path, typer.Option("--in", help="Directory that the package's folder is made in.")] = Path(),
) -> None:
    """Write a package with a flow of your own, which runs as it is."""
    from gra_hpc.views.flows import write_new

    folder = write_new(name, parent)
    say(f"{folder}: written; {folder / name / 'flow.py'} is the flow")
    say(f"next: pip install -e {word(folder)}, then gra plan runs/first --preset demo method.flow={name}")
