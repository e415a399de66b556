"""The merge of round 0: the seeds, in their order, with the domain, keywords and summary that round 0 found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gra_hpc import parquet, storage
from gra_hpc.merge.collect import collect, ranges
from gra_hpc.merge.round import existing_merge
from gra_hpc.records import ACCEPTED
from gra_hpc.run.directory import round_name
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.merged import seeds_of
from gra_hpc.run.plan import Plan, RoundPlan
from gra_hpc.run.run import Run
from gra_hpc.sources.seeds import read_records, write_records
from gra_hpc.whole_directory import Staging, build_whole
from gra_hpc.workers import Workers


def merge_described(run: Run) -> str:
    """Merge round 0 into `run.round(0).merged`; a seed that could not be described stays as it was.

    Returns:
        One sentence.

    Raises:
        IncompleteError: shards are missing (also with `merge.allow_partial`: every seed needs its description).
    """
    plan, expected = run.plan, RoundPlan.load(run.round(0)).shards
    if existing_merge(run, 0, plan.fingerprint) is not None:
        return f"{round_name(0)}: the seeds were described before; nothing to do"
    target = run.round(0).merged
    with storage.full_disk_as_error(target):
        ledger = build_whole(target, lambda staging: _build(run, plan, expected, staging))
    return f"{round_name(0)}: {ledger.accepted} of {plan.undescribed} seeds described, {ledger.failed_total} failed"


def _build(run: Run, plan: Plan, expected: int, staging: Staging) -> Ledger:
    """Build and publish it; the books of the shards."""
    with Workers(1) as workers:
        shards = collect(run, 0, plan.fingerprint, expected, workers, allow_partial=False)
        found: dict[str, dict[str, Any]] = {}
        for shard in shards.shards:
            found |= _described(shard.part.path)
        path = staging.out / "pool.parquet"
        rows = write_records(
            path,
            (
                replace(seed, domain=row["domain"], keywords=tuple(row["keywords"]), summary=row["summary"])
                if (row := found.get(seed.id))
                else seed
                for seed in read_records(seeds_of(run, plan))
            ),
            context=plan.context,
        )
        ledger = shards.ledger
        manifest = {
            "version": 1,
            "fingerprint": plan.fingerprint,
            "round": 0,
            "coverage": {
                "complete": True,
                "shards": {"published": expected, "expected": expected, "missing": [], "missing_ranges": ranges([])},
                "seeds": {"covered": ledger.planned, "all": plan.undescribed},
            },
            "ledger": ledger.to_dict(),
            "counts": {"described": ledger.accepted, "undescribed": ledger.failed_total, "pool": rows},
            "files": {"pool.parquet": {"rows": rows, "bytes": path.stat().st_size, "sha256": storage.sha256(path)}},
            "shards": [
                {"shard": s.number, "attempt": s.attempt, "manifest_sha256": s.manifest_sha256} for s in shards.shards
            ],
        }
        (staging.out / "manifest.json").write_bytes(storage.sealed(manifest))
        staging.publish(lambda: False)
    return ledger


def _described(path: str) -> dict[str, dict[str, Any]]:
    table = parquet.read_table(path, ["seed_id", "status", "domain", "keywords", "summary"])
    return {row["seed_id"]: row for row in table.to_pylist() if row["status"] == ACCEPTED}
