"""Benchmarks that rows are compared with: where a run finds them, what pins them, and the texts inside.

A source is a file, a directory or a Hub dataset id. Planning digests its files; a merge that finds other bytes refuses,
so all rounds, and everyone who repeats the run, compare with the same texts.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gra_hpc import hub
from gra_hpc.errors import ConfigError

KEY = "merge.decontamination.sources"
_FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
_THEN = f"{KEY}=[FILE, DIRECTORY or HUB/DATASET]"


@dataclass(frozen=True)
class BenchmarkPin:
    """A source as it was found when the run was planned."""

    path: str
    """Where it was: a file or a directory."""
    sha256: str
    """Of its files: their names within it and their bytes."""
    revision: str
    """Commit of a Hub dataset, else nothing."""


def find(source: str, scratch: str = "") -> BenchmarkPin:
    """Find a source on this machine; nothing is downloaded.

    Args:
        source: a file, a directory or a Hub dataset id.
        scratch: `site.scratch`, whose cache is looked at too.

    Raises:
        ConfigError: it is neither here nor in a cache, has no file of a known kind, or cannot be read.
    """
    path, revision = Path(source).expanduser(), ""
    if not path.exists():
        snapshot = hub.find(source, "", "dataset", scratch)
        if snapshot is None:
            raise ConfigError(
                f"{KEY}: {source}: no such file or directory, and no Hub dataset of this id in the local cache",
                f"gra stage datasets/{source}  (on a machine with network)"
                if hub.ID.fullmatch(source)
                else f"give a file, a directory or a Hub dataset id: {_THEN}",
            )
        path, revision = snapshot, snapshot.name
    return BenchmarkPin(str(path.absolute()), _sha256(source, path), revision)


def texts(source: str, pin: BenchmarkPin) -> Iterator[tuple[str, int, str]]:
    """All texts of a source: file (for a directory with its place within), line or row from 1, text.

    Raises:
        ConfigError: its files are gone, are not those that were planned with, or cannot be read.
    """
    path = Path(pin.path)
    if not path.exists():
        raise ConfigError(
            f"{KEY}: {source}: no longer at {path}", "put it back, then type the same command again"
        )
    if _sha256(source, path) != pin.sha256:
        raise ConfigError(
            f"{KEY}: {path}: not the files that the run was planned with (sha256 {pin.sha256[:12]}...)",
            "put them back, or plan a new run with these: gra plan NEW_RUN ...",
        )
    label = source if pin.revision else path.name
    for name, file in _files(source, path):
        for record, text in _read(file):
            yield f"{label}/{name}" if path.is_dir() else path.name, record, text


def _files(source: str, path: Path) -> list[tuple[str, Path]]:
    """Files of a source with their names within it, in order; hidden ones do not count."""
    if path.is_file():
        if path.suffix.lower() not in _FORMATS:
            raise ConfigError(f"{KEY}: {source}: expected one of {', '.join(_FORMATS)}", _THEN)
        return [("", path)]
    found = sorted(f for f in path.rglob("*") if f.suffix.lower() in _FORMATS and f.is_file())
    named = [(f.relative_to(path), f) for f in found]
    files = [(str(n), f) for n, f in named if not any(part.startswith(".") for part in n.parts)]
    if not files:
        raise ConfigError(f"{KEY}: {source}: no {', '.join(_FORMATS)} file in it", _THEN)
    return files


def _sha256(source: str, path: Path) -> str:
    total = hashlib.sha256()
    for name, file in _files(source, path):
        try:
            with file.open("rb") as f:
                total.update(f"{name}\0{hashlib.file_digest(f, 'sha256').hexdigest()}\n".encode())
        except OSError as e:
            raise ConfigError(
                f"{KEY}: {file}: cannot be read ({os.strerror(e.errno) if e.errno else e})", f"ls -l {file}"
            ) from None
    return total.hexdigest()


def _read(path: Path) -> Iterator[tuple[int, str]]:
    """Texts of a file with their line or row number, from 1."""
    kind = path.suffix.lower()
    where = ""
    try:
        if kind == ".jsonl":
            with path.open(encoding="utf-8") as f:
                for n, line in enumerate(f, 1):
                    where = f":{n}"
                    if line.strip():
                        yield from ((n, t) for t in _strings(json.loads(line)))
        elif kind == ".json":
            data = json.loads(path.read_text(encoding="utf-8"))
            for n, record in enumerate(_records(data), 1):
                yield from ((n, t) for t in _strings(record))
        elif kind in (".csv", ".tsv"):
            csv.field_size_limit(1 << 30)
            with path.open(encoding="utf-8", newline="") as f:
                for n, row in enumerate(csv.reader(f, delimiter="\t" if kind == ".tsv" else ","), 1):
                    yield from ((n, t) for t in row)
        elif kind == ".parquet":
            import pyarrow.parquet as pq

            with pq.ParquetFile(path) as file:
                n = 0
                for batch in file.iter_batches(1000):
                    for record in batch.to_pylist():
                        n += 1
                        yield from ((n, t) for t in _strings(record))
        else:
            with path.open(encoding="utf-8") as f:
                yield from enumerate(f, 1)
    except (OSError, ValueError, csv.Error) as e:
        why = os.strerror(e.errno) if isinstance(e, OSError) and e.errno else e
        raise ConfigError(f"{KEY}: {path}{where}: cannot be read ({why})", _THEN) from None


def _records(data: Any) -> list[Any]:
    """Records of a JSON document: a list, or the longest list in its top level, or the document."""
    if isinstance(data, list):
        return data
    if isinstance(data, dict):
        lists = [v for v in data.values() if isinstance(v, list)]
        if lists:
            return max(lists, key=len)
    return [data]


def _strings(value: Any) -> Iterator[str]:
    """All strings inside a record."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from _strings(v)
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from _strings(v)
