"""Python's bytecode of an environment that holds none: kept in the user's cache directory, for engines.

Shared environments are read-only, images set PYTHONDONTWRITEBYTECODE, and some installers compile nothing. Each process
of each engine then compiles vLLM and torch again, of which an engine has three and more, one after another. Python
writes bytecode whole (a rename), and compares it to its source: engines of many nodes may share a directory.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from gra_hpc.engines.leftovers import own_directory
from gra_hpc.owner import cache_directory
from gra_hpc.records import digest

log = logging.getLogger(__name__)

FORBIDS, PREFIX = "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"
MOST = 4
"""Environments whose bytecode is kept: 160 MB each, in 6,300 files."""
_ALWAYS = Path("engine") / "arg_utils.py"
"""A module of vLLM that every engine imports, in every version."""
_HASHED = 1
"""Flag of bytecode that is compared to its source by its content."""


def with_bytecode(env: Mapping[str, str], package: Path | None, node_local: Path) -> dict[str, str]:
    """An engine's environment, with a place for bytecode where its Python would have none.

    Args:
        env: its environment so far; who has named a place there keeps it.
        package: vLLM's directory; none: it is not known.
        node_local: a directory of the user's alone on this node, should the cache directory not be writable here.
    """
    out = dict(env)
    if package is None or env.get(PREFIX) or is_compiled(package):
        return out
    if not env.get(FORBIDS) and os.access(package / _ALWAYS.parent, os.W_OK):
        return out  # Python leaves it there
    for base in (cache_directory(), node_local):
        try:
            home = own_directory(base, "bytecode")
            place = home / environment_name(package)
            place.mkdir(mode=0o700, exist_ok=True)
            os.utime(place)
        except OSError as e:
            log.info("no bytecode in %s (%s)", base, e.strerror)
            continue
        _forget(home)
        out.pop(FORBIDS, None)
        return out | {PREFIX: str(place)}
    return out


def is_compiled(package: Path) -> bool:
    """Whether a vLLM has bytecode beside its sources that Python takes: of the module that all engines import."""
    source = package / _ALWAYS
    try:
        status = source.stat()
        for file in (source.parent / "__pycache__").glob(f"{source.stem}.*.pyc"):
            with file.open("rb") as f:
                head = f.read(16)  # a number of the version, flags, the source's time and size
            flags, time, size = (int.from_bytes(head[i : i + 4], "little") for i in (4, 8, 12))
            if flags & _HASHED or (time, size) == (int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF):
                return True
    except OSError:
        pass
    return False


def environment_name(package: Path) -> str:
    """A name for an environment by what is installed in it: images may have one path, and one time for all files."""
    names = sorted(p.name for p in package.parent.glob("*.dist-info"))
    version = b""
    with contextlib.suppress(OSError):
        version = (package / "_version.py").read_bytes()
    return digest("environment", str(package), names, version.hex())[:16]


def _forget(home: Path) -> None:
    """Remove the bytecode of environments that were not used for longest."""
    with contextlib.suppress(OSError):  # another engine does the same
        kept = sorted((p for p in home.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True)
        for old in kept[MOST:]:
            shutil.rmtree(old, ignore_errors=True)
