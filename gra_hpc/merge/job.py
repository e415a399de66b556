"""The merge of one round: from published shards to `merged/`, whole or not at all.

Steps, in this order, each on what the one before left: decontamination (first, so that no contaminated row beats a
clean one), exact, near and semantic duplicates (also of seeds and earlier rounds, which always win), and the surplus
over `method.target_accepted`.
"""

from __future__ import annotations

import logging
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gra_hpc import presets, storage
from gra_hpc.config import RunConfig
from gra_hpc.errors import FingerprintError, IncompleteError, ReleaseError
from gra_hpc.merge import exact, fuzzy, index, semantic, signing, tables, vectors
from gra_hpc.merge.collect import Collected, collect, published, ranges
from gra_hpc.merge.decontaminate import Benchmarks
from gra_hpc.merge.index import Index
from gra_hpc.merge.signing import Signing
from gra_hpc.merge.staging import Staging, sweep
from gra_hpc.merge.tables import Dropped, Writer
from gra_hpc.merge.workers import Workers
from gra_hpc.plan import Plan, RoundPlan, pin_embed
from gra_hpc.records import record_schema, sample_schema
from gra_hpc.rundir import RunDir

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

VERSION = 1
INLINE_ROWS = 20_000
"""Up to this many rows a second process costs more than it saves."""


@dataclass(frozen=True)
class MergeSummary:
    """What a merge did, or found done."""

    round: int
    done_before: bool
    """An earlier merge had covered all that is published; nothing was done."""
    published: int
    expected: int
    accepted: int
    kept: int
    dropped: dict[str, int]
    """By step."""
    pool: int
    """Rows of the pool after this round."""
    shortfall: int
    """Rows missing to `method.target_accepted`."""
    recall: float | None
    """Measured recall of the semantic step, when it was approximate."""
    manifest: dict[str, Any] = field(repr=False)
    seconds: float = 0.0

    @classmethod
    def of(cls, manifest: dict[str, Any], *, done_before: bool, seconds: float = 0.0) -> MergeSummary:
        coverage, counts = manifest["coverage"], manifest["counts"]
        return cls(
            round=manifest["round"],
            done_before=done_before,
            published=coverage["published"],
            expected=coverage["expected"],
            accepted=counts["accepted"],
            kept=counts["kept"],
            dropped=counts["dropped"],
            pool=counts["pool"],
            shortfall=(manifest["target"] or {}).get("shortfall", 0),
            recall=(manifest["steps"]["semantic"] or {}).get("recall"),
            manifest=manifest,
            seconds=seconds,
        )

    def __str__(self) -> str:
        """One sentence."""
        drops = ", ".join(f"{n} {step}" for step, n in self.dropped.items() if n) or "none"
        parts = [
            f"round {self.round}: {self.kept} of {self.accepted} accepted samples kept (dropped: {drops})",
            f"pool {self.pool}",
        ]
        if self.published < self.expected:
            parts.append(f"PARTIAL: {self.published} of {self.expected} shards")
        if self.shortfall:
            parts.append(f"{self.shortfall} short of method.target_accepted")
        if self.recall is not None:
            parts.append(f"semantic recall {self.recall:.3f}")
        parts.append("was merged before; nothing to do" if self.done_before else f"{self.seconds:.1f} s")
        return "; ".join(parts)


def merge_round(run: RunDir, round_: int, config: RunConfig | None = None) -> MergeSummary:
    """Merge the published shards of a round into `run.round(round_).merged`.

    Safe to run twice, at the same time, or after a death. A partial merge is replaced when more shards are published,
    unless the next round has already drawn from it.

    Args:
        run: the run.
        round_: from 1.
        config: the run's configuration with overrides; none: as saved.

    Raises:
        IncompleteError: shards, or the previous round's merge, are missing.
        FingerprintError: shards or an earlier merge of another plan.
        ReleaseError: a bad or foreign table, named.
        StorageError: no room; nothing was published half.
        ConfigError: a benchmark or embedding model that is not there.
    """
    started = time.monotonic()
    config = config or presets.load(run.config)
    plan = Plan.load(run)
    target = run.round(round_)
    fingerprint, expected = plan.fingerprint, RoundPlan.load(target).shards
    before = existing(run, round_, fingerprint)
    if before is not None:
        summary = _done(run, round_, before, expected)
        if summary is not None:
            sweep(target.merged)
            return summary
    with (
        storage.room(target.merged, f"make room, then gra merge {run.path}"),
        Staging(target.merged) as staging,
    ):
        merge = _Merge(run, round_, config, plan, expected, staging)
        manifest = merge.run()

        def better() -> bool:
            theirs = existing(run, round_, fingerprint)
            return theirs is None or len(theirs["shards"]) < len(manifest["shards"])

        if staging.publish(better):
            return MergeSummary.of(manifest, done_before=False, seconds=time.monotonic() - started)
    theirs = existing(run, round_, fingerprint)
    if theirs is None:
        raise ReleaseError(
            f"{target.merged}: appeared and vanished during the merge", f"gra merge {run.path}"
        )
    log.info("round %d: another merge was first; its result stays", round_)
    return MergeSummary.of(theirs, done_before=True)


