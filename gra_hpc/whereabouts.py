"""What lies at a path, by its files, and what to type about it: for whoever was given the wrong directory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gra_hpc.errors import GraError
from gra_hpc.terminal import shown, word

_DATA = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
_PARTS = ("presets", "data", "models", "results")
"""Directories that an experiment's consists of."""
_LEVELS = 6
"""Of directories above one that is looked at: RUN/rounds/1/shards/0/attempts/ID."""
_NAMED = 4
"""Runs that are named in one line."""


class Found(NamedTuple):
    """What a path is."""

    what: str
    """As words that follow it: `is a fine-tuning`, `no such directory`."""
    then: str
    """What to type."""


def runs_in(directory: Path) -> list[Path]:
    """The runs that lie in a directory, by name."""
    return sorted(p.parent for p in directory.glob("*/plan.json") if is_run(p.parent))


def is_run(directory: Path) -> bool:
    """Whether a plan lies there, and it is not one of a run's rounds, which have theirs."""
    above = directory.parent
    of_round = above.name == "rounds" and (above.parent / "plan.json").is_file()
    return (directory / "plan.json").is_file() and not of_round


def not_a_run(path: Path) -> GraError:
    """The error of a path that is not a run's directory."""
    found = look(path) or Found("not a run (no plan.json)", "gra status DIR  (lists the runs in a directory)")
    return GraError(f"{path}: {found.what}", found.then)


def look(path: Path) -> Found | None:
    """What is there, which is no run's directory; none: nothing that we make, or read.

    Args:
        path: may be missing, or a file.
    """
    whole = path.absolute()
    if not whole.exists():
        return _absent(path)
    own = kind(whole) if whole.is_dir() else None
    if own:
        return Found(f"is {own.what}", own.then)
    if runs := runs_in(whole):
        more = ", ..." if len(runs) > _NAMED else ""
        return Found(f"holds runs: {', '.join(r.name for r in runs[:_NAMED])}{more}", f"gra status {shown(runs[0])}")
    for above in list(whole.parents)[:_LEVELS]:
        if around := kind(above):
            part = "the release" if whole == above / "release" else "a part"
            return Found(f"is {part} of {shown(above)}, {around.what}", around.then)
    if whole.is_file():
        if whole.suffix in (".yaml", ".yml"):
            return Found("is a file of settings, not a run's directory", f"gra plan runs/first --preset {word(path)}")
        return Found("is a file, not a run's directory", _planned_from(path) if whole.suffix in _DATA else "gra --help")
    if (whole / "run.yaml").is_file() or (whole / "rounds").is_dir():
        return Found(
            "is a run without its plan (no plan.json)",
            f"bring it back, or gra plan {word(path)}-2 --preset, with the one that it was planned by",
        )
    if (whole / "manifest.json").is_file() and (whole / "data").is_dir():
        return Found("is a release without its run", f"gra release verify {word(path)}")
    if (whole / "config.json").is_file():
        return Found("is a model, not a run", "gra plan runs/first --preset mine.yaml")
    if not any(whole.iterdir()):
        return Found("is empty, and no run yet", f"gra plan {word(path)} --preset mine.yaml")
    if any(p.suffix in _DATA for p in whole.iterdir()):
        return Found("holds data, and is not a run", _planned_from(path))
    return None


def _planned_from(path: Path) -> str:
    return f"gra plan runs/first --preset mine.yaml seeds.path={word(path)}"


def kind(directory: Path) -> Found | None:
    """Which of our directories it is: `a run`, and the command that says how it stands."""
    here = shown(directory)
    if is_run(directory):
        return Found("a run", f"gra status {here}")
    if (directory / "config.yaml").is_file():
        settings = b"\n"
        with contextlib.suppress(OSError):  # of somebody else
            settings += (directory / "config.yaml").read_bytes()
        if all(b"\n" + key in settings for key in (b"launch:", b"model:", b"site:")):
            if b"\nbenchmarks:" in settings:
                return Found("an evaluation", f"gra evaluate {here}")
            return Found("a fine-tuning", f"gra finetune {here}")
    if all((directory / part).is_dir() for part in _PARTS):
        name = next((p.stem for p in sorted(directory.glob("*.yaml"))), "NAME")
        return Found("an experiment", f"gra experiment status {name} --dir {here}")
    return None


def _absent(path: Path) -> Found:
    """Of a path that is not there: with the nearest run, or those that are there, or what plans it."""
    there = dict(_around(path))
    near = _nearest(shown(path.absolute()), list(there))
    if near:
        return Found(f"no such directory; did you mean {near}?", there[near])
    if there:
        named = list(there)[:_NAMED]
        return Found(
            f"no such directory (there {'is' if len(named) == 1 else 'are'} {', '.join(named)})", there[named[0]]
        )
    place = "runs/first" if path.suffix in (".yaml", ".yml") else path  # a preset belongs in another place
    return Found("no such directory", f"gra plan {word(place)} --preset mine.yaml  (plans a run there)")


def _around(path: Path) -> Iterator[tuple[str, str]]:
    """Directories of ours beside a path, and below `runs`, each with its command."""
    for folder in dict.fromkeys((path.absolute().parent, Path("runs").absolute())):
        for directory in sorted(folder.glob("*/")):
            if found := kind(directory):
                yield shown(directory), found.then


def _nearest(name: str, known: list[str]) -> str:
    """The one whose path, or name alone, is near; empty: none is."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    last = {k.rpartition("/")[2]: k for k in known}
    alone = difflib.get_close_matches(name.rpartition("/")[2], list(last), n=1, cutoff=0.6)
    return last[alone[0]] if alone else close[0] if close else ""
