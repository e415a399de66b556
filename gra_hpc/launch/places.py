"""Whether a run lies where its jobs were submitted: they work there, whatever directory holds the submission's file."""

from __future__ import annotations

from enum import Enum
from pathlib import Path


class Place(Enum):
    """Where a submission of a run was made, as seen from the run's directory."""

    here = "here"
    """In this directory, by this path or another one (a link)."""
    moved = "moved"
    """In this directory, when it lay elsewhere: its jobs look for it there, and find nothing."""
    copied = "copied"
    """In another directory that is still there, of which this one is a copy: its jobs are that one's."""


def place_of(run: Path, submitted: str, file: str) -> Place:
    """Where a submission was made.

    Args:
        run: the run's directory.
        submitted: its path when the submission was made; empty: not recorded.
        file: the submission's file, relative to the directory.
    """
    if submitted in ("", str(run)):
        return Place.here
    there = Path(submitted)
    try:
        if there.samefile(run):
            return Place.here
    except OSError:
        return Place.moved
    return Place.copied if (there / file).is_file() else Place.moved