def existing(run: RunDir, round_: int, fingerprint: str) -> dict[str, Any] | None:
    """Manifest of an earlier merge of the round, or none.

    Raises:
        FingerprintError: it was made from another plan.
        ReleaseError: a directory without a readable manifest, or whose tables are not as it says.
    """
    target = run.round(round_)
    try:
        manifest: dict[str, Any] = storage.read_json(target.manifest)
    except FileNotFoundError:
        if target.merged.is_dir() and any(target.merged.iterdir()):
            raise ReleaseError(
                f"{target.merged}: not a merged round (no manifest.json)",
                f"move it away, then gra merge {run.path}",
            ) from None
        return None
    if manifest.get("fingerprint") != fingerprint:
        raise FingerprintError(
            f"{target.manifest}: merged from another plan", f"move it away, then gra merge {run.path}"
        )
    for name, file in manifest["files"].items():
        path = target.merged / name
        if not path.is_file() or path.stat().st_size != file["bytes"]:
            raise ReleaseError(
                f"{path}: not as its manifest says", f"move {target.merged} away, then gra merge {run.path}"
            )
    return manifest


def _done(run: RunDir, round_: int, before: dict[str, Any], expected: int) -> MergeSummary | None:
    """The summary of an earlier merge when it stands, or none when more shards have come."""
    if before["coverage"]["complete"]:
        return MergeSummary.of(before, done_before=True)
    have, _, _ = published(run, round_, expected)
    if len(have) <= len(before["shards"]):
        return MergeSummary.of(before, done_before=True)
    following = run.round(round_ + 1)
    if following.plan.exists() or following.shards.exists():
        log.warning(
            "round %d: %d shards were published after its partial merge, but round %d has drawn from that: it stays",
            round_,
            len(have) - len(before["shards"]),
            round_ + 1,
        )
        return MergeSummary.of(before, done_before=True)
    return None


def previous_pool(run: RunDir, round_: int, plan: Plan) -> Path:
    """The pool a round adds to; for the first round the seeds, described where stage 0 had to.

    Raises:
        IncompleteError: the round before was not merged.
    """
    if round_ == 0 or (round_ == 1 and not plan.undescribed):
        return run.seeds
    pool = run.round(round_ - 1).pool
    if not pool.is_file():
        raise IncompleteError(
            f"round {round_}: round {round_ - 1} is not merged (no {pool})", f"gra merge {run.path}"
        )
    return pool


