"""The committee's rule (`flows/gra/committee.py`) over columns: what other thresholds make of scores that are there.

Nobody is asked. Where a decision needs an answer that was never given (an Adjudicator's, or a Reviewer's of a sample on
which the committee stopped early), the sample is undecided, and counts as failed with that reason.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.config.settings import MethodConfig, Settle
from gra_hpc.judging.scores import Scores
from gra_hpc.records import ACCEPTED, FAILED, REJECTED

FIRST_WORDS = "summary taken from the instruction"
"""Reason of an accepted sample without a summary of its own (`flows/gra/synthesize.accept`)."""


class Outcome(IntEnum):
    """What becomes of a sample."""

    as_stored = 0
    """It ended before its response was scored, or cannot be decided otherwise."""
    accepted = 1
    settled = 2
    """Accepted by the Adjudicator, or by the majority."""
    below = 3
    """Rejected: the mean is below the threshold."""
    overruled = 4
    """Rejected by the Adjudicator."""
    outvoted = 7
    """Rejected by the majority."""
    no_verdict = 5
    """Undecided: the Adjudicator was never asked."""
    no_review = 6
    """Undecided: not all Reviewers were asked."""


_ENDS = {
    Outcome.accepted: (ACCEPTED, "", ""),
    Outcome.settled: (ACCEPTED, "", ""),
    Outcome.below: (REJECTED, "response_review", "mean below the threshold"),
    Outcome.overruled: (REJECTED, "adjudication", "mean below the threshold"),
    Outcome.outvoted: (REJECTED, "adjudication", "majority below the threshold"),
    Outcome.no_verdict: (FAILED, "adjudication", "the Adjudicator was not asked"),
    Outcome.no_review: (FAILED, "response_review", "not all Reviewers were asked"),
}
"""Status, stage and reason."""


def outcomes(scores: Scores, method: MethodConfig) -> np.ndarray:
    """What the thresholds of a method make of some samples: `Outcome`, int8 [n]."""
    out = np.full(len(scores), Outcome.as_stored, np.int8)
    scored = ~np.isnan(scores.mean)
    passes = scored & at_least(scores.mean, method.accept_mean)
    agrees = passes & at_least(method.accept_sd, scores.sd)
    disputed = passes & ~agrees
    out[scored & ~passes] = Outcome.below
    out[agrees] = Outcome.accepted
    if method.settle is Settle.majority:
        votes = at_least(scores.reviews, method.accept_mean).sum(axis=1)
        most = 2 * votes > (~np.isnan(scores.reviews)).sum(axis=1)
        out[disputed & most] = Outcome.settled
        out[disputed & ~most] = Outcome.outvoted
    else:
        asked = disputed & ~np.isnan(scores.verdict)
        kept = asked & at_least(scores.verdict, method.adjudicate_mean)
        out[disputed & ~asked] = Outcome.no_verdict
        out[disputed & scores.unanswered] = Outcome.as_stored
        out[asked] = Outcome.overruled
        out[kept] = Outcome.settled
    out[scores.stopped & at_least(scores.bound, method.accept_mean)] = Outcome.no_review
    return out


def at_least(value: np.ndarray | float, bound: np.ndarray | float) -> np.ndarray:
    """`committee.at_least`, elementwise; NaN is below everything."""
    return (value >= np.asarray(bound)) | (np.abs(value - np.asarray(bound)) <= 1e-9)


def decided(rows: pa.Table, method: MethodConfig) -> pa.Table:
    """The same samples as a run with these thresholds would have left them.

    An accepted sample that had no summary, for it was rejected, gets its instruction's first words; the merge embeds
    it. What was asked stays counted: `calls` and tokens are not changed.

    Args:
        rows: of `records.sample_schema`, a batch at a time.
    """
    table = rows.combine_chunks()
    scores = Scores.of(table)
    out = outcomes(scores, method)
    moved = pa.array(out != Outcome.as_stored)
    accepted = np.isin(out, (Outcome.accepted, Outcome.settled))
    fresh = accepted & pc.not_equal(table["status"], ACCEPTED).to_numpy()
    columns: dict[str, pa.Array] = {}
    for i, name in enumerate(("status", "stage", "reason")):
        words = pa.array([_ENDS[Outcome(k)][i] if k else "" for k in range(len(Outcome))], pa.string())
        columns[name] = words.take(pa.array(out.astype(np.int64)))
    kept = pa.array(accepted & ~fresh)
    columns["reason"] = pc.if_else(kept, _one(table, "reason"), columns["reason"])
    columns["reason"] = pc.if_else(pa.array(fresh), FIRST_WORDS, columns["reason"])
    columns["raw"] = pa.repeat("", len(table))
    settles = np.isin(out, (Outcome.settled, Outcome.overruled)) & (method.settle is Settle.adjudicator)
    by_verdict = pa.array(settles)
    columns["score"] = pa.array(np.where(settles, scores.verdict, scores.mean), from_pandas=True)
    columns["summary"] = pc.if_else(pa.array(accepted), _summaries(table, fresh, method.summary_words), "")
    for name, value in columns.items():
        columns[name] = pc.if_else(moved, value, _one(table, name))
    verdict, never = _one(table, "verdict"), pa.array(out == Outcome.as_stored)
    keeps = pc.or_(by_verdict, never)
    columns["verdict"] = _where(keeps, verdict)
    if method.policy.drawn:
        columns["adjudicator"] = pc.if_else(pc.or_(keeps, pc.invert(_late(table))), _one(table, "adjudicator"), "")
    columns["embedding"] = _where(pc.equal(columns["status"], ACCEPTED), _one(table, "embedding"))
    for name, value in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(name), value.cast(table.schema.field(name).type))
    return table


def _one(table: pa.Table, name: str) -> pa.Array:
    column = table[name]
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _late(table: pa.Table) -> pa.Array:
    """Whether the Adjudicator was chosen among those who had another role, after the reviews: nobody else was left."""
    lists, adjudicator = _one(table, "reviewers"), _one(table, "adjudicator")
    of = pc.list_parent_indices(lists)
    same = _bools(pc.fill_null(pc.equal(pc.list_flatten(lists), adjudicator.take(of)), False))
    found = np.bincount(of.to_numpy(), weights=same, minlength=len(table)) > 0
    return pa.array(found | _bools(pc.fill_null(pc.equal(_one(table, "generator"), adjudicator), False)))


def _where(which: pa.Array, values: pa.Array) -> pa.Array:
    """Values where `which` holds, else null."""
    return values.take(pa.array(np.arange(len(values)), mask=~_bools(which)))


def _bools(array: pa.Array) -> np.ndarray:
    found: np.ndarray = array.to_numpy(zero_copy_only=False)
    return found


def _summaries(table: pa.Table, fresh: np.ndarray, words: int) -> pa.Array:
    """The summaries that are there; of samples that are accepted now, their instructions' first words."""
    found = _one(table, "summary").to_pylist()
    instructions = _one(table, "instruction")
    for i in np.flatnonzero(fresh).tolist():
        found[i] = " ".join(instructions[i].as_py().split()[:words])
    return pa.array(found, pa.string())
