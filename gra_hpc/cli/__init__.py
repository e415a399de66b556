"""`gra`: the commands. Each imports what it needs when it runs, so that `gra --help` is instant on a login node."""

from __future__ import annotations

import errno
import gc
import os
import sys
from typing import Any, NoReturn, cast

import typer

from gra_hpc.cli import configuration, experiments, flows, releases, runs, sites, training
from gra_hpc.cli.application import app
from gra_hpc.errors import GraError, InterruptError
from gra_hpc.terminal import complain, say, show_traceback

__all__ = ["app", "configuration", "experiments", "flows", "main", "releases", "runs", "sites", "training"]


ClickException = cast(type[Exception], typer.BadParameter.__mro__[2])
"""What the command line's parser raises; typer keeps its own copy of click."""


INTERRUPTED = InterruptError.exit_code


def main() -> None:
    """Run a command; whatever is wrong becomes one line and an exit code.

    An error that is nobody's mistake but ours keeps its traceback.
    """
    gc.freeze()  # what is imported stays: collections need not look at it
    sys.excepthook = show_traceback
    os.environ["PYTHONSAFEPATH"] = "1"  # for all we start: the current directory's owner runs nothing as us
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # what the parser makes of Ctrl-C
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except GraError as e:
        _fail(str(e), e.exit_code)
    except ClickException as e:
        _fail(_usage(e), 2)
    except KeyboardInterrupt:
        _fail("interrupted -> type it again", INTERRUPTED)
    except typer.Abort:
        _fail("aborted", INTERRUPTED)
    except BrokenPipeError:
        os._exit(141)  # nobody reads: not even the interpreter's last flush may complain
    except OSError as e:
        if e.errno is None or os.environ.get("GRA_DEBUG"):
            raise
        then = _ADVICE.get(e.errno, "GRA_DEBUG=1 shows where")
        _fail(f"{e.filename or 'input or output'}: {os.strerror(e.errno)} -> {then}", 1)


_ADVICE = {
    errno.EACCES: "choose a directory of yours",
    errno.EPERM: "choose a directory of yours",
    errno.EROFS: "choose a directory that can be written to",
    errno.EEXIST: "a file is where a directory should be",
    errno.ENOTDIR: "a file is where a directory should be",
    errno.ENOENT: "check the path",
    errno.ENOSPC: "make room: df -h, df -i",
    errno.EDQUOT: "make room: quota -s",
    errno.EFBIG: "make room: ulimit -f",
    errno.EMFILE: "raise the limit of open files: ulimit -n 4096",
}


_INSTEAD = {
    "report": "the report is RUN/release/report.html, made with the release -> gra status RUN",
    "card": "the card is RUN/release/README.md, made with the release -> gra status RUN",
    "run": "a run is planned, then submitted -> gra plan RUN --preset PRESET, then gra submit RUN",
    "start": "a planned run is started by submit -> gra submit RUN",
    "stop": "jobs of a run are ended by cancel -> gra cancel RUN",
    "list": "status lists the runs in a directory -> gra status DIR",
}
"""Words that people try for a command, and what does what they mean."""


def _fail(text: str, code: int) -> NoReturn:
    complain(f"gra: {text}")
    sys.exit(code)


def _usage(e: Any) -> str:
    """A parser's complaint in one line, with what to type."""
    if type(e).__name__ == "NoArgsIsHelpError":
        say(e.format_message(), lines=True, to=sys.stderr)
        sys.exit(2)
    text = " ".join(e.format_message().split()).rstrip(".")
    context = getattr(e, "ctx", None)
    for word, instead in _INSTEAD.items():
        if text.casefold().startswith(f"no such command '{word}'"):
            return f"no such command '{word}': {instead}"
    return f"{text[:1].lower()}{text[1:]} -> {context.command_path if context else 'gra'} --help"
