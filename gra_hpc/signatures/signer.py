"""Signs the shards that a worker publishes: beside the calls of the next ones, by the processor's spare time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.errors import ConfigError
from gra_hpc.flows.keys import Keys
from gra_hpc.parquet import open_table, whole_table
from gra_hpc.records import ACCEPTED, CONTEXT
from gra_hpc.signatures import columns, table
from gra_hpc.signatures.decontaminate import Benchmarks, Prepared
from gra_hpc.signatures.signing import BATCH, MEETINGS, Rule, sign
from gra_hpc.sources.benchmarks import BenchmarkPin
from gra_hpc.storage import entry

log = logging.getLogger(__name__)


class Signer:
    """Reads the benchmarks once, when the first shard is published."""

    def __init__(self, rule: Rule, keys: Keys, benchmarks: Mapping[str, BenchmarkPin]) -> None:
        self.rule = rule
        self._keys = keys
        self._benchmarks = benchmarks
        self._prepared: Prepared | None = None
        self._asked = not rule.benchmarks
        self._lock = threading.Lock()

    def sign(self, samples: Path, of: str, target: Path) -> dict[str, Any]:
        """Write the signatures of a table's accepted rows.

        Args:
            samples: the table, as it is published.
            of: its SHA-256.
            target: where they go.

        Returns:
            What the manifest says of them (`table.SignedTable`).
        """
        prepared = self._prepare()
        parts = {k: v for k, v in self.rule.parts.items() if k != MEETINGS or prepared}
        schema = table.schema(parts, self.rule.banding)
        rows = 0
        with open_table(samples) as file, whole_table(target, schema, plain=True) as writer:
            wanted = columns.wanted(self._keys, CONTEXT in file.schema_arrow.names)
            held: list[pa.Table] = []
            for batch in file.iter_batches(BATCH, columns=[*wanted, "status"], use_threads=False):
                accepted = batch.filter(pc.equal(batch["status"], ACCEPTED))
                if not len(accepted):
                    continue
                mine = columns.named(self._keys, {c: accepted[c] for c in wanted})
                signatures = sign(mine, self.rule, prepared, parts)
                held.append(table.to_table(signatures, schema))
                rows += len(accepted)
                if sum(map(len, held)) >= table.ROWS:
                    writer.write_table(pa.concat_tables(held))
                    held.clear()
            if held:
                writer.write_table(pa.concat_tables(held))
        return {"file": target.name, "rows": rows, **entry(target), "of": of, "parts": parts}

    def _prepare(self) -> Prepared | None:
        """The benchmarks' hashes; none where there are none, or cannot be read here: the merge will say so."""
        with self._lock:
            if not self._asked:
                self._asked = True
                try:
                    self._prepared = Benchmarks(self._benchmarks, self.rule.ngram).prepared()
                except ConfigError as e:
                    log.warning("what rows share with benchmarks is left to the merge: %s", e.what)
            return self._prepared
