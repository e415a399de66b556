"""Samples of a release with their whole history, as the report shows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gra_hpc.records import mean_of, scores_of
from gra_hpc.release.inputs import read_slices
from gra_hpc.release.schema import OUTCOMES, REASONS, data_schema, rejects_schema, shown_before

SAMPLES = 20
"""Samples shown of each outcome."""
TEXT_CHARS = 4000
"""Longer texts of samples are cut."""


def samples(release: Path, facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The first samples of each outcome: files are in the order of a digest, so that these are drawn at random."""
    context = bool(facts["seeds"].get("contexts"))
    for outcome, pattern, names in (
        ("accepted", "data/train-*.parquet", data_schema(context=context).names),
        *((o, f"rejects/{o}-*.parquet", rejects_schema(context).names) for o in OUTCOMES),
    ):
        left = SAMPLES
        wanted = [n for n in names if context or n != "messages"]
        for path in sorted(release.glob(pattern)):
            for batch in read_slices(path, wanted, SAMPLES):
                for row in batch.slice(0, left).to_pylist():
                    left -= 1
                    yield _sample(row, outcome, facts)
                if not left:
                    break
            if not left:
                break


def _sample(row: dict[str, Any], outcome: str, facts: dict[str, Any]) -> dict[str, Any]:
    """A sample as the page shows it."""
    threshold = facts["config"]["method"]["accept_mean"]
    reviews = [
        {
            "who": r["member"],
            "model": r["model"],
            "comment": r["comment"],
            "scores": list(scores_of(r).values()),
            "mean": mean_of(r),
            "role": role,
        }
        for role, r in [
            *(("Reviewer", r) for r in row["reviews"]),
            *((("Adjudicator", row["verdict"]),) if row["verdict"] else ()),
        ]
    ]
    stage, reason = row.get("stage") or "", row.get("reason") or ""
    return {
        **{k: row[k] for k in ("id", "round", "seed_id", "domain", "score", "mean", "sd", "members", "models")},
        "keywords": row.get("keywords") or [],
        "summary": row.get("summary") or "",
        "outcome": outcome,
        "stage": stage,
        "reason": REASONS.get(stage, reason) if outcome == "dropped" else reason,
        "winner": row.get("winner"),
        "similarity": row.get("similarity"),
        "detail": row.get("detail") or "",
        "raw": _cut(row.get("raw") or ""),
        "context": _cut(shown_before(row)),
        "instruction": _cut(row["instruction"] or ""),
        "response": _cut(row["response"] or ""),
        "instruction_reviews": [
            {"who": r["member"], "comment": r["comment"], "scores": list(scores_of(r).items())}
            for r in row["instruction_reviews"]
        ],
        "reviews": [r | {"low": r["mean"] < threshold - 1e-9} for r in reviews],
    }


def _cut(text: str) -> str:
    if len(text) <= TEXT_CHARS:
        return text
    return f"{text[:TEXT_CHARS].rstrip()}\n[... {len(text) - TEXT_CHARS} more characters]"
