"""Benchmarks that rows are compared with: where a run finds them, what pins them, and the texts inside.

A source is a file, a directory or a Hub dataset id. Planning digests its files; a merge that finds other bytes refuses,
so all rounds, and everyone who repeats the run, compare with the same texts. In a directory what describes the data
(README, licence, `dataset_infos.json`, scripts) is left out; data of a kind that is not read here are named, in the log
and in the card, since rows are not compared with them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gra_hpc.config.directories import looked
from gra_hpc.errors import ConfigError
from gra_hpc.models import hub
from gra_hpc.sources.files import COMPRESSED, LINES, NOT_DATA, READ_ERRORS, TABLES, kind_of, open_unpacked
from gra_hpc.terminal import word

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

KEY = "merge.decontamination.sources"
_TEXT = (*LINES, ".json", *TABLES, ".txt")
_COLUMNS = (".parquet", ".arrow")
_FORMATS = f"{', '.join(_TEXT + _COLUMNS)}; text also {', '.join(COMPRESSED)}"
_THEN = f"{KEY}=[FILE, DIRECTORY or HUB/DATASET]"

_ABOUT = ("readme", "license", "licence", "citation", "changelog", "notice", "requirements", "makefile", "config")
"""Files about the data, whatever their suffix."""
_ABOUT_SUFFIXES = (".md", ".rst", ".py", ".ipynb", ".sh", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".bib", ".lock",
                   ".html", ".pdf", ".svg", ".png", ".jpg", ".jpeg", ".gif")  # fmt: skip


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
                f"{KEY}: {source}: no such file or directory{looked(source)}, and no Hub dataset of this id in the"
                " local cache",
                f"gra fetch datasets/{source}  (on a machine with network)"
                if hub.ID.fullmatch(source)
                else f"give a file, a directory or a Hub dataset id: {_THEN}",
            )
        path, revision = snapshot, snapshot.name
    pin = BenchmarkPin(str(path.absolute()), _sha256(source, path), revision)
    if others := unread(pin):
        log.warning("%s: %s: not read, so rows are not compared with: %s", KEY, source, _some(others))
    return pin


def texts_of(source: str, pin: BenchmarkPin) -> Iterator[tuple[str, int, str]]:
    """All texts of a source: file (for a directory with its place within), line or row from 1, text.

    Raises:
        ConfigError: its files are gone, are not those that were planned with, or cannot be read.
    """
    path = Path(pin.path)
    if not path.exists():
        raise ConfigError(f"{KEY}: {source}: no longer at {path}", "put it back, then type the same command again")
    if _sha256(source, path) != pin.sha256:
        raise ConfigError(
            f"{KEY}: {path}: not the files that the run was planned with (sha256 {pin.sha256[:12]}...)",
            "put them back, or plan a new run with these: gra plan NEW_RUN ...",
        )
    label = source if pin.revision else path.name
    for name, file in _files(source, path):
        for record, text in _read(file):
            yield f"{label}/{name}" if path.is_dir() else path.name, record, text


def unread(pin: BenchmarkPin) -> list[str]:
    """Files within a source that hold data of a kind that is not read here, in order."""
    path = Path(pin.path)
    return [n for n, f in _within(path) if not _kind(f)] if path.is_dir() else []


def _kind(path: Path) -> str:
    """The suffix that says how a file is read, without that of its compression; empty: it is not read."""
    kind = kind_of(path)
    return kind if kind in _TEXT + _COLUMNS else ""


def _within(path: Path) -> list[tuple[str, Path]]:
    """Data files of a directory with their names within it, in order; hidden ones do not count."""
    found = sorted((f.relative_to(path), f) for f in path.rglob("*") if f.is_file())
    return [
        (str(n), f)
        for n, f in found
        if not any(part.startswith(".") for part in n.parts)
        and f.name not in NOT_DATA
        and f.name.split(".")[0].lower() not in _ABOUT
        and f.suffix.lower() not in _ABOUT_SUFFIXES
    ]


def _files(source: str, path: Path) -> list[tuple[str, Path]]:
    """Files of a source that are read, with their names within it, in order."""
    if path.is_file():
        if not _kind(path):
            raise ConfigError(f"{KEY}: {source}: expected one of {_FORMATS}", _THEN)
        return [("", path)]
    data = _within(path)
    files = [(n, f) for n, f in data if _kind(f)]
    if not files:
        there = f"; it has {_some([n for n, _ in data])}" if data else ""
        raise ConfigError(f"{KEY}: {source}: no file to read in it, expected {_FORMATS}{there}", _THEN)
    return files


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _sha256(source: str, path: Path) -> str:
    total = hashlib.sha256()
    for name, file in _files(source, path):
        try:
            with file.open("rb") as f:
                total.update(f"{name}\0{hashlib.file_digest(f, 'sha256').hexdigest()}\n".encode())
        except OSError as e:
            raise ConfigError(
                f"{KEY}: {file}: cannot be read ({os.strerror(e.errno) if e.errno else e})", f"ls -l {word(file)}"
            ) from None
    return total.hexdigest()


def _read(path: Path) -> Iterator[tuple[int, str]]:
    """Texts of a file with their line or row number, from 1."""
    kind = _kind(path)
    where = ""
    try:
        if kind in _COLUMNS:
            n = 0
            for batch in _batches(path, kind):
                for record in batch.to_pylist():
                    n += 1
                    yield from ((n, t) for t in _strings(record))
            return
        with io.TextIOWrapper(open_unpacked(path), encoding="utf-8", newline="") as f:
            if kind in LINES:
                for n, line in enumerate(f, 1):
                    where = f":{n}"
                    if line.strip():
                        yield from ((n, t) for t in _strings(json.loads(line)))
            elif kind == ".json":
                for n, record in enumerate(_records(json.load(f)), 1):
                    yield from ((n, t) for t in _strings(record))
            elif kind in TABLES:
                csv.field_size_limit(1 << 30)
                for n, row in enumerate(csv.reader(f, delimiter=TABLES[kind]), 1):
                    yield from ((n, t) for t in row)
            else:
                yield from enumerate(f, 1)
    except (*READ_ERRORS, ValueError, NotImplementedError, csv.Error, RecursionError) as e:  # with Arrow's errors
        why = os.strerror(e.errno) if isinstance(e, OSError) and e.errno else e
        raise ConfigError(f"{KEY}: {path}{where}: cannot be read ({why})", _THEN) from None


def _batches(path: Path, kind: str) -> Iterator[pa.RecordBatch]:
    """Record batches of a Parquet file, or of an Arrow file or stream (`datasets` writes streams)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with ExitStack() as stack:
        if kind == ".parquet":
            yield from stack.enter_context(pq.ParquetFile(path)).iter_batches(1000)
            return
        data = stack.enter_context(pa.memory_map(str(path)))
        if data.read(6) == b"ARROW1":
            file = stack.enter_context(pa.ipc.open_file(data))
            yield from (file.get_batch(i) for i in range(file.num_record_batches))
        else:
            data.seek(0)
            yield from stack.enter_context(pa.ipc.open_stream(data))


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
