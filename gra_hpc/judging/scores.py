"""What the committee said of samples, as columns of numbers: all that a decision rests on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.flows.scores import means
from gra_hpc.records import FAILED, REJECTED

COLUMNS = ("status", "stage", "mean", "sd", "reviews", "reviewers", "verdict")
"""Of a samples table (`records.sample_schema`)."""


@dataclass(frozen=True)
class Scores:
    """Of n samples. NaN: there is none."""

    mean: np.ndarray
    """Over all Reviewers, float64 [n]; NaN unless all of them scored."""
    sd: np.ndarray
    """Population standard deviation over them, float64 [n]."""
    reviews: np.ndarray
    """Each Reviewer's mean, in seat order, float64 [n, seats]; NaN beyond the last."""
    verdict: np.ndarray
    """The Adjudicator's mean, float64 [n]."""
    stopped: np.ndarray
    """Whether the committee stopped before all Reviewers had scored, bool [n]."""
    bound: np.ndarray
    """The largest mean that a stopped sample could have reached, float64 [n]."""
    unanswered: np.ndarray
    """Whether an Adjudicator was asked and gave no usable answer, bool [n]."""

    @classmethod
    def of(cls, rows: pa.Table) -> Scores:
        """Of rows that have `COLUMNS`, a batch at a time."""
        table = rows.combine_chunks()
        verdicts = means(_array(table["verdict"]))
        counts = _lengths(table["reviews"])
        seats = _lengths(table["reviewers"])
        given = means(pc.list_flatten(_array(table["reviews"])))
        reviews = np.full((len(table), max(1, int(seats.max(initial=0)))), np.nan)
        at = np.arange(len(given)) - np.repeat(np.cumsum(counts) - counts, counts)
        reviews[np.repeat(np.arange(len(table)), counts), at] = given
        ended = pc.equal(table["stage"], "response_review").to_numpy() & pc.equal(table["status"], REJECTED).to_numpy()
        stopped = ended & (counts < seats)
        best = np.nansum(reviews, axis=1) + 10 * (seats - counts)
        return cls(
            mean=table["mean"].to_numpy().astype(float),
            sd=table["sd"].to_numpy().astype(float),
            reviews=reviews,
            verdict=verdicts,
            stopped=stopped,
            bound=np.where(stopped, best / np.maximum(seats, 1), np.nan),
            unanswered=(
                pc.equal(table["stage"], "adjudication").to_numpy() & pc.equal(table["status"], FAILED).to_numpy()
            ),
        )

    def __len__(self) -> int:
        return len(self.mean)


def _lengths(lists: pa.ChunkedArray) -> np.ndarray:
    return pc.fill_null(pc.list_value_length(_array(lists)), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def _array(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
