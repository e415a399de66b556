"""Rows that a round forwards: they are dropped, and the next round works on the seeds of which no row was kept alone.

Which rows those are says the flow (`Flow.forwards`), by all candidates of the round.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.config.settings import RunConfig
from gra_hpc.flows.registry import flow_of
from gra_hpc.merge.index import Index
from gra_hpc.parquet import read_batches
from gra_hpc.run.plan import RoundPlan, seeds_as_text

if TYPE_CHECKING:
    from gra_hpc.run.run import Run

_BATCH = 16_384


def forwarded(config: RunConfig, number: int, ix: Index) -> tuple[np.ndarray, dict[str, Any]] | None:
    """Ranks of the rows that a round forwards, ascending, and what decided it; none: it forwards none, as the last.

    Args:
        number: of the round.
        ix: its rows.
    """
    forward = flow_of(config).forwards(config)
    if forward is None or number >= config.method.rounds:
        return None
    tables = [Path(part.path) for part in ix.parts if part.accepted_only]

    def samples(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for table in tables:
            yield from read_batches(table, columns, _BATCH)

    found = forward(number, samples)
    ids = np.array([id_.encode() for id_ in found.ids], "S")
    rows = np.flatnonzero(np.isin(ix.ids[ix.pool :], ids)) + ix.pool
    return np.sort(ix.rank[rows]), found.by


def leaving_out(run: Run, here: RoundPlan, following: RoundPlan, kept: Path, pool: Path) -> RoundPlan:
    """The next round's plan, on the seeds alone of which no row was kept so far.

    Args:
        here: the plan of the round that is being merged.
        kept: the rows that it keeps.
        pool: the table that it drew from: the seeds, in the plan's order, come with round 0.
    """
    if flow_of(run.config).forwards(run.config) is None:
        return following
    done = pc.unique(pa.chunked_array([b["seed_id"] for b in read_batches(kept, ["seed_id"], _BATCH)], pa.string()))
    over: list[np.ndarray] = []
    for batch in read_batches(pool, ["id", "round"], _BATCH):
        seeds = batch["id"].filter(pc.equal(batch["round"], 0))
        over.append(pc.is_in(seeds, value_set=done).to_numpy(zero_copy_only=False))
    seeds_done = np.concatenate(over)
    count = len(seeds_done)
    worked = np.array([here.of_seed(i, count) > 0 for i in range(count)], bool) if here.only else np.ones(count, bool)
    on = worked & ~seeds_done
    each = following.candidates // count
    return replace(following, candidates=each * int(on.sum()), only=seeds_as_text(on.tolist()))
