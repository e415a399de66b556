"""Progress while one looks: a status that is kept up to date on a terminal, a line now and then in a pipe or a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gra_hpc.errors import GraError, IncompleteError
from gra_hpc.run.run import Run
from gra_hpc.terminal import printable, say, shown, tell
from gra_hpc.views.status import RunStatus, collect, queue_once
from gra_hpc.views.status_lines import lines, listing, one_line
from gra_hpc.whereabouts import runs_in

EVERY_S = 2.0
LINE_S = 20.0


@contextmanager
def progress(run: Run) -> Iterator[Callable[[], None]]:
    """A function to call often while the run goes on; it looks at files only."""
    if sys.stdout.isatty():
        from rich.live import Live

        with Live(refresh_per_second=2) as live:
            yield _every(EVERY_S, lambda: live.update(screen(collect(run, ask_slurm=False))))
            live.update(screen(collect(run, ask_slurm=False)))
    else:
        yield _every(LINE_S, _teller(lambda: collect(run, ask_slurm=False)))


def _teller(look: Callable[[], RunStatus]) -> Callable[[], None]:
    """Says where it stands, in lines that fit, if that is another text than before."""
    last: list[str] = []

    def line() -> None:
        text = one_line(look())
        if [text] != last:
            tell(text)
            last[:] = [text]

    return line


def _every(seconds: float, act: Callable[[], None]) -> Callable[[], None]:
    due = 0.0

    def watch() -> None:
        nonlocal due
        if time.monotonic() >= due:
            act()
            due = time.monotonic() + seconds

    return watch


def screen(status: RunStatus, details: bool = False) -> Any:
    """The lines of a status as rich keeps them on a screen."""
    from rich.text import Text

    return Text("\n".join(printable(line) for line in lines(status, details)), no_wrap=True, overflow="fold")


def show(run: Run, watch: bool, details: bool = False) -> None:
    """Print the status once, or go on until the release is there or nothing runs any more."""
    status = collect(run)
    if watch and goes_on(status):
        if sys.stdout.isatty():
            from rich.live import Live

            with Live(screen(status, details), refresh_per_second=2) as live:
                while goes_on(status):
                    time.sleep(EVERY_S)
                    status = collect(run)
                    live.update(screen(status, details))
            return
        tell = _every(LINE_S, _teller(lambda: status))
        while goes_on(status):
            tell()
            time.sleep(EVERY_S)
            status = collect(run)
    for line in lines(status, details):
        say(line)


@contextmanager
def waited_for(run: Run) -> Iterator[None]:
    """Of what is not there yet because the run's jobs are at it: there is nothing to do but wait.

    Raises:
        IncompleteError: as it was raised; where jobs run, with that.
    """
    try:
        yield
    except IncompleteError as e:
        if not goes_on(collect(run)):
            raise
        raise IncompleteError(f"{e.what}; its jobs run: wait", f"gra status {shown(run.path)} --watch") from None


def goes_on(status: RunStatus) -> bool:
    """Whether its jobs, or a merge, wait or run."""
    return not status.release and any(
        r.merging or any(s.state in ("running", "queued") for s in r.shards) for r in status.rounds
    )


def several(directory: Path) -> Sequence[RunStatus]:
    """The runs that lie in a directory, by name, with one look at Slurm's queue for all; none: it holds no run."""
    if (directory / "plan.json").exists() or not directory.is_dir():
        return ()
    found, ask = [], queue_once()
    for path in runs_in(directory):
        try:
            found.append(collect(Run.to_look_at(path), ask=ask))
        except GraError as e:
            found.append(RunStatus(str(path.absolute()), "", [], "", stopped=e.what, then=e.then))
    return found


def show_several(statuses: Sequence[RunStatus]) -> None:
    """Print a line for each of several runs."""
    for line in listing(statuses):
        say(line)
