"""Samples to look at before their shard is published, out of the journals of the attempts that are at it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from gra_hpc.errors import GraError
from gra_hpc.flows.tools import is_use
from gra_hpc.records import Call
from gra_hpc.run.attempts import earlier
from gra_hpc.run.directory import round_name
from gra_hpc.run.journal import decode
from gra_hpc.run.publish import is_published
from gra_hpc.run.rounds import current_round
from gra_hpc.run.run import Run
from gra_hpc.terminal import word

LOOKED_AT = 4 << 20
"""So many bytes of a journal's end are read."""


def newest_calls(journal: Path) -> list[Call]:
    """The calls at the end of a journal, in its order; what cannot be read is left out."""
    try:
        with journal.open("rb") as f:
            start = max(0, os.fstat(f.fileno()).st_size - LOOKED_AT)
            f.seek(start)
            lines = f.read().split(b"\n")[1 if start else 0 : -1]
    except OSError:
        return []
    calls = []
    for line in lines:
        try:
            calls.append(decode(line))
        except ValueError:
            continue
    return calls


def furthest(run: Run, number: int) -> tuple[int, list[Call]]:
    """The unpublished sample of a round for which most was answered, the newest among equals, with its shard.

    Raises:
        GraError: nothing was answered for a shard that is not published.
    """
    found: tuple[tuple[int, float], int, list[Call]] | None = None
    for shard in (run.round(number).shard(s) for s in range(run.shards_of(number))):
        if is_published(shard):
            continue
        samples: dict[str, list[Call]] = {}
        for attempt in earlier(shard):
            for call in newest_calls(attempt.journal):
                samples.setdefault(call.key.split("/")[0], []).append(call)
        for calls in samples.values():
            rank = len({c.key for c in calls}), max(c.at for c in calls)
            if found is None or rank > found[0]:
                found = rank, shard.number, calls
    if found is None:
        raise GraError(f"{round_name(number)}: no answer that is not published yet", f"gra status {word(run.path)}")
    return found[1], found[2]


def lines(run: Run, round_: int | None = None) -> Iterator[str]:
    """That sample, as it stands: what was answered, in the order of the answers.

    Args:
        round_: none: the one that is being worked on.

    Raises:
        GraError: as `furthest`.
    """
    number = current_round(run) if round_ is None else round_
    shard, calls = furthest(run, number)
    calls = list({c.key: c for c in sorted(calls, key=lambda c: c.at)}.values())
    id_ = calls[0].key.split("/")[0]
    yield f"sample {id_}: {round_name(number)} shard {shard}, which is not published yet"
    for call in calls:
        _, step, seat, attempt = call.key.split("/")
        again = f", try {int(attempt) + 1}" if attempt != "0" else ""
        cut = "" if call.finish == "stop" else f" ({call.finish})"
        yield f"{step}:" if is_use(call.key) else f"{step}, by {call.member} as {seat}{again}{cut}:"
        yield from (f"    {line}" for line in call.text.splitlines() or [""])
