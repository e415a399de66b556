"""What a merged round leaves for the next one's draws, as its flow makes it of the tables (`Flow.between`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gra_hpc.flows.registry import After, flow_of
from gra_hpc.parquet import read_batches
from gra_hpc.run.directory import ShardDir
from gra_hpc.run.gold import Counted, GoldQuestions
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.run import Run
from gra_hpc.run.shard_manifest import ShardManifest

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 16_384


def left_by(run: Run, number: int, tables: Sequence[Path], kept: Path, shards: Sequence[ShardDir]) -> dict[str, Any]:
    """What a round that is being merged leaves; empty: nothing.

    Args:
        tables: the samples of the shards that the merge takes in.
        kept: the rows that it keeps.
        shards: these shards.
    """
    between = flow_of(run.config).between
    if between is None or run.plan.decided:
        return {}

    def batches(paths: Iterable[Path], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for path in paths:
            yield from read_batches(path, columns, _BATCH)

    return between(
        After(
            run.config,
            number,
            RoundPlan.load(run.round(number)).standing,
            lambda columns: batches(tables, columns),
            lambda columns: batches([kept], columns),
            lambda: _gold(run, shards),
        )
    )


def by_chance(run: Run, shards: Iterable[ShardDir]) -> list[str]:
    """Members that are right about the gold questions of some shards no more often than by chance."""
    found = _answered(run, shards)
    return [name for name, marks in sorted(found.members.items()) if marks.at_chance] if found else []


def _answered(run: Run, shards: Iterable[ShardDir]) -> Counted | None:
    """Answers to gold questions in the manifests of shards; none where the run has no such questions."""
    questions = GoldQuestions.of(run, run.plan)
    if questions is None:
        return None
    criteria = len(run.plan.rubric.response)
    answers = (answer for s in shards for answer in ShardManifest.load(s, criteria).gold)
    return Counted.of(questions, answers, run.config.method)


def _gold(run: Run, shards: Iterable[ShardDir]) -> dict[str, dict[str, tuple[float, float]]]:
    """Right answers to gold questions, and answers, by the questions' domains and members."""
    answered = _answered(run, shards)
    if answered is None:
        return {}
    return {d: {m: (float(n.right), float(n.asked)) for m, n in by.items()} for d, by in answered.by_domain.items()}
