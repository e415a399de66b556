"""Progress for people: a live table on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gra_hpc.launch.slurm import index_ranges
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.run import Run
from gra_hpc.terminal import printable, say
from gra_hpc.views.status import RoundStatus, RunStatus, collect

EVERY_S = 2.0
LINE_S = 20.0


@contextmanager
def progress(run: Run) -> Iterator[Callable[[], None]]:
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
                say(text)
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
    """Answer tokens per second by role: now, of the shards that run; else over the time the round took."""
    running = [s for s in status.shards if s.state == "running" and s.at > s.started]
    rates: dict[str, float] = {}
    if running:
        for s in running:
            for role, (_, completion) in s.tokens.items():
                rates[role] = rates.get(role, 0.0) + completion / (s.at - s.started)
        return rates
    ran = [s for s in status.shards if s.at > s.started > 0]
    took = max((s.at for s in ran), default=0.0) - min((s.started for s in ran), default=0.0)
    for s in ran:
        for role, (_, completion) in s.tokens.items():
            rates[role] = rates.get(role, 0.0) + completion / took
    return rates


def duration(seconds: float) -> str:
    """A time for people: `45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def failure_lines(status: RunStatus) -> Iterator[str]:
    """What went wrong, by cause, with the log to read."""
    for r in status.rounds:
        for f in r.failures:
            who = "merge" if f.what == "merge" else f"shards {index_ranges(f.shards)}"
            if len(f.shards) == 1:
                who = f"shard {f.shards[0]}"
            if len(who) > 60:
                who = f"{len(f.shards)} shards, {f.shards[0]} and others"
            verb = "failed" if f.what == "merge" else f.what
            yield f"round {r.round}, {who} {verb}: {f.cause}" + (f" (log: {f.log})" if f.log else "")


def journal_lines(status: RunStatus) -> Iterator[str]:
    """What could not be read of the journals."""
    for r in status.rounds:
        corrupt, lost = sum(s.corrupt for s in r.shards), sum(s.lost for s in r.shards)
        if corrupt:
            yield f"round {r.round}: {corrupt} lines of journals, or whole ones, could not be used; asked again"
        if lost:
            yield f"round {r.round}: {lost} used answers are not in the calls tables: their lines were destroyed"


def next_command(status: RunStatus) -> str:
    """What to type now; empty when there is nothing but waiting."""
    states = {s.state for r in status.rounds for s in r.shards}
    if status.release:
        books = sum((r.ledger for r in status.rounds if r.round), Ledger())
        return f"gra inspect {status.run}{books.to_inspect}"
    if states & {"running", "queued"} or any(r.merging for r in status.rounds):
        return ""
    if status.copy_of:
        return f"gra status {status.copy_of}"
    if status.then:
        return status.then
    if any(r.failures for r in status.rounds):
        return f"gra logs {status.run}  then, when it is mended: gra resume {status.run}"
    if states <= {"waiting"}:
        return f"gra submit {status.run}"
    return f"gra resume {status.run}"


def one_line(status: RunStatus) -> str:
    """The round that is being worked on, in one line."""
    if not status.rounds:
        return "no round planned"
    r = next((r for r in status.rounds if not r.merged), status.rounds[-1])
    states = ", ".join(f"{n} {state}" for state, n in sorted(r.states.items()))
    running = [s for s in r.shards if s.state == "running"]
    phase = f"; {running[0].phase}: {running[0].calls} calls" if running else ""
    if r.eta_s is not None and r.ledger.pending:
        phase += f"; about {duration(r.eta_s)} left"
    name = "round 0 (describing seeds)" if r.round == 0 else f"round {r.round}"
    return f"{name}: shards {states}; {r.ledger.line()}{phase}"


def table(status: RunStatus) -> Any:
    """Rounds, and the shards that run or failed, as a rich table."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    def words(text: str, style: str = "") -> Text:
        return Text(printable(text), style)

    rounds = Table(title=words(status.run, "italic"), title_justify="left", expand=False)
    for column in ("round", "shards", "published", "running", "queued", "other"):
        rounds.add_column(column, justify="right")
    for column in ("planned", "accepted", "rejected", "failed", "pending", "acceptance", "tokens/s", "left", "merged"):
        rounds.add_column(column, justify="right")
    for r in status.rounds:
        states, ledger = r.states, r.ledger
        other = len(r.shards) - sum(states.get(k, 0) for k in ("published", "running", "queued"))
        ended = ledger.planned - ledger.pending
        rounds.add_row(
            str(r.round), str(len(r.shards)), *(str(states.get(k, 0)) for k in ("published", "running", "queued")),
            str(other), str(ledger.planned), str(ledger.accepted), str(ledger.rejected_total),
            str(ledger.failed_total), str(ledger.pending),
            f"{ledger.accepted / ended:.0%}" if ended else "-",
            f"{sum(tokens_per_second(r).values()):,.0f}", "-" if r.eta_s is None else duration(r.eta_s),
            "yes" if r.merged else r.merging or "no",
        )  # fmt: skip
    shards = Table(expand=False)
    for column in ("round", "shard", "state", "phase", "done", "calls", "replayed", "attempts", "host", "message"):
        shards.add_column(column)
    rows = 0
    for r in status.rounds:
        for s in r.shards:
            if s.state in ("running", "failed", "stopped") and rows < 20:
                rows += 1
                shards.add_row(
                    str(r.round), str(s.shard), s.state, words(s.phase), f"{s.done}/{s.planned}", str(s.calls),
                    str(s.replayed), str(s.attempts), words(s.host), words(s.message[:80]),
                )  # fmt: skip
    parts: list[Any] = [rounds]
    rates = tokens_per_second(status.rounds[-1]) if status.rounds else {}
    if rates:
        parts.append(words("tokens/s: " + ", ".join(f"{role} {n:,.0f}" for role, n in sorted(rates.items()))))
    if rows:
        parts.append(shards)
    parts += [words(line, style="red") for line in failure_lines(status)]
    parts += [words(line, style="yellow") for line in journal_lines(status)]
    if status.stopped:
        parts.append(words(status.stopped, style="red"))
    if status.copy_of:
        parts.append(words(f"this is a copy of {status.copy_of}, whose jobs run"))
    if status.slurm:
        parts.append(words(f"Slurm could not be asked ({status.slurm}): from files alone"))
    if status.release:
        parts.append(words(f"release: {status.release}"))
    if then := next_command(status):
        parts.append(words(f"next: {then}"))
    return Group(*parts)


def show(run: Run, watch: bool) -> None:
    """Print the status once, or keep it on the screen until the release is there or nothing runs any more."""
    from rich.console import Console

    status = collect(run)
    if not watch:
        Console(width=None if sys.stdout.isatty() else 160).print(table(status))
        return
    from rich.live import Live

    with Live(table(status), refresh_per_second=2) as live:
        while not status.release and any(
            r.merging or any(s.state in ("running", "queued") for s in r.shards) for r in status.rounds
        ):
            time.sleep(EVERY_S)
            status = collect(run)
            live.update(table(status))
