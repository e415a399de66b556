"""Every error a user can meet. One line each: where, what was expected, and the next command to type."""

from __future__ import annotations

from collections.abc import Sequence

from gra_hpc.terminal import printable


class GraError(Exception):
    """A failure with a cause that the user can act on.

    Args:
        what: file, line or key, and what was found and expected, in one line.
        then: the next command to type, or the file to read; empty if there is none.
    """

    exit_code = 1

    def __init__(self, what: str, then: str = "") -> None:
        super().__init__(what, then)
        self.what = printable(" ".join(str(what).split()))
        self.then = printable(" ".join(str(then).split()))

    def __str__(self) -> str:
        return f"{self.what} -> {self.then}" if self.then else self.what


class ConfigError(GraError):
    """A key, a type or a value in the configuration."""

    exit_code = 2


class SeedError(GraError):
    """The seed dataset cannot be read at all (single bad records are rejected, not raised)."""


class FingerprintError(GraError):
    """The run was planned with other settings than those now asked for."""


class EngineError(GraError):
    """An engine that cannot start, or that keeps dying. The message ends with its log's path."""


class EndedError(GraError):
    """A process of ours was ended from outside, by a signal: there is nothing to mend in what it was asked."""


class InterruptError(GraError):
    """Somebody ended, by Ctrl-C or SIGTERM, what was running here."""

    exit_code = 130


class OwnershipError(GraError):
    """A file or directory that decides what runs as this user, and that others may change."""


class StorageError(GraError):
    """Full disk, quota, or a file system that does not keep its promises."""


class IncompleteError(GraError):
    """Shards are missing, so that what depends on them cannot be made."""


class ReleaseError(GraError):
    """A release directory, pool or shard table that is not what its manifest says."""


class LaunchError(GraError):
    """Slurm, or the local executor, refused or cannot be reached."""


class SlurmDownError(LaunchError):
    """Slurm's controller does not answer. What is running goes on; files still tell what is done."""


def nearest(word: str, options: Sequence[str]) -> str:
    """`; did you mean X?`, or nothing."""
    import difflib

    close = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
