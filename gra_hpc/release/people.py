"""A release beside what people say of its items, as its flow compares them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from gra_hpc.config import presets
from gra_hpc.errors import ReleaseError
from gra_hpc.flows.registry import flow_of


def agreement(release: Path, files: Sequence[Path]) -> Iterator[str]:
    """The figures, as lines.

    Raises:
        ReleaseError: a flow that has nothing to compare.
        GraError: files that are none, or of other items.
    """
    config = presets.load(release / "run.yaml")
    compare = flow_of(config).views.people
    if compare is None:
        raise ReleaseError(
            f"{release}: rows of the flow {config.method.flow}, which has nothing that people could be asked about so",
            "gra audit RUN, for rows that Reviewers have judged",
        )
    yield from compare(config, release, files)
