"""Tables of text whose fields are separated by another character than their file's ending says."""

from __future__ import annotations

import codecs
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import IO

from gra_hpc.errors import SeedError
from gra_hpc.sources.files import TABLES, excerpt

_NAMES = {";": "`;`, as Excel writes it in many countries", "\t": "tabs", "|": "`|`", ",": "`,`"}
_HEAD_BYTES = 1 << 20
_CODE = (
    'import csv, sys; csv.writer(open(sys.argv[2], "w", newline="", encoding="utf-8")).writerows('
    'csv.reader(open(sys.argv[1], newline="", encoding="{encoding}"), delimiter="{separator}"))'
)


def refuse_another(f: IO[bytes], path: Path, header: list[str], delimiter: str, known: Collection[str]) -> None:
    """Refuse a table whose header holds more of another separator than of its own, and no name that is known.

    Args:
        f: the table; its position is lost where it is refused.
        header: names as they were read.
        delimiter: what they were separated by.
        known: names of fields that may be read; where one is there, the header was read as it is meant.

    Raises:
        SeedError: with the command that writes a table that can be read.
    """
    if any(name in known or name.casefold() in known for name in header):
        return
    line = delimiter.join(header)
    found = max((s for s in _NAMES if s != delimiter), key=line.count)
    if line.count(found) < max(1, len(header) - 1):
        return
    kind = next((kind for kind, separator in TABLES.items() if separator == found), "")
    if path.suffix not in TABLES:
        then = f"unpack it, and write it with {_NAMES[delimiter]} in between"
    elif kind:
        then = f"cp {shlex.quote(str(path))} new{kind}, then seeds.path=new{kind}"
    else:
        code = _CODE.format(encoding=_encoding(f), separator=found)
        new = f"new{path.suffix}"
        then = f"python3 -c {shlex.quote(code)} {shlex.quote(str(path))} {new}, then seeds.path={new}"
    raise SeedError(f"{path}: its fields are separated by {_NAMES[found]}: {excerpt(repr(line), 300)}", then)


def _encoding(f: IO[bytes]) -> str:
    """What a table is read with; what is not UTF-8 is Excel's own."""
    f.seek(0)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(f.read(_HEAD_BYTES))
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8-sig"
