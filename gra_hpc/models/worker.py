"""A model in a process of its own, so that who asks it imports no torch: `python -m MODULE DIRECTORY ARGUMENTS...`.

The question lies in the directory as JSON, the answer is what the worker leaves beside it. It asks no network, and dies
with its parent.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from gra_hpc.errors import EndedError, GraError
from gra_hpc.log_tail import ANY, tail, telling
from gra_hpc.models.hub import OFFLINE
from gra_hpc.workers import child_environment, die_with_parent, leave_signals_to_parent

_QUESTION = "question.json"
_QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


@contextmanager
def answered(
    module: str, question: Any, *arguments: str, what: str, then: str = "", python: str = "", **environment: str
) -> Iterator[Path]:
    """Ask a worker, and read what it answers from its directory, which is gone afterwards.

    Args:
        module: what runs; its `main` begins with `begin`.
        question: anything that JSON can say.
        arguments: its command line, behind the directory.
        what: is done, for the message about a failure.
        then: what to do about one.
        python: an interpreter that has what the module imports; empty: this one.
        environment: variables beside this process's own.

    Raises:
        GraError: the worker failed; the message holds its last words.
    """
    with tempfile.TemporaryDirectory(prefix="gra-model-") as temporary:
        directory = Path(temporary)
        parent = 0 if python else os.getpid()  # another interpreter may be a script, which is then the parent
        (directory / _QUESTION).write_bytes(orjson.dumps([parent, question]))
        with (directory / "log").open("wb") as words:
            code = subprocess.run(
                [python or sys.executable, "-m", module, temporary, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=subprocess.STDOUT,
                env=child_environment(**OFFLINE, **_QUIET, **environment),
                cwd=directory,  # an older Python of the engines' does not know -P
                check=False,
            ).returncode
        if code < 0:
            by = signal.Signals(-code).name
            more = " (out of memory?)" if by == "SIGKILL" else ""
            raise EndedError(f"{what}: its process was ended by {by}{more}", "gra resume RUN; no answer is lost")
        if code:
            lines = tail(directory / "log", 40)
            if absent := telling(lines, r"No module named '(\w+)"):
                absent = absent.replace("_", "-")
                raise GraError(f"{what}: {absent} is not installed", "pip install 'gra-hpc[cpu]'  (or [gpu])")
            raise GraError(f"{what} failed (exit code {code}): {telling(lines, ANY) or 'no output'}", then)
        yield directory


def begin(directory: str) -> Any:
    """For a worker, before it imports anything large: what it is asked."""
    leave_signals_to_parent()
    try:
        parent, question = orjson.loads((Path(directory) / _QUESTION).read_bytes())
    except FileNotFoundError:  # who asked has gone, and the directory with it
        sys.exit(1)
    die_with_parent(parent)
    os.environ.update(OFFLINE)
    return question
