"""What a check found: ok, a warning or a failure, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from gra_hpc.errors import GraError

OK, WARNING, FAILURE = "ok", "warning", "failure"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    level: str
    """ok, warning (a run may work, but slower or with a trap) or failure (it will not)."""
    what: str
    then: str = ""
    """What to do."""
    waits: bool = False
    """A failure that keeps nobody from examining a compute node."""

    def __str__(self) -> str:
        return f"{self.level:8} {self.what}" + (f" -> {self.then}" if self.then else "")


Check = Callable[[], Iterable[Finding]]


def ok(what: str) -> Finding:
    """All is well."""
    return Finding(OK, what)


def warning(what: str, then: str) -> Finding:
    """May hurt."""
    return Finding(WARNING, what, then)


def failure(what: str, then: str) -> Finding:
    """Will hurt."""
    return Finding(FAILURE, what, then)


def examine(checks: Iterable[Check]) -> Iterator[Finding]:
    """Run checks; one that breaks is a finding, not the end."""
    for check in checks:
        try:
            yield from check()
        except GraError as e:
            yield failure(e.what, e.then)
        except Exception as e:  # the doctor must go on, whatever a strange machine does
            name = getattr(check, "__name__", None) or getattr(getattr(check, "func", None), "__name__", "check")
            yield warning(f"{name}: could not be checked ({type(e).__name__}: {e})", "report it with this line")


def worst(findings: Iterable[Finding]) -> str:
    """The most serious level."""
    levels = {f.level for f in findings}
    return next((level for level in (FAILURE, WARNING) if level in levels), OK)
