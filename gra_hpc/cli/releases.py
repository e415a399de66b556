"""`gra release`: check, convert and upload what a run has made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gra_hpc.cli.application import app, no_setting
from gra_hpc.errors import ReleaseError
from gra_hpc.terminal import counted, say, shown, tell, word
from gra_hpc.whereabouts import look

release_app = typer.Typer(help="A release: check it, convert it, upload it.", rich_markup_mode=None)
app.add_typer(release_app, name="release")

Release = Annotated[
    Path, typer.Argument(metavar="DIR", help="Directory of the release, or of its run.", callback=no_setting)
]


def _directory(path: Path) -> Path:
    """The release that is meant.

    Raises:
        ReleaseError: a run that has none yet, or no release at all.
    """
    inside = path / "release"
    if (inside / "manifest.json").is_file():
        return inside
    run = path.parent if path.name == "release" and not path.exists() else path
    if (run / "plan.json").is_file() and not inside.exists():
        raise ReleaseError(f"{run}: no release yet", f"gra status {word(run)}")
    if not (path / "manifest.json").is_file() and not (path / "data").is_dir():
        released = next(iter(sorted(path.glob("*/release/manifest.json"))), None)
        if released:
            raise ReleaseError(
                f"{path}: not a release, holds some", f"gra release verify {shown(released.parent.parent)}"
            )
        found = look(path)
        what = found.what if found else "not a release (no manifest.json), and not a run (no plan.json)"
        raise ReleaseError(
            f"{path}: {what}",
            found.then
            if found and not found.then.startswith("gra plan")
            else "give the directory of a release, or of its run",
        )
    return path


@release_app.command("verify")
def release_verify(release: Release) -> None:
    """Check every digest, count, id and split of a release, and its ledger."""
    from gra_hpc.release.verify.verify import verify

    directory = _directory(release)
    problems = verify(directory)
    for problem in problems:
        say(problem)
    if problems:
        run = directory.parent
        again = f"gra merge {word(run)}" if (run / "plan.json").is_file() else "gra merge, where its run is"
        raise ReleaseError(
            f"{directory}: {counted(len(problems), 'problem')}", f"move it away, then build it again: {again}"
        )
    say(f"{directory}: sound")


@release_app.command("agreement")
def release_agreement(
    release: Release,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="What people say, a file each.")],
) -> None:
    """How far a release agrees with what people say of its items (flows that can tell: gra flow show)."""
    from gra_hpc.release.people import agreement

    for line in agreement(_directory(release), files):
        tell(line, 14)


@release_app.command("export")
def release_export(
    release: Release,
    form: Annotated[str, typer.Option("--format", help="alpaca, sharegpt or chat.")],
    to: Annotated[Path | None, typer.Option("--to", help="Directory; DIR-FORMAT if left out.")] = None,
    thoughts: Annotated[str, typer.Option(help="inline or drop; as the release has them if left out.")] = "",
) -> None:
    """Write a release as LLaMA-Factory and TRL read it."""
    from gra_hpc.release.export import export

    directory = _directory(release)
    for file in export(directory, form, to or directory.with_name(f"{directory.name}-{form}"), thoughts):
        say(file)


@release_app.command("push")
def release_push(
    release: Release,
    repository: Annotated[str, typer.Argument(metavar="REPO", help="Hub dataset, as name/dataset.")],
    public: Annotated[bool, typer.Option("--public", help="Visible to everybody.")] = False,
) -> None:
    """Upload a release from a login node, and compare what arrived. The token is huggingface_hub's own."""
    from gra_hpc.release.push import push

    say(push(_directory(release), repository, private=not public))
