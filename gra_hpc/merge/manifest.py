"""The tables and the manifest of a merged round."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from gra_hpc import storage
from gra_hpc.errors import ReleaseError
from gra_hpc.flows.registry import flow_of
from gra_hpc.merge import tables
from gra_hpc.merge.collect import Collected, ranges, sum_of
from gra_hpc.merge.steps import Steps
from gra_hpc.merge.tables import Writer, within
from gra_hpc.records import record_schema

VERSION = 1


def write(steps: Steps, shards: Collected, pool_path: Path, out: Path) -> dict[str, Any]:
    """Write kept, pool and dropped rows into `out`.

    Args:
        steps: what the steps left and dropped.
        shards: the published shards.
        pool_path: the pool the round adds to.
        out: an existing directory.

    Returns:
        The manifest, which the caller writes last.

    Raises:
        ReleaseError: rows do not add up.
    """
    ix, alive, dropped = steps.ix, steps.alive, steps.dropped
    kept = np.flatnonzero(alive[ix.pool :]) + ix.pool
    plan = steps.run.plan
    flow = flow_of(steps.run.config)
    schema = flow.schema(plan.thought_out, plan.context, plan.propensity, plan.rubric)
    with (
        Writer(out / "kept.parquet", schema) as kept_file,
        Writer(out / "pool.parquet", record_schema(context=plan.context)) as pool_file,
        Writer(out / "dropped.parquet", tables.dropped_schema()) as dropped_file,
    ):
        for table in tables.pool_rows(ix):
            pool_file.write(table)
        best_first = tables.sorted_samples(
            ix, kept, steps.fill, steps.scratch, steps.memory // 4, steps.workers, schema
        )
        for table in best_first:
            kept_file.write(table)
            if flow.pools:
                pool_file.write(tables.as_records(table))
        for table in dropped.tables(ix):
            dropped_file.write(table)
    shards.ledger.check(f"round {steps.round}")
    accepted, counts = sum_of(shards.every).accepted, dropped.counts()
    if accepted != len(kept) + sum(counts.values()) or kept_file.rows != len(kept):
        raise ReleaseError(
            f"round {steps.round}: {accepted} accepted, but {kept_file.rows} kept and {sum(counts.values())} dropped"
        )
    wanted = steps.wanted
    return {
        "version": VERSION,
        "fingerprint": steps.run.plan.fingerprint,
        "round": steps.round,
        "coverage": _coverage(steps, shards, len(kept)),
        "survived": len(kept),
        "ledger": shards.ledger.to_dict(),
        "late": _late(steps, shards, kept),
        "counts": {
            "accepted": accepted,
            "kept": len(kept),
            "dropped": counts,
            "pool_before": ix.records,
            "pool": pool_file.rows,
        },
        "target": {"wanted": wanted, "shortfall": max(0, wanted - len(kept))} if wanted else None,
        "steps": steps.found,
        "similarity": steps.similarity,
        "previous_pool": {
            "file": str(pool_path.relative_to(steps.run.path)),
            "sha256": storage.known_sha256(pool_path),
        },
        "files": {
            name: {"rows": file.rows, "bytes": (out / name).stat().st_size, "sha256": storage.sha256(out / name)}
            for name, file in (
                ("kept.parquet", kept_file),
                ("pool.parquet", pool_file),
                ("dropped.parquet", dropped_file),
            )
        },
        "shards": [
            {
                "round": s.round,
                "shard": s.number,
                "attempt": s.attempt,
                "rows": s.rows,
                "accepted": s.ledger.accepted,
                "samples_sha256": s.sha256,
                "manifest_sha256": s.manifest_sha256,
            }
            for s in shards.every
        ],
        "ignored": shards.foreign,
    }


def _coverage(steps: Steps, shards: Collected, kept: int) -> dict[str, Any]:
    """What of the round's shards is in the merge, and what is missing.

    Where the rows kept do not reach the target after all, shards that did not seem to be needed are missing: the merge
    is a partial one, which is replaced when more are there. None comes where another run's shards are decided again.
    """
    run, unneeded = steps.run, shards.unneeded
    too_few = kept < steps.wanted
    missing = sorted([*shards.missing, *(unneeded if too_few else [])])
    more: dict[str, Any] = {}
    if unneeded and not (too_few and run.plan.decided):
        more = {"taken_back" if too_few else "unneeded": unneeded}
    return {
        "complete": not missing,
        "published": len(shards.shards),
        "expected": shards.expected,
        "missing": missing,
        "missing_ranges": ranges(missing),
        "seeds": {"covered": sum(s.seeds for s in shards.shards), "all": run.plan.seeds},
        **more,
    }


def _late(steps: Steps, shards: Collected, kept: np.ndarray) -> list[dict[str, Any]]:
    """The part of the books that late shards have, by their round; their rows count in `counts` too.

    Args:
        kept: ranks.
    """
    found, start = [], steps.ix.pool + sum(s.part.rows for s in shards.shards)
    for number, group in groupby(shards.late, lambda s: s.round):
        late = list(group)
        rows = range(start, start + sum(s.part.rows for s in late))
        start = rows.stop
        ledger, dropped = sum_of(late), steps.dropped.counts(steps.ix, rows)
        ledger.check(f"round {number}, merged with round {steps.round}")
        stay = int(within(steps.ix.row[kept], rows).sum())
        if ledger.accepted != stay + sum(dropped.values()):
            raise ReleaseError(
                f"round {number}, merged with round {steps.round}: {ledger.accepted} accepted, but {stay} kept"
                f" and {sum(dropped.values())} dropped"
            )
        found.append(
            {
                "round": number,
                "shards": [s.number for s in late],
                "ledger": ledger.to_dict(),
                "kept": stay,
                "dropped": dropped,
            }
        )
    return found
