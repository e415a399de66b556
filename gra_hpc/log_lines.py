"""Log records as lines that may be shown."""

from __future__ import annotations

import logging

from gra_hpc.terminal import printable


class Formatter(logging.Formatter):
    """Log records of one line each; only our own traceback has more."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: object) -> str:
        return printable(super().formatException(ei), lines=True)  # type: ignore[arg-type]


def log_to_stderr(form: str) -> None:
    """Log lines of a process of its own, on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter(form, "%H:%M:%S"))
    logging.basicConfig(handlers=[handler])
