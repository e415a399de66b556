"""A sample for people: scores, roles, texts, and what everybody said of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gra_hpc.conversation import shown
from gra_hpc.flows.gra.committee import highest_mean
from gra_hpc.flows.gra.synthesize import STOPPED
from gra_hpc.records import CONTEXT, THOUGHTS, mean_of, scores_of
from gra_hpc.terminal import block


def lines(row: Mapping[str, Any]) -> Iterator[str]:
    """All of a row of `records.sample_schema` but how it ended."""
    if row["mean"] is not None:
        yield f"scores: mean {row['mean']:.2f}, sd {row['sd']:.2f}, ranked by {row['score']:.2f}"
    if row["reason"] == STOPPED:
        best = highest_mean([mean_of(r) for r in row["reviews"]], len(row["reviewers"]))
        yield f"scores: mean at most {best:.2f}, after {len(row['reviews'])} of {len(row['reviewers'])} Reviewers"
    yield (
        f"generator {row['generator']}; reviewers {', '.join(row['reviewers'])};"
        f" adjudicator {row['adjudicator'] or 'none needed'}"
    )
    yield f"keywords: {', '.join(row['keywords'])}"
    if row.get(CONTEXT):
        yield from block("conversation", shown(row[CONTEXT]))
    yield from block("instruction", row["instruction"])
    if row.get(THOUGHTS):
        yield from block("thoughts before the response", row[THOUGHTS])
    yield from block("response", row["response"])
    if row["summary"]:
        yield f"summary: {row['summary']}"
    for r in row["instruction_reviews"]:
        yield f"instruction review by {r['member']}: {_scores(r)}  {r['comment']}"
    for r in row["reviews"]:
        yield f"review by {r['member']}: {_scores(r)}  {r['comment']}"
    if row["verdict"]:
        yield f"verdict of {row['verdict']['member']}: {_scores(row['verdict'])}  {row['verdict']['comment']}"


def _scores(review: Mapping[str, Any]) -> str:
    return ", ".join(f"{c} {score}" for c, score in scores_of(review).items())
