"""The steps of a merge that drop rows, each on what the one before left.

First what the flow forwards to the next round, where it does that. Then decontamination, so that no contaminated row
beats a clean one; then exact, near and semantic duplicates (also of seeds and earlier rounds, which always win, unless
the flow answers the seeds' own instructions); last the surplus over `method.target_accepted`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gra_hpc.flows.registry import flow_of
from gra_hpc.merge import exact, forward, signatures, tables
from gra_hpc.merge.index import Index
from gra_hpc.merge.near import near_duplicates
from gra_hpc.merge.semantic import embedding_column, embeddings, rule, semantic
from gra_hpc.merge.signatures import Signing, texts_of
from gra_hpc.merge.tables import Dropped
from gra_hpc.run.pins import pin_embed
from gra_hpc.run.run import Run
from gra_hpc.run.signing import rule_of
from gra_hpc.signatures.decontaminate import Benchmarks
from gra_hpc.workers import Workers

log = logging.getLogger(__name__)

Clock = Callable[[str], AbstractContextManager[None]]
"""Times the step of that name."""


@dataclass
class Steps:
    """The steps at work, and what they found."""

    run: Run
    round: int
    ix: Index
    alive: np.ndarray
    """By rank: still in. (n,) bool, all true at first."""
    wanted: int
    """Rows that may stay; 0: all that survive."""
    scratch: Path
    workers: Workers
    clock: Clock
    dropped: Dropped = field(default_factory=Dropped)
    found: dict[str, Any] = field(
        default_factory=lambda: dict.fromkeys(("decontamination", "exact", "fuzzy", "semantic"))
    )
    """By step, for the manifest; none where the step was not taken."""
    signing: Signing | None = None
    """What the rows were signed by, once they were."""
    similarity: dict[str, Any] | None = None
    """Histogram of the largest cosines."""
    fill: tables.Embeddings = tables.as_given

    @property
    def memory(self) -> int:
        """Bytes."""
        return int(self.run.config.merge.memory_gb * (1 << 30))

    def take(self) -> None:
        """All steps that the configuration asks for, in their order."""
        c, ix, alive, dropped = self.run.config.merge, self.ix, self.alive, self.dropped
        flow = flow_of(self.run.config)
        self._forward()
        if flow.keys is None:
            self._surplus()
            return
        if not flow.keys.seeds_rival:
            # Rows answer the seeds' own instructions: the seeds are no rivals of theirs. They begin the pool;
            # what earlier rounds have added comes behind them.
            alive[: self.run.plan.seeds] = False
        benchmarks = None
        if c.decontamination.sources:
            with self.clock("benchmarks"):
                benchmarks = Benchmarks(self.run.plan.benchmarks, c.decontamination.ngram)
                benchmarks.save(self.scratch / "benchmarks.npz")
        what = self.signing = Signing(
            self.scratch,
            rule_of(self.run.config, self.run.plan),
            self.scratch / "benchmarks.npz" if benchmarks else None,
            keep=flow.pools and self.round < self.run.config.method.rounds,
        )
        with self.clock("sign"):
            suspects = signatures.run(ix, what, self.workers)
            log.info(
                "round %d: %d of %d rows signed here, all others where they were made",
                self.round,
                suspects.made,
                len(ix),
            )
        if benchmarks:
            with self.clock("decontaminate"):
                self._decontaminate(benchmarks, suspects.rows)
        if c.exact:
            with self.clock("exact"):
                drop, winner = exact.duplicates(ix, what.digests, alive)
                alive[drop] = False
                dropped.add("exact", drop, winner, np.ones(len(drop)))
                self.found["exact"] = {"dropped": len(drop)}
        if what.banding:
            with self.clock("fuzzy"):
                near = near_duplicates.duplicates(ix, what, alive, c.fuzzy_threshold, self.workers, self.memory // 4)
                alive[near.drop] = False
                dropped.add("fuzzy", near.drop, near.winner, near.similarity)
                self.found["fuzzy"] = {
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
            with self.clock("semantic"):
                self._semantic()
        self._surplus()

    def _forward(self) -> None:
        """Drop what the flow forwards to the next round."""
        found = forward.forwarded(self.run.config, self.round, self.ix)
        if found is None:
            return
        ranks, by = found
        self.alive[ranks] = False
        self.dropped.add("forwarded", ranks)
        self.found["forwarded"] = by | {"dropped": len(ranks)}

    def _surplus(self) -> None:
        """Drop what is beyond the target, worst first."""
        ix, alive = self.ix, self.alive
        left = np.flatnonzero(alive[ix.pool :]) + ix.pool
        if self.wanted and len(left) > self.wanted:
            surplus = left[self.wanted :]
            alive[surplus] = False
            self.dropped.add("surplus", surplus)

    def _decontaminate(self, benchmarks: Benchmarks, suspects: np.ndarray) -> None:
        """Drop every suspect that meets a benchmark, with the benchmarks and what it shares with each."""
        ix = self.ix
        ranks, details, by_source = [], [], dict.fromkeys((b.source for b in benchmarks.each), 0)
        for unit in ix.units():
            a, b = np.searchsorted(suspects, [unit.start, unit.start + unit.rows])
            if a == b:
                continue
            rows = suspects[a:b]
            for row, instructions, responses in texts_of(unit, rows=rows, as_prose=True):
                at = int(np.searchsorted(rows, row))
                for k, (i, r) in enumerate(zip(instructions, responses, strict=True)):
                    matches = benchmarks.match(i, r)
                    if matches:
                        ranks.append(int(ix.rank[rows[at + k]]))
                        details.append("; ".join(map(str, matches)))
                    for match in matches:
                        by_source[match.benchmark] += 1
        order = np.argsort(np.array(ranks, np.int64))
        drop = np.array(ranks, np.int64)[order]
        self.alive[drop] = False
        self.dropped.add("contaminated", drop, details=[details[i] for i in order.tolist()])
        self.found["decontamination"] = {
            "sources": [
                {
                    "source": b.source,
                    "sha256": b.pin.sha256,
                    "revision": b.pin.revision,
                    "texts": len(b.texts),
                    "unread": b.unread,
                    "dropped": by_source[b.source],
                }
                for b in benchmarks.each
            ],
            "ngram": benchmarks.size,
            "dropped": len(drop),
        }

    def _semantic(self) -> None:
        """The greedy rule on what is alive; also how to fill the column `embedding` of what is kept."""
        c, ix, alive = self.run.config.merge, self.ix, self.alive
        ranks = np.flatnonzero(alive)
        model = self.run.plan.embed or pin_embed(self.run.config)
        assert model
        matrix, computed = embeddings.assemble(self.run, self.round, ix, ranks, model, self.scratch)
        self.found["semantic"] = {
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
            return
        found = semantic.duplicates(
            matrix,
            int(alive[: ix.pool].sum()),
            c.semantic_threshold,
            self.scratch,
            self.workers,
            c.exact_search_rows,
            self.memory // 2,
        )
        drop = ranks[found.drop]
        alive[drop] = False
        self.dropped.add("semantic", drop, ranks[found.winner], found.similarity)
        self.found["semantic"] |= {"method": found.method, "recall": found.recall, "dropped": len(drop), **found.detail}
        self.similarity = {
            "bins": rule.BINS,
            "from": 0.0,
            "to": 1.0,
            "threshold": c.semantic_threshold,
            "counts": found.histogram(),
        }
        if words := semantic.approximate(self.found["semantic"]):
            log.info("semantic step: %s", words)
        place = np.full(len(ix), -1, np.int64)
        place[ix.row[ranks]] = np.arange(len(ranks))
        self.fill = lambda rows, _: embedding_column.to_column(matrix[place[rows]])
