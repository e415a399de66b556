"""What people are shown of labels: `before` a run, how it decides; afterwards, its `outputs`, and how far annotators
and people agree (`agreement`, `release`). Nothing here decides what is asked: it may change while a run is under way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gra_hpc.config.settings import RunConfig
from gra_hpc.flows.annotate.views import before
from gra_hpc.flows.registry import Added, Released, Views


def _release(of: Released) -> Added:
    from gra_hpc.flows.annotate.views import release  # numpy and pyarrow: not for every command

    return release.added(of)


def _people(config: RunConfig, directory: Path, files: Sequence[Path]) -> Iterator[str]:
    from gra_hpc.flows.annotate.views import release

    return release.people(config, directory, files)


def _sample(config: RunConfig, directory: Path, row: Mapping[str, Any]) -> Iterator[str]:
    from gra_hpc.flows.annotate.views import sample

    return sample.lines(config, directory, row)


VIEWS = Views(before.plan, before.notes, release=_release, people=_people, sample=_sample)