@dataclass
class _Merge:
    """One merge at work."""

    of: RunDir
    round: int
    config: RunConfig
    plan: Plan
    expected: int
    staging: Staging
    steps: dict[str, Any] = field(
        default_factory=lambda: dict.fromkeys(("decontamination", "exact", "fuzzy", "semantic"))
    )
    similarity: dict[str, Any] | None = None
    timings: dict[str, float] = field(default_factory=dict)
    fill: tables.Embeddings = tables.as_given

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        begin = time.monotonic()
        yield
        self.timings[step] = round(time.monotonic() - begin, 3)
        log.info("round %d: %s: %.1f s", self.round, step, self.timings[step])

    def run(self) -> dict[str, Any]:
        """Build the directory; its manifest."""
        import numpy as np

        c = self.config.merge
        count = max(1, len(os.sched_getaffinity(0)))
        with Workers(count) as many:
            with self._timed("collect"):
                shards = collect(
                    self.of,
                    self.round,
                    self.plan.fingerprint,
                    self.expected,
                    many,
                    allow_partial=c.allow_partial,
                )
                pool_path = previous_pool(self.of, self.round, self.plan)
                pool, pool_ids = index.pool_part(str(pool_path))
                ix = index.build(pool, pool_ids, shards.shards)
            workers = many if len(ix) > INLINE_ROWS else Workers(1)
            if self.round > 0:
                alive, dropped = self._deduplicate(ix, workers)
            else:  # stage 0: nothing is new, the seeds get their descriptions
                alive, dropped = np.ones(len(ix), bool), Dropped()
            with self._timed("write"):
                return self._write(ix, alive, dropped, shards, pool_path, workers)

    @property
    def _memory(self) -> int:
        return int(self.config.merge.memory_gb * (1 << 30))

    def _deduplicate(self, ix: Index, workers: Workers) -> tuple[np.ndarray, Dropped]:
        """Which ranks are left, and why the others are not."""
        import numpy as np

        c = self.config.merge
        alive = np.ones(len(ix), bool)
        dropped = Dropped()
        benchmarks = None
        scratch = self.staging.scratch
        if c.decontamination.sources:
            with self._timed("benchmarks"):
                benchmarks = Benchmarks(
                    c.decontamination.sources, c.decontamination.ngram, self.plan.benchmarks
                )
                benchmarks.save(scratch / "benchmarks.npz")
        what = Signing(
            scratch,
            c.shingle,
            signing.banding(c.fuzzy_threshold, c.permutations) if c.fuzzy else None,
            scratch / "benchmarks.npz" if benchmarks else None,
        )
        with self._timed("sign"):
            suspects = signing.sign(ix, what, workers)
        if benchmarks:
            with self._timed("decontaminate"):
                self._decontaminate(ix, benchmarks, suspects, alive, dropped)
        if c.exact:
            with self._timed("exact"):
                drop, winner = exact.duplicates(ix, what.digests, alive)
                alive[drop] = False
                dropped.add("exact", drop, winner, np.ones(len(drop)))
                self.steps["exact"] = {"dropped": len(drop)}
        if what.banding:
            with self._timed("fuzzy"):
                near = fuzzy.duplicates(ix, what, alive, c.fuzzy_threshold, workers, self._memory // 4)
                alive[near.drop] = False
                details = ["through other near-duplicates" if i else "" for i in near.linked.tolist()]
                dropped.add("fuzzy", near.drop, near.winner, near.similarity, details)
                self.steps["fuzzy"] = {
                    "threshold": c.fuzzy_threshold,
                    "shingle": c.shingle,
                    "bands": what.banding.bands,
                    "rows_per_band": what.banding.rows,
                    "found_at_threshold": round(what.banding.found(c.fuzzy_threshold), 5),
                    "compared": near.candidates,
                    "pairs": near.pairs,
                    "dropped": len(near.drop),
                }
        if c.semantic and c.embed_model:
            with self._timed("semantic"):
                self.fill = self._semantic(ix, alive, dropped, workers)
        wanted = self.config.method.target_accepted
        left = np.flatnonzero(alive[ix.pool :]) + ix.pool
        if wanted and len(left) > wanted:
            surplus = left[wanted:]
            alive[surplus] = False
            dropped.add("surplus", surplus)
        return alive, dropped

    def _decontaminate(
        self, ix: Index, benchmarks: Benchmarks, suspects: np.ndarray, alive: np.ndarray, dropped: Dropped
    ) -> None:
        import numpy as np

        ranks, details, by_source = [], [], dict.fromkeys(benchmarks.sources, 0)
        for unit in ix.units():
            a, b = np.searchsorted(suspects, [unit.start, unit.start + unit.rows])
            if a == b:
                continue
            rows = suspects[a:b]
            for row, instructions, responses in signing.texts(unit, rows=rows):
                at = int(np.searchsorted(rows, row))
                for k, (i, r) in enumerate(zip(instructions, responses, strict=True)):
                    match = benchmarks.match(i, r)
                    if match:
                        ranks.append(int(ix.rank[rows[at + k]]))
                        details.append(str(match))
                        by_source[match.benchmark] += 1
        order = np.argsort(np.array(ranks, np.int64))
        drop = np.array(ranks, np.int64)[order]
        alive[drop] = False
        dropped.add("contaminated", drop, details=[details[i] for i in order.tolist()])
        self.steps["decontamination"] = {
            "sources": [
                {"source": s, "texts": benchmarks.counts[s], "dropped": by_source[s]}
                for s in benchmarks.sources
            ],
            "ngram": benchmarks.size,
            "dropped": len(drop),
        }

    def _semantic(
        self, ix: Index, alive: np.ndarray, dropped: Dropped, workers: Workers
    ) -> tables.Embeddings:
        """Apply the greedy rule to what is alive; tells how to fill the column `embedding` of what is kept."""
        import numpy as np

        c = self.config.merge
        ranks = np.flatnonzero(alive)
        model = self.plan.embed or pin_embed(self.config)
        assert model
        matrix, computed = vectors.assemble(self.of, self.round, ix, ranks, model, self.staging.scratch)
        self.steps["semantic"] = {
            "threshold": c.semantic_threshold,
            "model": c.embed_model,
            "model_identity": model.identity,
            "rows": len(ranks),
            "embedded_here": computed,
            "method": "none",
            "recall": None,
            "dropped": 0,
        }
        if not len(matrix):
            return tables.as_given
        found = semantic.duplicates(
            matrix,
            ix.pool,
            c.semantic_threshold,
            self.staging.scratch,
            workers,
            c.exact_search_rows,
            self._memory // 2,
        )
        drop = ranks[found.drop]
        alive[drop] = False
        dropped.add("semantic", drop, ranks[found.winner], found.similarity)
        self.steps["semantic"] |= {
            "method": found.method,
            "recall": found.recall,
            "dropped": len(drop),
            **found.detail,
        }
        self.similarity = {
            "bins": semantic.BINS,
            "from": 0.0,
            "to": 1.0,
            "threshold": c.semantic_threshold,
            "counts": found.histogram(),
        }
        if found.recall is not None:
            log.info("semantic step: approximate, recall %.4f on a sample", found.recall)
        place = np.full(len(ix), -1, np.int64)
        place[ix.row[ranks]] = np.arange(len(ranks))
        return lambda rows, _: vectors.column(matrix[place[rows]])

    def _write(
        self,
        ix: Index,
        alive: np.ndarray,
        dropped: Dropped,
        shards: Collected,
        pool_path: Path,
        workers: Workers,
    ) -> dict[str, Any]:
        """Write tables and manifest into the staging directory."""
        import numpy as np

        out = self.staging.out
        kept = np.flatnonzero(alive[ix.pool :]) + ix.pool
        with (
            Writer(out / "kept.parquet", sample_schema()) as kept_file,
            Writer(out / "pool.parquet", record_schema()) as pool_file,
            Writer(out / "dropped.parquet", tables.dropped_schema()) as dropped_file,
        ):
            if self.round > 0:
                for table in tables.pool_rows(ix):
                    pool_file.write(table)
            descriptions = []
            for table in tables.sorted_samples(
                ix, kept, self.fill, self.staging.scratch, self._memory // 4, workers
            ):
                kept_file.write(table)
                if self.round > 0:
                    pool_file.write(tables.as_records(table))
                else:
                    descriptions.append(table.select(tables.DESCRIPTION))
            if self.round == 0:
                for table in tables.described(ix, descriptions):
                    pool_file.write(table)
            for table in dropped.tables(ix):
                dropped_file.write(table)
        ledger = shards.ledger
        ledger.check(f"round {self.round}")
        counts = dropped.counts()
        if ledger.accepted != len(kept) + sum(counts.values()) or kept_file.rows != len(kept):
            raise ReleaseError(
                f"round {self.round}: {ledger.accepted} accepted, but {kept_file.rows} kept"
                f" and {sum(counts.values())} dropped"
            )
        wanted = self.config.method.target_accepted
        manifest = {
            "version": VERSION,
            "fingerprint": self.plan.fingerprint,
            "round": self.round,
            "coverage": {
                "complete": shards.complete,
                "published": len(shards.shards),
                "expected": shards.expected,
                "missing": shards.missing,
                "missing_ranges": ranges(shards.missing),
                "seeds": {"covered": sum(s.seeds for s in shards.shards), "all": _rows(self.of.seeds)},
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
            "steps": self.steps,
            "similarity": self.similarity,
            "previous_pool": {
                "file": str(pool_path.relative_to(self.of.path)),
                "sha256": storage.sha256(pool_path),
            },
            "files": {
                name: {
                    "rows": file.rows,
                    "bytes": (out / name).stat().st_size,
                    "sha256": storage.sha256(out / name),
                }
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
        usage = [
            resource.getrusage(who).ru_maxrss / 1024
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        ]
        timings = {
            "host": os.uname().nodename,
            "finished": time.time(),
            "seconds": self.timings,
            "peak_mb": {"merge": round(usage[0]), "largest_worker": round(usage[1])},
        }
        (out / "timings.json").write_bytes(storage.to_json(timings))
        (out / "manifest.json").write_bytes(storage.to_json(manifest))
        return manifest


def _rows(path: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows) if path.is_file() else 0
