"""What the installed vLLM is and knows: its version, its server's arguments, its parsers of thoughts.

Clusters are slow to move, so nothing is assumed of the newest one. vLLM's own files are read, not run: `--help` takes a
minute from a shared disk. They name each argument, as text or as a field; what is named nowhere is not known.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gra_hpc.config.engine_args import option
from gra_hpc.errors import EngineError, nearest
from gra_hpc.workers import passed

OLDEST = (0, 19)
"""The oldest whose server has every argument that engines are started with."""
_VERSION = re.compile(r"^(?:__version__ = )?version = ['\"]([^'\"]+)", re.MULTILINE)
_NAMED = re.compile(r"""["']--([a-z][a-z0-9-]+)["']|^    ([a-z][a-z0-9_]*): """, re.MULTILINE)
_PARSER = re.compile(r"""^    ["']([a-z0-9_]+)["']: \(|register_module\(\s*["']([a-z0-9_]+)["']""", re.MULTILINE)
_FIND = "import importlib.util as u; s = u.find_spec('vllm'); print((s and s.origin) or '')"
_FIND_S = 120


@dataclass(frozen=True)
class Installed:
    """One vLLM. What its files did not say is empty: then nothing is known, and nothing refused."""

    version: str
    options: frozenset[str] = frozenset()
    """Arguments of its server and engines, as vLLM writes them; more may be among them."""
    parsers: frozenset[str] = frozenset()
    """Reasoning parsers."""

    @property
    def too_old(self) -> bool:
        """Whether it is older than `OLDEST`."""
        found = re.match(r"(\d+)\.(\d+)", self.version)
        return found is not None and (int(found[1]), int(found[2])) < OLDEST

    def knows(self, name: str) -> bool:
        """Whether its server takes an argument: also `no-enable-prefix-caching`, and `compilation-config.level`."""
        base = option(name).split(".", 1)[0]
        return not self.options or len(base) < 2 or base in self.options or base.removeprefix("no-") in self.options


def installed(python: str = "") -> Installed | None:
    """The vLLM of an environment; none where there is none.

    Args:
        python: of the environment; empty: this one's.
    """
    found = package(python)
    return None if found is None else _read(found)


def check(python: str, given: Iterable[object], parser: str, name: str) -> None:
    """Refuse a vLLM that is too old, and what it does not know: it would say so only when engines have begun to start.

    Args:
        python: as `installed`.
        given: arguments of the user's (`engine_args`).
        parser: of thoughts; empty: none is asked for.
        name: of the model.

    Raises:
        EngineError: one line, with what helps.
    """
    vllm = installed(python)
    if vllm is None:
        return
    where = f"vLLM {vllm.version}{f' ({python})' if python else ''}"
    if vllm.too_old:
        least = ".".join(map(str, OLDEST))
        raise EngineError(
            f"{where}: engines need {least} or newer",
            f"pip install 'vllm>={least}' in an environment of its own, and engine.python=ITS_PYTHON",
        )
    for key in given:
        if not vllm.knows(str(key)):
            close = nearest(option(key), sorted(vllm.options))
            raise EngineError(
                f"models.{name}.engine_args.{key}: {where} has no such argument{close}",
                f"models.{name}.engine_args.{key}=null, or another vLLM: engine.python=ITS_PYTHON",
            )
    if parser and vllm.parsers and parser not in vllm.parsers:
        raise EngineError(
            f"model {name}: {where} has no reasoning parser {parser}{nearest(parser, sorted(vllm.parsers))}",
            f"models.{name}.engine_args.reasoning_parser=NAME (frozen: a new plan), or another vLLM: engine.python",
        )


@functools.cache
def package(python: str) -> Path | None:
    """The directory of vLLM's package in an environment, found without importing it; none where there is none."""
    if not python:
        spec = importlib.util.find_spec("vllm")
        return Path(spec.origin).parent if spec and spec.origin else None
    try:
        done = subprocess.run(
            [python, "-c", _FIND], capture_output=True, text=True, timeout=_FIND_S, check=False, env=passed(os.environ)
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = done.stdout.strip()
    return Path(found).parent if done.returncode == 0 and found else None


@functools.cache
def _read(package: Path) -> Installed:
    """What a package's files say; what cannot be read is not known."""
    version = _VERSION.search(_text(package / "_version.py"))
    sources = [package / "engine" / "arg_utils.py", *sorted(package.glob("entrypoints/**/cli_args.py"))]
    options = {a or b.replace("_", "-") for text in map(_text, sources) for a, b in _NAMED.findall(text)}
    parsers = {a or b for file in sorted(package.glob("reasoning/*.py")) for a, b in _PARSER.findall(_text(file))}
    whole = {"model", "uds", "served-model-name"} <= options  # else the files are others than we know
    return Installed(version[1] if version else "?", frozenset(options if whole else ()), frozenset(parsers))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
