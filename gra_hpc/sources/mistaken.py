"""Files that are something else than their names say: told by their first bytes, and by their first lines."""

from __future__ import annotations

import csv
from itertools import islice
from pathlib import Path

import orjson

from gra_hpc.errors import SeedError
from gra_hpc.sources.files import LINES, READ_ERRORS, data_files, find_file, kind_of, open_unpacked
from gra_hpc.terminal import shown

_MAGIC = (
    (b"\x1f\x8b", "gzip", ".gz"),
    (b"BZh", "bzip2", ".bz2"),
    (b"\xfd7zXZ", "xz", ".xz"),
    (b"\x28\xb5\x2f\xfd", "zstd", ".zst"),
    (b"PAR1", "Parquet", ".parquet"),
    (b"PK\x03\x04", "a zip archive", ""),
)
"""First bytes, what begins with them, and how its name ends."""
HEAD = 6
"""Bytes of the longest of them, about."""
_LINE_BYTES = 1 << 16
_LOOKED = 20
"""Files of a directory that are looked at."""


def refuse_packed(path: Path, head: bytes) -> None:
    """Refuse a file of text whose first bytes, through the compression that its name says, are no text's.

    Args:
        head: at least `HEAD` of them, if there are so many.

    Raises:
        SeedError: with the name that it should have.
    """
    for first, what, suffix in _MAGIC:
        if head.startswith(first):
            name = path.with_suffix(suffix) if suffix == ".parquet" else path.with_name(path.name + suffix)
            then = f"mv {shown(str(path))} {shown(str(name))}" if suffix else f"unzip -p {shown(str(path))} > new.jsonl"
            raise SeedError(f"{path}: is {what}, and its name says {kind_of(path)}", then)


def remedy(path: str) -> str:
    """What mends a file of lines in which there is another kind of text; empty: none of them is.

    Args:
        path: `seeds.path`.
    """
    try:
        found = find_file(path)
        files = [f for f in (data_files(found) if found else []) if kind_of(f) in LINES]
        for file in files[:_LOOKED]:
            if kind := _kind_of_text(file):
                name = shown(str(file)) if found == file else file.name
                suffix = file.name[len(file.name.partition(".")[0]) :]
                packed = file.suffix if suffix != kind_of(file) and file.suffix.lower() not in LINES else ""
                what = "a list in JSON, not an object a line" if kind == ".json" else "CSV, not JSON"
                return (
                    f"{name} is {what}: name it {file.name.removesuffix(packed)[: -len(kind_of(file))]}{kind}{packed}"
                )
    except (SeedError, *READ_ERRORS):
        pass
    return ""


def _kind_of_text(path: Path) -> str:
    """`.json` or `.csv`, where that is what the first lines are; else empty."""
    with open_unpacked(path) as f:
        text = f.read(_LINE_BYTES).decode("utf-8-sig", "replace")
    lines = [line for line in text.splitlines() if line.strip()]
    first = lines[0].strip() if lines else ""
    if first.startswith("["):
        begins = (first[1:].strip() or "".join(lines[1:2]).strip())[:1]
        return ".json" if begins == "{" else ""
    if not lines[1:] or first.startswith("{") or _is_json(first):
        return ""
    for delimiter, suffix in ((",", ".csv"), ("\t", ".tsv")):
        header, *rows = islice(csv.reader(lines, delimiter=delimiter), 2)
        if len(header) > 1 and all(name.strip() for name in header) and [len(r) for r in rows] == [len(header)]:
            return suffix
    return ""


def _is_json(line: str) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True
