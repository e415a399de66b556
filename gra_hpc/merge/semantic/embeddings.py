"""Embeddings of the rows that reach the semantic step, in order of rank.

A shard stores the embeddings of its accepted samples; the merge of an earlier round stored those it computed in
`kept.parquet`; what none has (seeds, shards without an embedding model) is computed here once and kept beside the run
(`store`), so that a second merge decides by the same numbers.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np

from gra_hpc.errors import ReleaseError
from gra_hpc.merge import index
from gra_hpc.merge.collect import id_bytes
from gra_hpc.merge.index import Index
from gra_hpc.merge.semantic.embedding_column import to_matrix
from gra_hpc.merge.semantic.embedding_store import Store
from gra_hpc.models import embedder
from gra_hpc.parquet import read_batches
from gra_hpc.run.directory import RunDir
from gra_hpc.run.merged import Merged
from gra_hpc.run.pins import ModelPin, verify_embed

log = logging.getLogger(__name__)

_AT_ONCE = 50_000
"""Texts embedded per worker process; what was done is kept after each, as a part of its own."""


def assemble(
    run: RunDir, round_: int, ix: Index, ranks: np.ndarray, model: ModelPin, scratch: Path
) -> tuple[np.ndarray, int]:
    """Embeddings of rows, from wherever they are.

    Args:
        run: the run.
        round_: the round that is merged.
        ix: its rows.
        ranks: rows wanted: those of the pool that new ones meet, and the new ones that are left, ascending.
        model: the embedding model, asked only for what is missing.
        scratch: directory for the matrix.

    Returns:
        float16 [ranks, d] (a file mapped into memory), and how many were computed here.
    """
    place = np.full(len(ix), -1, np.int64)
    place[ix.row[ranks]] = np.arange(len(ranks))
    have = np.zeros(len(ranks), bool)
    result: np.ndarray | None = None

    def put(at: np.ndarray, vectors: np.ndarray, where: str) -> None:
        nonlocal result
        if not len(at):
            return
        if result is None:
            path = scratch / "vectors.npy"
            result = np.lib.format.open_memmap(path, "w+", np.float16, (len(ranks), vectors.shape[1]))
            with path.open("r+b") as f:  # a full disk is an error here, and a crash when a mapped page is written
                os.posix_fallocate(f.fileno(), 0, path.stat().st_size)
        if vectors.shape[1] != result.shape[1]:
            raise ReleaseError(f"{where}: embeddings of {vectors.shape[1]} numbers, others have {result.shape[1]}")
        result[at] = vectors
        have[at] = True

    def put_by_id(ids: np.ndarray, vectors: np.ndarray, where: str) -> None:
        found = _find(ids)
        at = np.where(found >= 0, place[found], -1)  # not all rows that were there before are among the ranks
        put(at[at >= 0], vectors[at >= 0], where)

    pool_ids = ix.ids[: ix.pool]
    by_id = np.argsort(pool_ids, kind="stable")
    ordered = pool_ids[by_id]

    def _find(ids: np.ndarray) -> np.ndarray:
        """Row numbers of what was there before by these ids, or -1."""
        if not len(ordered):
            return np.full(len(ids), -1)
        at = np.minimum(np.searchsorted(ordered, ids), len(ordered) - 1)
        return np.where(ordered[at] == ids, by_id[at], -1)

    for unit in ix.units():
        if unit.part.accepted_only:
            for row, batch in index.read(unit, ["embedding"]):
                there, vectors = to_matrix(batch["embedding"])
                at = place[row + there]
                put(at[at >= 0], vectors[at >= 0], unit.part.path)
    for earlier in range(1, round_):
        if merged := Merged.load(run.round(earlier)):
            path = merged.file("kept.parquet")
            for batch in read_batches(path, ["id", "embedding"], 16_384):
                there, vectors = to_matrix(batch["embedding"])
                if len(there):
                    put_by_id(id_bytes(batch["id"])[there], vectors, str(path))
    computed = 0
    if not have.all():
        rows = ix.row[ranks]
        stores = (
            (Store(run.path / "seeds.embeddings", model.identity), rows < ix.pool),
            (Store(run.round(round_).path / "embeddings", model.identity), rows >= ix.pool),
        )
        for store, of in stores:
            lacking = np.flatnonzero(of & ~have)
            for at, vectors in store.find(ix.ids[rows[lacking]]):
                put(lacking[at], vectors, str(store.path))
        lacking = np.flatnonzero(~have)
        if len(lacking):
            verify_embed(model, model.directory)
            log.info("embedding %d rows with %s", len(lacking), model.directory)
        for s in range(0, len(lacking), _AT_ONCE):
            some = lacking[s : s + _AT_ONCE]
            vectors = embedder.encode(_texts(ix, rows[some]), model.directory)
            for store, of in stores:
                mine = of[some]
                if mine.any():
                    store.add(ix.ids[rows[some[mine]]], vectors[mine])
            put(some, vectors, model.directory)
            computed += len(some)
    return result if result is not None else np.empty((0, 0), np.float16), computed


def _texts(ix: Index, rows: np.ndarray) -> list[str]:
    """What is compared of some rows, with what was said before them, in the order given."""
    order = np.argsort(rows)
    ordered = rows[order]
    texts = [""] * len(rows)
    for unit in ix.units():
        a, b = np.searchsorted(ordered, [unit.start, unit.start + unit.rows])
        if a == b:
            continue
        for row, batch in index.read(unit, index.asking(unit)):
            s, e = np.searchsorted(ordered, [row, row + len(batch[unit.part.keys.text])])
            if s == e:
                continue
            told = index.asked(unit, batch)
            for k in range(s, e):
                texts[order[k]] = told[int(ordered[k] - row)]
    return texts
