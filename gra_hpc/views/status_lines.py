"""A run's status for people: one short block a round, in lines that fit a terminal of 80 columns."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gra_hpc.engines.start_phases import told
from gra_hpc.launch.slurm import index_ranges
from gra_hpc.run.attempts import WAITED
from gra_hpc.run.directory import round_name
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.merged import decided, not_kept
from gra_hpc.run.target import Target, not_needed
from gra_hpc.terminal import counted, shown, wrapped
from gra_hpc.views.shard_status import ShardStatus
from gra_hpc.views.states import Failure
from gra_hpc.views.status import RoundStatus, RunStatus

BY_THEMSELVES = (
    "cancelled", "preempted", "its node failed", "put back in the queue", "ended without a word", "killed (SIGKILL)",
    "stopped by SIGTERM", "ended by SIGTERM", "drained ahead of", "the round before was merged anew",
)  # fmt: skip
"""Causes of ends, as they begin, after which nothing is to be mended."""
_WORDS = {"waiting": "not begun", "unneeded": "not needed"}
_ORDER = ("published", "running", "starting", "queued", "waiting", "unneeded", "stopped", "failed")
LABEL = 13
"""Width of the words before a line."""


def lines(status: RunStatus, details: bool = False) -> Iterator[str]:
    """The whole of it.

    Args:
        details: also every shard, and the rates by role.
    """
    yield shown(status.run)
    for r in status.rounds:
        yield f"{round_name(r.round)}: {_standing(r)}"
        for label, text in _block(r, details, status):
            line = f"  {label:{LABEL - 2}}{text}"
            yield from wrapped(line, LABEL) if label else [line]  # a command is there to be copied, whole
        if details:
            yield from _shards(r)
            yield from _workers(r)
    for n in range(len(status.rounds), status.planned_rounds):
        yield f"{round_name(n + (not status.rounds or status.rounds[0].round))}: planned by the merge before it"
    if status.stopped:
        yield from wrapped(status.stopped, 2)
    if status.copy_of:
        yield from wrapped(f"this is a copy of {shown(status.copy_of)}, whose jobs run", 2)
    if status.slurm:
        yield from wrapped(f"Slurm could not be asked ({status.slurm}): from files alone", 2)
    if status.release:
        yield f"release: {shown(status.release)}"
        yield from _short(status)
        yield f"report:  {shown(status.release)}/report.html"
    if then := next_command(status):
        yield f"next: {then}"


def _short(status: RunStatus) -> Iterator[str]:
    """What the rows of a release lack to the target, and what gets them; `next` says it where shards are missing."""
    target = Target.of((r.target, r.kept) for r in status.rounds)
    if not target.short or any(r.absent for r in status.rounds):
        return
    yield f"target: {target}"
    if advice := target.advice(sum(r.ledger.planned - r.ledger.pending for r in status.rounds if r.round)):
        yield from wrapped(f"        {advice}", 8)


def _standing(r: RoundStatus) -> str:
    """Where a round stands, in a word or two."""
    states = shard_states(r.shards)
    if r.merged:
        there = len(r.shards) - len(r.absent)
        return f"merged in part: {there} of {len(r.shards)} shards" if r.absent else "merged"
    if r.merging == "running":
        return "merging"
    for state in ("running", "starting", "queued"):
        if states[state]:
            return state
    if states["published"] + states["unneeded"] == len(r.shards):
        return "to be merged" if not any(f.what == "merge" for f in r.failures) else "merge failed"
    if states["failed"]:
        return "failed"
    return "unfinished, and nothing runs" if states["stopped"] or states["published"] else "not begun"


def shard_states(shards: Sequence[ShardStatus]) -> Counter[str]:
    """Shards by state; those whose engines have answered nothing yet are starting."""
    return Counter("starting" if s.state == "running" and s.phase == "starting" else s.state for s in shards)


def _block(r: RoundStatus, details: bool, run: RunStatus) -> Iterator[tuple[str, str]]:
    states = shard_states(r.shards)
    ledger, done = r.ledger, r.ledger.planned - r.ledger.pending
    if r.round == 0:
        yield "seeds", f"{done:,} of {ledger.planned:,}: {ledger.accepted:,} described, {_lost(ledger)}"
    else:
        share = f" ({ledger.accepted / done:.0%})" if done else ""
        yield "candidates", f"{done:,} of {ledger.planned:,}: {ledger.accepted:,} accepted{share}, {_lost(ledger)}"
    if earlier := sum(s.earlier for s in r.shards):
        yield "", f"{earlier:,} more by earlier attempts, whose answers are read again, not asked"
    if r.kept or r.dropped:
        kept = f"{r.kept:,} kept of {r.kept + decided(r.dropped):,} accepted"
        yield "rows", "; ".join([kept, *not_kept(r.dropped)])
    if r.target:
        yield "target", str(Target(r.target, r.kept)) if r.merged and not r.unread else f"{r.target:,} rows"
    if causes := sum((Counter(s.causes) for s in r.shards), Counter()):
        first = causes.most_common(2)
        others = causes.total() - sum(n for _, n in first)
        why = "; ".join([*(f"{n} {cause}" for cause, n in first), *([f"{others} otherwise"] if others else [])])
        yield "failed", why
        yield "", f"gra inspect {shown(run.run)} --round {r.round} --status failed"
    named = ", ".join(f"{states[s]} {_WORDS.get(s, s)}" for s in _ORDER if states[s])
    yield "shards", f"{len(r.shards)}: {named}" if not r.merged or states["published"] < len(r.shards) else named
    if r.unneeded:
        yield "", _unneeded(r, states["published"])
    if r.workers and not r.merged:
        yield "workers", ", ".join(f"{n} {state}" for state, n in sorted(r.workers.items()))
    if golden := sum(s.gold for s in r.shards):
        yield "gold", f"{golden:,} answer{'s' * (golden != 1)} to gold questions; right or wrong: gra status --roles"
    if rate := _rate(r, run.simulated):
        yield "rate" if not r.merged else "took", rate
    if waits := _waits(r):
        yield "engines", waits
    if r.eta_s is not None and ledger.pending:
        yield "left", f"about {duration(r.eta_s)}, until {_clock(r.eta_s)}"
    if r.merging == "waiting" and states["published"] + states["unneeded"] < len(r.shards):
        yield "merge", "waits for its shards"
    if r.absent:
        which = index_ranges(r.absent)
        yield "without", f"shards {which if len(which) < 60 else f'{r.absent[0]} and others'}, to make them: see next"
    for f in r.failures:
        yield f.what, f"failed: {_cause(f)}" if f.what == "merge" else f"{_who(f)}: {_cause(f)}"
    for text in journal_problems(r):
        yield "journals", text
    if details and (starts := _starts(r)):
        yield "starts", starts
    if details and (rates := tokens_per_second(r)):
        yield "tokens/s", ", ".join(f"{role} {n:,.0f}" for role, n in sorted(rates.items()))


def _unneeded(r: RoundStatus, published: int) -> str:
    """Why some shards are not begun; what a merge says is certain."""
    if r.merged and not r.absent:
        return f"{not_needed(r.unneeded, len(r.shards))}: the target of {r.target:,} was met"
    return f"no more are begun: {published} published seem to meet the target of {r.target:,}"


def _lost(ledger: Ledger) -> str:
    return f"{ledger.rejected_total:,} rejected, {ledger.failed_total:,} failed"


def _rate(r: RoundStatus, simulated: bool) -> str:
    """What is made in an hour, and what it has cost; nothing of a round that has not begun."""
    rate, tokens = candidates_per_hour(r), sum(tokens_per_second(r).values())
    parts = []
    if rate and not r.merged:
        parts.append(f"{rate:,.0f} {'seeds' if r.round == 0 else 'candidates'} an hour")
    if tokens:
        parts.append(f"{tokens:,.0f} tokens/s")
    if parts and simulated:
        parts[-1] += " (simulated)"
    if r.gpu_hours or r.node_hours:
        parts.append(f"{_hours(r.gpu_hours)} GPU-hours" if r.gpu_hours else f"{_hours(r.node_hours)} node-hours")
    return ", ".join(parts) + (" so far" if parts and not r.merged else "")


def _waits(r: RoundStatus) -> str:
    """What the engines of a round's workers did not work in full; nothing where that is under a second."""
    total = sum((Counter(mine) for mine in r.by_worker.values()), Counter[str]())
    lost = sum(total[what] for what in WAITED)
    if lost < 1:
        return ""
    return f"{_waited(total)}; {lost / max(total['seconds'], lost):.0%} of the workers' time"


