"""`gra decide RUN --sweep`: what other thresholds would accept and what the merge would keep of it, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.config.settings import MethodConfig
from gra_hpc.flows.domains import domains_of
from gra_hpc.judging.again import judged
from gra_hpc.judging.decisions import Outcome, outcomes
from gra_hpc.judging.scores import COLUMNS, Scores
from gra_hpc.records import ACCEPTED
from gra_hpc.release.inputs import Inputs, read_slices
from gra_hpc.release.shuffle import keys_of
from gra_hpc.run.run import Run
from gra_hpc.terminal import columns

STEP, AROUND = 0.25, 8
"""Thresholds are so far apart, and so many on either side of the one that the rest was given for."""
_BATCH = 65_536
NEVER, UNDECIDED, TAKEN = 0, 1, 2


@dataclass(frozen=True)
class Line:
    """One threshold."""

    accept_mean: float
    accepted: int
    undecided: int
    """Samples that need an answer that was never given."""
    kept: int
    """Accepted rows that the merge has kept as it is."""
    unmerged: int
    """Accepted rows that the merge has not seen, or dropped for a better row that would not be accepted."""
    domains: dict[str, int]
    """Accepted rows by domain."""


def sweep(run: Run, words: Sequence[str]) -> list[Line]:
    """A table of thresholds.

    Args:
        run: its rounds are all merged.
        words: other thresholds, as `again.judged` takes them; `accept_mean` among them is the middle of the table.

    Raises:
        ConfigError, IncompleteError: as `again.decide`.
    """
    method = judged(run, words).method
    inputs = Inputs.of_run(run)
    steps = np.arange(-AROUND, AROUND + 1) * STEP + method.accept_mean
    means = sorted({float(m) for m in steps if 1 <= m <= 10} | {run.config.method.accept_mean})
    names = [*domains_of(method), ""]
    ids, domains, fates = [], [], []
    for table in (t for r in inputs.rounds for t in r.tables()):
        for rows in read_slices(table.samples, ["id", "domain", *COLUMNS], _BATCH):
            scores = Scores.of(rows)
            fate = np.stack([_fate(scores, replace(method, accept_mean=m), rows["status"]) for m in means], axis=1)
            counts = fate.any(axis=1)
            ids.append(keys_of(rows["id"])[counts])
            named = pc.fill_null(pc.index_in(rows["domain"], pa.array(names)), len(names) - 1)
            domains.append(named.to_numpy()[counts])
            fates.append(fate[counts])
    key = np.concatenate(ids) if ids else np.empty(0, np.uint64)
    order = np.argsort(key)
    key, domain = key[order], np.concatenate(domains)[order]
    fate = np.concatenate(fates)[order]
    kept = _kept(inputs, key)
    loser, winner = _dropped(inputs, key)
    fixed, lines = winner < 0, []
    for i, mean in enumerate(means):
        taken = fate[:, i] == TAKEN
        beaten = np.zeros(len(key), bool)
        of = np.bincount(domain[taken], minlength=len(names))
        beaten[loser[fixed | taken[winner]]] = True  # a seed stays whatever the threshold
        lines.append(
            Line(
                accept_mean=mean,
                accepted=int(taken.sum()),
                undecided=int((fate[:, i] == UNDECIDED).sum()),
                kept=int((taken & kept).sum()),
                unmerged=int((taken & ~kept & ~beaten).sum()),
                domains={n: int(c) for n, c in zip(names, of, strict=True) if c},
            )
        )
    return lines


def _fate(scores: Scores, method: MethodConfig, status: pa.ChunkedArray) -> np.ndarray:
    """Whether each row is accepted, undecided, or neither: int8 [n]."""
    found = outcomes(scores, method)
    out = np.full(len(found), NEVER, np.int8)
    out[np.isin(found, (Outcome.accepted, Outcome.settled))] = TAKEN
    out[np.isin(found, (Outcome.no_verdict, Outcome.no_review))] = UNDECIDED
    out[(found == Outcome.as_stored) & pc.equal(status, ACCEPTED).to_numpy()] = TAKEN
    return out


def _places(key: np.ndarray, ids: pa.ChunkedArray) -> np.ndarray:
    """Where ids are among sorted keys; -1 for another's, or none."""
    known = ids.is_valid().to_numpy()
    out = np.full(len(ids), -1, np.int64)
    wanted = keys_of(ids.filter(pa.array(known)))
    at = np.minimum(np.searchsorted(key, wanted), max(0, len(key) - 1))
    out[known] = np.where(key[at] == wanted, at, -1) if len(key) else -1
    return out


