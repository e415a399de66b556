"""Which files a dataset's path stands for, and what kind each is. A text file may be compressed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from gra_hpc.config.directories import config_dirs, near_file
from gra_hpc.errors import SeedError

LINES, TABLES = (".jsonl", ".ndjson"), {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*LINES, ".json", *TABLES, ".parquet")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
"""Compressions of text files, by a second suffix."""

SPLITS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
"""Words at the beginning or the end of a file's name that say of which split it is."""

READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""A file that cannot be read, or whose compression is damaged."""

NOT_DATA = ("manifest.json", "dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json")
"""Files beside the data that have one of its suffixes."""


def excerpt(value: object, length: int = 100) -> str:
    """The start of a value on one line, printable."""
    if isinstance(value, bytes):
        text = value[: 4 * length].decode("utf-8", "replace")
    else:
        text = value if isinstance(value, str) else str(value)
    text = " ".join(text[: 4 * length].split())
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return text if len(text) <= length else text[: length - 3] + "..."


def find_file(path: str) -> Path | None:
    """The local file or directory that a path stands for, or none if it is a Hub dataset id.

    Raises:
        SeedError: neither a path that exists nor the form of an id.
    """
    for base in (Path(), *config_dirs()):
        try:
            candidate = base / Path(path).expanduser()
            if path and candidate.exists():
                return candidate
        except (OSError, ValueError, RuntimeError):  # a name too long, a NUL in it, no home directory
            break
    if (
        kind_of(Path(path)) not in SUFFIXES
        and re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", path)
        and not path.startswith(".")
    ):
        return None
    looked = ", ".join(str(d) for d in (Path.cwd(), *config_dirs()))
    raise SeedError(f"seeds.path={excerpt(path)}: no such file or directory{near_file(path)}", f"looked in {looked}")


def data_files(path: Path) -> list[Path]:
    """The data files of a path; none if it is a directory that `datasets` has to open.

    Raises:
        SeedError: a file of an unknown kind; a directory where data files are left over.
    """
    every = ", ".join((*SUFFIXES, f"each text also with {', '.join(COMPRESSED)}"))
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if _is_data(p))
        others = sorted(p for p in path.rglob("*") if p not in files and (_is_data(p) or _is_packed(p)))
        if files and others:
            raise SeedError(
                f"{path}: {others[0].relative_to(path)} would not be read beside {files[0].name}",
                f"expected data files in one directory, of kinds {every}",
            )
        return files
    if kind_of(path) not in SUFFIXES:
        raise SeedError(f"{path}: unknown kind of file", f"expected one of {every}")
    return [path]


def of_split(files: list[Path], split: str) -> tuple[list[Path], list[Path]]:
    """The files of a directory that belong to a split, or to none, and those that are named after another one.

    Raises:
        SeedError: all are.
    """
    splits = ["" if _stem(f).startswith(split.lower()) else _split_of(f) for f in files]
    own = [f for f, s in zip(files, splits, strict=True) if s in ("", SPLITS.get(split))]
    others = [f for f in files if f not in own]
    if others and not own:
        raise SeedError(
            f"{files[0].parent}: no file of the split {split}; there are {', '.join(f.name for f in files[:5])}",
            f"seeds.split={splits[0]}",
        )
    return own, others


def _split_of(file: Path) -> str:
    """The split that a file's name says; empty: none."""
    words = [w for w in re.findall(r"[a-z]+", _stem(file)) if w != "of"]  # train-00000-of-00002
    return next((SPLITS[w] for w in (words[:1] + words[-1:]) if w in SPLITS), "")


def _stem(file: Path) -> str:
    """A file's name without what says its kind, in lower case."""
    name = file.name.lower()
    for kinds in (COMPRESSED, SUFFIXES):
        name = next((name.removesuffix(k) for k in kinds if name.endswith(k)), name)
    return name


def open_unpacked(path: Path) -> IO[bytes]:
    """The bytes of a file of text, through its compression; it can go back.

    Raises:
        READ_ERRORS: also while it is read.
    """
    suffix = path.suffix.lower()
    if suffix == ".zst":
        import pyarrow as pa

        whole = tempfile.TemporaryFile()  # noqa: SIM115 -- the caller closes it; Arrow's stream cannot go back
        with pa.input_stream(str(path), compression="zstd") as packed:
            shutil.copyfileobj(packed, whole, 1 << 20)
        whole.seek(0)
        return whole
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return cast(IO[bytes], openers.get(suffix, open)(path, "rb"))


def _is_data(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return kind_of(path) in SUFFIXES and path.name not in NOT_DATA and not hidden and path.is_file()


def _is_packed(path: Path) -> bool:
    """Whether it may hold data that is not read: compressed, of whatever kind."""
    return path.suffix.lower() in COMPRESSED and not path.name.startswith(".") and path.is_file()


def kind_of(path: Path) -> str:
    """The suffix that says what a file holds, without that of a text's compression, in lower case; empty: none."""
    suffix, inner = path.suffix.lower(), Path(path.stem).suffix.lower()
    return inner if suffix in COMPRESSED and inner not in (".parquet", ".arrow") else suffix