def _waited(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{what} {duration(seconds[what])}" for what in WAITED if seconds.get(what, 0.0) >= 0.5)


def _starts(r: RoundStatus) -> str:
    """What a start of an engine took, by phase; nothing of rounds in which none has told."""
    total = sum((Counter(s.starts) for s in r.shards), Counter[str]())
    count = total.pop("starts", 0)
    if not count or not total:
        return ""
    each = {name: seconds / count for name, seconds in total.items()}
    mean = f"{duration(sum(each.values()))}{' each' if count > 1 else ''}"
    return f"{counted(int(count), 'engine')}, {mean}: {told(each)}".rstrip(": ")


def _workers(r: RoundStatus) -> Iterator[str]:
    for name, mine in sorted(r.by_worker.items()):
        text = f"  worker {name}: {counted(int(mine['shards']), 'shard')}, {duration(mine['seconds'])}"
        yield from wrapped(text + (f"; {waited}" if (waited := _waited(mine)) else ""), 14)


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 0.1 else "under 0.1"


def _clock(seconds: float) -> str:
    """The time of day in so many seconds, with the day if that is another one."""
    then, now = time.localtime(time.time() + seconds), time.localtime()
    return time.strftime("%H:%M" if then[:3] == now[:3] else "%a %d %b, %H:%M", then)


def _shards(r: RoundStatus) -> Iterator[str]:
    for s in r.shards:
        state = _WORDS.get(s.state, s.state)
        phase = "" if s.phase == s.state or s.state == "published" else s.phase
        text = f"  shard {s.shard:<5}{state:10}{phase:11}{f'{s.done}/{s.planned}':>11}{counted(s.calls, 'call'):>14}"
        text += f", {s.replayed} replayed" if s.replayed else ""
        text += f", attempt {s.attempts}" if s.attempts > 1 else ""
        text += f"  {s.host}" if s.host else ""
        yield from wrapped(text.rstrip(), 14)
        if s.message and s.state not in ("published", "running"):
            yield from wrapped(f"{'':14}{s.message}", 14)


def candidates_per_hour(r: RoundStatus) -> float:
    """At the present rate of the shards that run; 0 where none does, or nothing is made yet."""
    return sum(3600 * s.done / s.seconds for s in r.shards if s.state == "running" and s.seconds > 0)


def tokens_per_second(status: RoundStatus) -> dict[str, float]:
    """Answer tokens per second by role: now, of the shards that run, by clocks that do not step; else over the time the
    round took, by those of its machines, but no less than its longest shard took."""
    running = [s for s in status.shards if s.state == "running" and s.lasted > 0]
    rates: dict[str, float] = {}
    if running:
        for s in running:
            for role, (_, completion) in s.tokens.items():
                rates[role] = rates.get(role, 0.0) + completion / s.lasted
        return rates
    ran = [s for s in status.shards if s.at > s.started > 0]
    took = max((s.at for s in ran), default=0.0) - min((s.started for s in ran), default=0.0)
    took = max([took, *(s.lasted for s in ran)])
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


def _who(f: Failure) -> str:
    """Which shards ended for a cause."""
    who = f"shards {index_ranges(f.shards)}"
    if len(f.shards) == 1:
        who = f"shard {f.shards[0]}"
    return f"{len(f.shards)} shards, {f.shards[0]} and others" if len(who) > 60 else who


def _cause(f: Failure) -> str:
    """The cause, and the log to read."""
    return f.cause + (f" (log: {shown(f.log)})" if f.log else "")


def failure_lines(status: RunStatus) -> Iterator[str]:
    """What went wrong, by cause, with the log to read."""
    for r in status.rounds:
        for f in r.failures:
            who = "merge failed" if f.what == "merge" else f"{_who(f)} {f.what}"
            yield f"{round_name(r.round)}, {who}: {_cause(f)}"


def journal_problems(r: RoundStatus) -> Iterator[str]:
    """What could not be read of the journals of a round."""
    corrupt, lost = sum(s.corrupt for s in r.shards), sum(s.lost for s in r.shards)
    if corrupt:
        yield f"{counted(corrupt, 'line')} of journals, or whole ones, could not be used; asked again"
    if lost:
        yield f"{lost} used answers are not in the calls tables: their lines were destroyed"


def journal_lines(status: RunStatus) -> Iterator[str]:
    """The same of all rounds."""
    for r in status.rounds:
        yield from (f"{round_name(r.round)}: {text}" for text in journal_problems(r))


def next_command(status: RunStatus) -> str:
    """What to type now; empty when there is nothing but waiting."""
    states = {s.state for r in status.rounds for s in r.shards}
    run = shown(status.run)
    if status.release and status.then:
        return status.then
    if status.release:
        if any(r.absent for r in status.rounds):
            return f"gra resume {run} merge.allow_partial=false  (what is missing; or as it is: gra inspect {run})"
        books = sum((r.ledger for r in status.rounds if r.round), Ledger())
        return f"gra inspect {run}{books.to_inspect}"
    if states & {"running", "queued"} or any(r.merging for r in status.rounds):
        return ""
    if status.copy_of:
        return f"gra status {shown(status.copy_of)}"
    if status.then:
        return status.then
    if any(_to_mend(f) for r in status.rounds for f in r.failures):
        return f"gra logs {run}  then, when it is mended: gra resume {run}"
    if states <= {"waiting"}:
        return f"gra submit {run}"
    return f"gra resume {run}"


def _to_mend(f: Failure) -> bool:
    """Whether an end has a cause that would end the next attempt too."""
    return f.what == "failed" or not f.cause.startswith(BY_THEMSELVES)


def one_line(status: RunStatus) -> str:
    """The round that is being worked on, in one line."""
    if not status.rounds:
        return "no round planned"
    r = next((r for r in status.rounds if not r.merged), status.rounds[-1])
    states = shard_states(r.shards)
    named = ", ".join(f"{states[s]} {_WORDS.get(s, s)}" for s in _ORDER if states[s])
    calls = sum(s.calls for s in r.shards)  # of published ones too: the count goes up alone
    said = f"; {counted(calls, 'call')}" if calls and states["running"] else ""
    merging = "merging, " if r.merging == "running" else ""
    ledger = r.ledger.line() if r.round else r.ledger.line().replace(" accepted ", " described ")
    text = f"{round_name(r.round)}: {merging}shards {named}; {ledger}{said}"
    return text + (f"; about {duration(r.eta_s)} left" if r.eta_s is not None and r.ledger.pending else "")


def summary(status: RunStatus) -> str:
    """A whole run in a few words, for a list of several."""
    if status.release:
        part = " (merged in part)" if any(r.absent for r in status.rounds) else ""
        if any(r.unread for r in status.rounds):
            return f"released{part}"
        rows = sum(r.kept for r in status.rounds)
        accepted = rows + sum(decided(r.dropped) for r in status.rounds)
        target = Target.of((r.target, r.kept) for r in status.rounds)
        lacks = f"; target {target}" if target.short else ""
        return (
            f"released{part}: {rows:,} of {accepted:,} accepted" if accepted else f"released{part}: no rows"
        ) + lacks
    if status.copy_of:
        return f"a copy of {shown(status.copy_of)}, whose jobs run"
    if status.stopped:
        return status.stopped
    r = next((r for r in status.rounds if not r.merged), None)
    if r is None:
        return "all rounds merged, no release yet"
    done = r.ledger.planned - r.ledger.pending
    named = "accepted" if r.round else "described"
    text = f"{round_name(r.round)}, {_standing(r)}: {done:,} of {r.ledger.planned:,}, {r.ledger.accepted:,} {named}"
    return text + (f"; about {duration(r.eta_s)} left" if r.eta_s is not None and r.ledger.pending else "")


def listing(statuses: Sequence[RunStatus]) -> Iterator[str]:
    """Several runs, one line each."""
    width = min(32, max((len(Path(s.run).name) for s in statuses), default=0))
    for s in statuses:
        yield from wrapped(f"{Path(s.run).name:{width}}  {summary(s)}", width + 2)
    if trouble := next((s.slurm for s in statuses if s.slurm), ""):
        yield from wrapped(f"Slurm could not be asked ({trouble}): from files alone", 2)
