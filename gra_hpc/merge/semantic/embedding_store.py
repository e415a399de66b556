"""Embeddings that a merge computed, kept beside the run: a directory of Parquet parts, one for each block computed.

A part appears whole and is never written again, so a killed merge goes on after the last one, and what is written and
held does not grow with what is there. Its name holds the start of its SHA-256: embeddings decide which rows stay, and a
part that has changed since is computed again.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from gra_hpc import parquet, storage
from gra_hpc.errors import ReleaseError
from gra_hpc.merge.collect import id_bytes
from gra_hpc.merge.semantic.embedding_column import to_column, to_matrix
from gra_hpc.once import write_once
from gra_hpc.owner import Sightings

log = logging.getLogger(__name__)

_ROWS = 16_384
"""Rows read at a time."""
_NAME = re.compile(r"(\d{5,})-([0-9a-f]{16})\.parquet")
_SILENT_S = 900.0
"""A temporary file that was seen not to change for so long was left by a writer that died."""


class Store:
    """Embeddings by id. Of an id that is there twice (two merges at the same time) the first part's counts."""

    def __init__(self, path: Path, model: str) -> None:
        """
        Args:
            path: the directory; need not exist.
            model: identity of the embedding model; parts of another are not read.
        """
        self.path, self._model = path, model

    def find(self, ids: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Look ids up in one pass over the parts.

        Args:
            ids: bytes [n], none twice.

        Yields:
            Places in `ids`, and their embeddings, float16 [places, d]; a place comes once.
        """
        if not len(ids):
            return
        order = np.argsort(ids, kind="stable")
        ordered = ids[order]
        lacking = np.ones(len(ids), bool)
        for some, vectors in self._read():
            some, first = np.unique(some, return_index=True)
            at = np.minimum(np.searchsorted(ordered, some), len(ordered) - 1)
            place = order[at]
            there = (ordered[at] == some) & lacking[place]
            if there.any():
                lacking[place[there]] = False
                yield place[there], vectors[first[there]]

    def add(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Keep more embeddings, as one part.

        Raises:
            StorageError: no room.
        """
        schema = pa.schema([("id", pa.string()), ("embedding", pa.binary())], metadata={"model": self._model})
        table = pa.table({"id": [i.decode() for i in ids.tolist()], "embedding": to_column(vectors)}, schema=schema)
        data = io.BytesIO()
        with parquet.table_writer(data, schema) as writer:
            writer.write_table(table)
        with storage.full_disk_as_error(self.path):
            self.path.mkdir(exist_ok=True)
        with Sightings() as seen:
            for left in sorted(self.path.glob(".*.tmp")):
                if seen.unchanged_s(left) >= _SILENT_S:
                    left.unlink(missing_ok=True)
        parts = self._parts()
        number = parts[-1][0] + 1 if parts else 0  # another merge of this round may write one of the same number
        name = f"{number:05d}-{hashlib.sha256(data.getvalue()).hexdigest()[:16]}.parquet"
        write_once(self.path / name, data.getvalue())

    def _parts(self) -> list[tuple[int, str, Path]]:
        """Number, digest and path of every part, in order."""
        named = ((_NAME.fullmatch(p.name), p) for p in self.path.glob("*.parquet"))
        return sorted((int(m[1]), m[2], p) for m, p in named if m)

    def _read(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Ids and embeddings of all parts; one that cannot be read, or has changed, is left out and computed again."""
        for _, digest, path in self._parts():
            try:
                if not storage.sha256(path).startswith(digest):
                    log.warning("%s: changed since it was written; computed again", path)
                    continue
                with parquet.open_table(path) as file:
                    if (file.schema_arrow.metadata or {}).get(b"model") != self._model.encode():
                        continue
                    for batch in file.iter_batches(_ROWS, columns=["id", "embedding"]):
                        yield id_bytes(batch["id"]), to_matrix(batch["embedding"])[1]
            except ReleaseError as e:
                log.warning("%s; computed again", e.what)
