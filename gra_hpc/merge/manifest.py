"""The tables and the manifest of a merged round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gra_hpc import storage
from gra_hpc.errors import ReleaseError
from gra_hpc.merge import tables
from gra_hpc.merge.collect import Collected, ranges
from gra_hpc.merge.steps import Steps
from gra_hpc.merge.tables import Writer
from gra_hpc.records import record_schema, sample_schema

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
    with (
        Writer(out / "kept.parquet", sample_schema()) as kept_file,
        Writer(out / "pool.parquet", record_schema()) as pool_file,
        Writer(out / "dropped.parquet", tables.dropped_schema()) as dropped_file,
    ):
        for table in tables.pool_rows(ix):
            pool_file.write(table)
        for table in tables.sorted_samples(ix, kept, steps.fill, steps.scratch, steps.memory // 4, steps.workers):
            kept_file.write(table)
            pool_file.write(tables.as_records(table))
        for table in dropped.tables(ix):
            dropped_file.write(table)
    ledger = shards.ledger
    ledger.check(f"round {steps.round}")
    counts = dropped.counts()
    if ledger.accepted != len(kept) + sum(counts.values()) or kept_file.rows != len(kept):
        raise ReleaseError(
            f"round {steps.round}: {ledger.accepted} accepted, but {kept_file.rows} kept"
            f" and {sum(counts.values())} dropped"
        )
    wanted = steps.run.config.method.target_accepted
    return {
        "version": VERSION,
        "fingerprint": steps.run.plan.fingerprint,
        "round": steps.round,
        "coverage": {
            "complete": shards.complete,
            "published": len(shards.shards),
            "expected": shards.expected,
            "missing": shards.missing,
            "missing_ranges": ranges(shards.missing),
            "seeds": {"covered": sum(s.seeds for s in shards.shards), "all": steps.run.plan.seeds},
        },
        "survived": len(kept),
        "ledger": ledger.to_dict(),
        "counts": {
            "accepted": ledger.accepted,
            "kept": len(kept),
            "dropped": counts,
            "pool_before": ix.pool,
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
                "shard": s.number,
                "attempt": s.attempt,
                "rows": s.rows,
                "accepted": s.ledger.accepted,
                "samples_sha256": s.sha256,
                "manifest_sha256": s.manifest_sha256,
            }
            for s in shards.shards
        ],
        "ignored": shards.foreign,
    }