def _kept(inputs: Inputs, key: np.ndarray) -> np.ndarray:
    """Which samples the merges kept, bool [keys]."""
    out = np.zeros(len(key), bool)
    for r in inputs.rounds:
        for rows in read_slices(r.file("kept.parquet"), ["id"], _BATCH):
            at = _places(key, rows["id"])
            out[at[at >= 0]] = True
    return out


def _dropped(inputs: Inputs, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Samples that the merges dropped for what they are beside others, and for which: places among the keys; -1: for a
    seed or a benchmark. Those beyond a target were beaten by nobody."""
    losers, winners = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for r in inputs.rounds:
        for rows in read_slices(r.file("dropped.parquet"), ["id", "step", "winner"], _BATCH):
            at, by = _places(key, rows["id"]), _places(key, rows["winner"])
            beaten = (at >= 0) & pc.not_equal(rows["step"], "surplus").to_numpy()
            losers.append(at[beaten])
            winners.append(by[beaten])
    return np.concatenate(losers), np.concatenate(winners)


def shown(lines: Sequence[Line], planned: float, most: int) -> Iterator[str]:
    """The table for people.

    Args:
        planned: the run's own `accept_mean`.
        most: rows that the merges may keep in all; 0: all that survive.
    """
    yield f"{'accept_mean':>12}  {'accepted':>9}  {'undecided':>9}  {'the merge keeps':>19}"
    for line in lines:
        high = line.kept + line.unmerged
        high = max(line.kept, min(high, most)) if most else high
        keeps = f"{line.kept}" if high == line.kept else f"{line.kept} to {high}"
        yield f"{_threshold(line, planned)}  {line.accepted:>9}  {line.undecided:>9}  {keeps:>19}"
    yield from _by_domain(lines, planned)
    yield "* as the run was planned"
    if any(line.undecided for line in lines):
        yield "undecided: the Reviewers disagree and the Adjudicator was not asked, or not all"
        yield "    Reviewers were"
    if any(line.unmerged for line in lines):
        yield "the merge keeps A to B: B - A rows were not compared with the others, for they"
        yield "    were not accepted"


def _threshold(line: Line, planned: float) -> str:
    return f"{line.accept_mean:>11g}{'*' if line.accept_mean == planned else ' '}"


def _by_domain(lines: Sequence[Line], planned: float) -> Iterator[str]:
    """What is accepted of each domain, in tables that fit the terminal."""
    left = list(dict.fromkeys(d for line in lines for d in line.domains))
    while left:
        widths: dict[str, int] = {}
        for d in left:
            w = max(7, len(d or "(none)"))
            if widths and 12 + sum(widths.values()) + 2 * len(widths) + w + 2 > columns():
                break
            widths[d] = w
        left = left[len(widths) :]
        yield f"{'accepted of:':>12}" + "".join(f"  {d or '(none)':>{w}}" for d, w in widths.items())
        for line in lines:
            cells = "".join(f"  {line.domains.get(d, 0):>{w}}" for d, w in widths.items())
            yield f"{_threshold(line, planned)}{cells}"


def table(run: Run, words: Sequence[str]) -> Iterator[str]:
    """`sweep`, as lines for people."""
    method = run.config.method
    yield from shown(sweep(run, words), method.accept_mean, method.target_accepted * method.rounds)
