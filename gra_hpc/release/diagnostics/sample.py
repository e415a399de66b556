"""The rows and seeds that diagnostics rest on: drawn by a digest of their ids, with their embeddings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from gra_hpc.merge.semantic.embedding_column import to_matrix
from gra_hpc.merge.semantic.embedding_store import Store
from gra_hpc.models import embedder
from gra_hpc.release.inputs import Inputs, read_slices
from gra_hpc.release.shuffle import keys_of
from gra_hpc.run.merged import pool_of

PURPOSE = "diagnose"


@dataclass
class Texts:
    """Some rows of a table, in the order of a digest of their ids."""

    ids: list[str]
    instructions: list[str]
    responses: list[str]
    domains: list[str]
    of: int
    """Rows they were drawn from."""
    vectors: np.ndarray | None = None
    """float16 [n, d] of their instructions, of length one; none: not embedded."""

    def __len__(self) -> int:
        return len(self.ids)

    def head(self, n: int) -> Texts:
        """The first n, which are as random a draw."""
        some = None if self.vectors is None else self.vectors[:n]
        return Texts(self.ids[:n], self.instructions[:n], self.responses[:n], self.domains[:n], self.of, some)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return list(zip(self.instructions, self.responses, strict=True))


def released(inputs: Inputs, rows: int) -> Texts:
    """Rows of the release, with the embeddings that the merge stored."""
    return _draw((r.file("kept.parquet") for r in inputs.rounds), rows, embedded=inputs.run.plan.embed is not None)


def seeds(inputs: Inputs, rows: int) -> Texts:
    """Seeds, without embeddings."""
    return _draw([pool_of(inputs.run, inputs.run.plan, 1)], rows, embedded=False)


def _draw(paths: Iterable[Path], rows: int, embedded: bool) -> Texts:
    """The rows whose ids have the smallest digests; memory is bounded by `rows`."""
    columns = ["id", "instruction", "response", "domain", *(["embedding"] if embedded else [])]
    held, keys, total = None, np.empty(0, np.uint64), 0
    for path in paths:
        for table in read_slices(path, columns, 8192):
            total += len(table)
            held = table if held is None else pa.concat_tables([held, table])
            keys = np.concatenate([keys, keys_of(table["id"], PURPOSE)])
            if len(held) > 2 * rows + 8192:
                order = np.argsort(keys, kind="stable")[:rows]
                held, keys = held.take(order), keys[order]
    if held is None or not len(held):
        return Texts([], [], [], [], total)
    order = np.argsort(keys, kind="stable")[:rows]
    held = held.take(order)
    ids, instructions, responses, domains = ([v or "" for v in held[c].to_pylist()] for c in columns[:4])
    out = Texts(ids, instructions, responses, domains, total)
    if embedded:
        out.vectors = _stored(held["embedding"])
    return out


def _stored(column: object) -> np.ndarray | None:
    """Stored embeddings, if every row has one."""
    there, vectors = to_matrix(column)
    return vectors if len(there) == len(column) else None  # type: ignore[arg-type]


def embed(inputs: Inputs, texts: Texts) -> None:
    """Give the texts embeddings: stored beside the run by the merge, or computed here.

    Raises:
        GraError: the embedding worker failed.
    """
    model = inputs.run.plan.embed
    if texts.vectors is not None or model is None or not len(texts):
        return
    store = Store(inputs.run.path / "seeds.embeddings", model.identity)
    known = list(store.find(np.array([i.encode() for i in texts.ids])))
    there = np.concatenate([np.empty(0, np.int64), *(at for at, _ in known)])
    lacking = np.setdiff1d(np.arange(len(texts)), there)
    if len(lacking):
        known.append((lacking, embedder.encode([texts.instructions[i] for i in lacking.tolist()], model.directory)))
    vectors = np.empty((len(texts), known[0][1].shape[1]), np.float16)
    for at, some in known:
        vectors[at] = some
    texts.vectors = vectors
