"""The rounds of a run and what is left of them. Derived from files alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gra_hpc.run.publish import is_published
from gra_hpc.run.run import Run
from gra_hpc.storage import read_object


@dataclass(frozen=True)
class Step:
    """One round that is not merged yet."""

    round: int
    shards: tuple[int, ...]
    """Unpublished shards."""
    total: int
    """All shards of the round."""


def remaining(run: Run) -> list[Step]:
    """The rounds still to do, in order, with their unpublished shards. Derived from files alone."""
    steps: list[Step] = []
    for number in run.rounds:
        directory = run.round(number)
        total = run.shards_of(number)
        if directory.manifest.is_file() and not _partial(run, directory.manifest):
            continue
        missing = tuple(s for s in range(total) if not is_published(directory.shard(s)))
        if directory.manifest.is_file() and missing and not steps and run.config.merge.allow_partial:
            continue  # a partial merge that was asked for counts as done
        steps.append(Step(number, missing, total))
    if not steps and not (run.release / "manifest.json").is_file():
        steps.append(Step(number, (), total))  # merged, but the job died before the release was built
    return steps


def _partial(run: Run, manifest: Path) -> bool:
    then = f"move {manifest.parent} away, then gra merge {run.path}"
    return not read_object(manifest, "coverage.complete", "files", "ledger", "counts", then=then)["coverage"][
        "complete"
    ]


def current_round(run: Run) -> int:
    """The first round that is not merged; the last if all are."""
    steps = remaining(run)
    if steps:
        return steps[0].round
    return run.config.method.rounds
