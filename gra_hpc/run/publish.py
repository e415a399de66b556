"""A shard's result: tables under the attempt's name, then the manifest, once. Readers trust manifests only."""

from __future__ import annotations

import logging
import platform
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gra_hpc import __version__
from gra_hpc.errors import ReleaseError
from gra_hpc.once import write_once
from gra_hpc.parquet import table_rows, whole_table
from gra_hpc.records import Call, Candidate, call_schema
from gra_hpc.run.attempts import Heartbeat
from gra_hpc.run.directory import AttemptDir, ShardDir
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.shard_manifest import FORMAT, ShardManifest
from gra_hpc.storage import full_disk_as_error, sealed, sha256

if TYPE_CHECKING:
    import pyarrow as pa

    from gra_hpc.signatures.signer import Signer

log = logging.getLogger(__name__)

_BATCH = 2000


def is_published(shard: ShardDir) -> bool:
    """Whether a shard has its result."""
    return shard.manifest.is_file()


def publish(
    shard: ShardDir,
    attempt: AttemptDir,
    *,
    fingerprint: str,
    round_: int,
    ledger: Ledger,
    samples: Sequence[Candidate],
    embeddings: Sequence[bytes | None],
    calls: Iterable[Call],
    details: dict[str, Any],
    attempts: Sequence[AttemptDir],
    counted: Callable[[], dict[str, int]] = dict,
    signer: Signer | None = None,
    thoughts: bool = False,
    schema: pa.Schema,
) -> bool:
    """Write a shard's tables and its manifest.

    Args:
        samples: every sample of the slice, each with a status.
        embeddings: float16 bytes per sample, or None.
        calls: the calls the samples rest on.
        details: timings, tokens, engine statistics for the manifest.
        attempts: all attempts seen at the shard, this one included.
        counted: what the manifest says of the journals, asked once all calls have been read.
        signer: makes what the merge needs of the accepted samples' texts; none: the merge makes it.
        thoughts: some model thinks: the calls' table has a column for it.
        schema: of the samples' table, as their flow has it.

    Returns:
        False if another attempt has published in the meantime; this one's tables are then removed.
    """
    ledger.check(str(shard.path))
    samples_file, calls_file, signatures_file = shard.tables(attempt.id)
    with full_disk_as_error(shard.path):
        rows = ({**s.row(), "embedding": e} for s, e in zip(samples, embeddings, strict=True))
        _write_table(samples_file, rows, schema)
        _write_table(calls_file, ({k: getattr(c, k) for k in Call.__slots__} for c in calls), call_schema(thoughts))
        entry = table_entry(samples_file)
        signed = {"signatures": signer.sign(samples_file, entry["sha256"], signatures_file)} if signer else {}
        manifest = {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "round": round_,
            "shard": shard.number,
            "attempt": attempt.id,
            "attempts": [_history(a) for a in attempts],
            "samples": entry,
            "calls": table_entry(calls_file),
            **signed,
            "ledger": ledger.to_dict(),
            "version": __version__,
            "python": platform.python_version(),
            **details,
            **counted(),
        }
        won = write_once(shard.manifest, sealed(manifest))
    if not won:
        for file in (samples_file, calls_file, signatures_file):
            file.unlink(missing_ok=True)
    sweep(shard)
    return won


def table_entry(file: Path) -> dict[str, Any]:
    """Name, rows, bytes and digest of a Parquet file, for a manifest."""
    return {"file": file.name, "rows": table_rows(file), "bytes": file.stat().st_size, "sha256": sha256(file)}


def sweep(shard: ShardDir) -> None:
    """Remove what a published shard no longer needs: journals (now in its calls table), tables and temporary files of
    attempts that lost or were killed. Anything else there is left alone, and all of it under a manifest that is not
    sound: the merge names that one, and what it would be made from again is here.

    An attempt that still runs in another job notices that its directory has gone, or that the manifest is there.
    """
    if not is_published(shard):
        return
    try:
        manifest = ShardManifest.load(shard)
    except ReleaseError as e:
        log.warning("%s; nothing is removed there", e.what)
        return
    if manifest.shard != shard.number or not shard.samples(manifest.attempt).is_file():
        log.warning("%s: of another shard, or without its table; nothing is removed there", shard.manifest)
        return
    counted = {table.name for table in shard.tables(manifest.attempt)}
    for name in sorted(manifest.tables(shard) - counted):
        (shard.path / name).unlink(missing_ok=True)
    for pattern in (
        ".samples-*.parquet*.tmp",
        ".calls-*.parquet*.tmp",
        ".signatures-*.parquet*.tmp",
        ".manifest.json.*.tmp",
    ):
        for file in shard.path.glob(pattern):
            file.unlink(missing_ok=True)
    for directory in shard.path.glob(".manifest.json.*.tmp.d"):
        shutil.rmtree(directory, ignore_errors=True)
    for _ in range(3):  # a heartbeat that is being written at this moment makes a directory that is not empty
        shutil.rmtree(shard.attempts, ignore_errors=True)
        if not shard.attempts.exists():
            return


def _history(attempt: AttemptDir) -> dict[str, Any]:
    beat = Heartbeat.read(attempt)
    if beat is None:
        return {"attempt": attempt.id}
    keys = (
        "attempt", "worker", "job", "restart", "host", "gpus", "started", "at", "seconds", "waited", "phase", "message",
        "calls", "replayed", "slowest_call_s",
    )  # fmt: skip
    return {k: getattr(beat, k) for k in keys}


def _write_table(path: Path, rows: Iterable[dict[str, Any]], schema: Any) -> None:
    import pyarrow as pa

    with whole_table(path, schema) as writer:
        batch: list[dict[str, Any]] = []
        for row in rows:
            batch.append(row)
            if len(batch) == _BATCH:
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema=schema))
