"""Progress for people: a live table on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gra_hpc.launch.status import RoundStatus, RunStatus, collect
from gra_hpc.rundir import RunDir

EVERY_S = 2.0
LINE_S = 20.0


@contextmanager
def progress(run: RunDir) -> Iterator[Callable[[], None]]:
    """A function to call often while the run goes on; it looks at files only."""
    if sys.stdout.isatty():
        from rich.live import Live

        with Live(refresh_per_second=2) as live:
            yield _every(EVERY_S, lambda: live.update(table(collect(run, ask_slurm=False))))
            live.update(table(collect(run, ask_slurm=False)))
    else:
        last: list[str] = []

        def line() -> None:
            text = one_line(collect(run, ask_slurm=False))
            if [text] != last:
                print(text, flush=True)
                last[:] = [text]

        yield _every(LINE_S, line)


def _every(seconds: float, act: Callable[[], None]) -> Callable[[], None]:
    due = 0.0

    def watch() -> None:
        nonlocal due
        if time.monotonic() >= due:
            act()
            due = time.monotonic() + seconds

    return watch


def tokens_per_second(status: RoundStatus) -> dict[str, float]:
    """Answer tokens per second by role, over the shards that have run: the sum of their own rates."""
    rates: dict[str, float] = {}
    for s in status.shards:
        if s.at > s.started:
            for role, (_, completion) in s.tokens.items():
                rates[role] = rates.get(role, 0.0) + completion / (s.at - s.started)
    return rates


def one_line(status: RunStatus) -> str:
    """The round that is being worked on, in one line."""
    if not status.rounds:
        return "no round planned"
    r = next((r for r in status.rounds if not r.merged), status.rounds[-1])
    states = ", ".join(f"{n} {state}" for state, n in sorted(r.states.items()))
    running = [s for s in r.shards if s.state == "running"]
    phase = f"; {running[0].phase}: {running[0].calls} calls" if running else ""
    name = "stage 0 (describing seeds)" if r.round == 0 else f"round {r.round}"
    return f"{name}: shards {states}; {r.ledger.line()}{phase}"


def table(status: RunStatus) -> Any:
    """Rounds, and the shards that run or failed, as a rich table."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rounds = Table(title=status.run, title_justify="left", expand=False)
    for column in ("round", "shards", "published", "running", "queued", "other"):
        rounds.add_column(column, justify="right")
    for column in (
        "planned",
        "accepted",
        "rejected",
        "failed",
        "pending",
        "acceptance",
        "tokens/s",
        "merged",
    ):
        rounds.add_column(column, justify="right")
    for r in status.rounds:
        states, ledger = r.states, r.ledger
        other = len(r.shards) - sum(states.get(k, 0) for k in ("published", "running", "queued"))
        judged = ledger.accepted + ledger.rejected_total
        rounds.add_row(
            str(r.round), str(len(r.shards)), *(str(states.get(k, 0)) for k in ("published", "running", "queued")),
            str(other), str(ledger.planned), str(ledger.accepted), str(ledger.rejected_total),
            str(ledger.failed_total), str(ledger.pending),
            f"{ledger.accepted / judged:.0%}" if judged else "-",
            f"{sum(tokens_per_second(r).values()):,.0f}", "yes" if r.merged else "no",
        )  # fmt: skip
    shards = Table(expand=False)
    for column in (
        "round",
        "shard",
        "state",
        "phase",
        "done",
        "calls",
        "replayed",
        "attempts",
        "host",
        "message",
    ):
        shards.add_column(column)
    rows = 0
    for r in status.rounds:
        for s in r.shards:
            if s.state in ("running", "failed", "stopped") and rows < 20:
                rows += 1
                shards.add_row(
                    str(r.round), str(s.shard), s.state, s.phase, f"{s.done}/{s.planned}", str(s.calls),
                    str(s.replayed), str(s.attempts), s.host, s.message[:80],
                )  # fmt: skip
    parts: list[Any] = [rounds]
    if rows:
        parts.append(shards)
    if status.slurm:
        parts.append(Text(f"Slurm could not be asked ({status.slurm}): from files alone"))
    if status.release:
        parts.append(Text(f"release: {status.release}"))
    return Group(*parts)


def show(run: RunDir, watch: bool) -> None:
    """Print the status once, or keep it on the screen until the release is there or nothing runs any more."""
    from rich.console import Console

    status = collect(run)
    if not watch:
        Console(width=None if sys.stdout.isatty() else 160).print(table(status))
        return
    from rich.live import Live

    with Live(table(status), refresh_per_second=2) as live:
        while not status.release and any(
            s.state in ("running", "queued") for r in status.rounds for s in r.shards
        ):
            time.sleep(EVERY_S)
            status = collect(run)
            live.update(table(status))
