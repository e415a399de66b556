"""What a merge counts of its members' work, for the next round's roles (`flows/gra/standing.py`)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.config.settings import MethodConfig
from gra_hpc.flows.gra.standing import ROLES, Counts, Standing, added
from gra_hpc.parquet import read_batches
from gra_hpc.records import CRITERIA, DOMAINS, FAILED
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.run import Run

_COLUMNS = ("status", "domain", "generator", "reviews", "verdict", "mean")
_BATCH = 16_384


def standing_after(run: Run, number: int, tables: Iterable[Path], kept: Path) -> dict[str, Any]:
    """The standing of the round after one that is being merged: its counts, and those before.

    Args:
        tables: the samples of the shards that the merge takes in.
        kept: the rows that it keeps.
    """
    members, method = list(run.config.committee), run.config.method
    before = RoundPlan.load(run.round(number)).standing
    parts = [Standing.from_dict(before).counts] if before else []
    parts.append(_counted(tables, kept, members, method))
    counts = {
        role: {d: found for d in DOMAINS if (found := added(part.get(role, {}).get(d, {}) for part in parts))}
        for role in ROLES
    }
    return Standing.of(counts, members, method.explore, [method.seed, number]).to_dict()


def _counted(
    tables: Iterable[Path], kept: Path, members: list[str], method: MethodConfig
) -> dict[str, dict[str, Counts]]:
    """Successes and trials of one merge, by role and domain."""
    shape = (len(DOMAINS), len(members))
    trials, agreed, asked = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for path in tables:
        for batch in read_batches(path, _COLUMNS, _BATCH):
            judged = pa.Table.from_batches([batch]).filter(pc.not_equal(batch["status"], FAILED))
            domain, writer = _codes(judged["domain"], DOMAINS), _codes(judged["generator"], members)
            _count(trials, domain, writer)
            who, row, same = _agreements(judged, members, method)
            _count(asked, domain[row], who)
            _count(agreed, domain[row[same]], who[same])
    good = np.zeros(shape, np.int64)
    for batch in read_batches(kept, ("domain", "generator"), _BATCH):
        _count(good, _codes(batch["domain"], DOMAINS), _codes(batch["generator"], members))
    return {"generator": _by_domain(good, trials, members), "reviewer": _by_domain(agreed, asked, members)}


def _agreements(rows: pa.Table, members: list[str], method: MethodConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each review of a row that all Reviewers scored, beside others: its member, its row, and whether its verdict is
    the Adjudicator's, or else that of the other Reviewers' mean."""
    full = rows["mean"].is_valid().to_numpy()
    lists = rows["reviews"].combine_chunks()
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    reviews, row = pc.list_flatten(lists), np.repeat(np.arange(len(rows)), counts)
    if not len(reviews):
        return row, row, row.astype(bool)
    mean = _means(reviews)
    total = np.bincount(row, mean, len(rows))
    others = (total[row] - mean) / np.maximum(counts[row] - 1, 1)
    verdict = _means(rows["verdict"].combine_chunks())
    settled = ~np.isnan(verdict)[row]
    right = np.where(settled, verdict[row] >= method.adjudicate_mean - 1e-9, others >= method.accept_mean - 1e-9)
    same = (mean >= method.accept_mean - 1e-9) == right
    counted = full[row] & ((counts[row] > 1) | settled)
    return _codes(reviews.field("member"), members)[counted], row[counted], same[counted]


def _means(reviews: pa.Array) -> np.ndarray:
    """Mean of the six scores of each review; NaN for none."""
    parts = [pc.fill_null(pc.struct_field(reviews, c), 0).to_numpy(zero_copy_only=False) for c in CRITERIA]
    there = reviews.is_valid().to_numpy(zero_copy_only=False)
    return np.where(there, np.sum(parts, axis=0, dtype=float) / len(CRITERIA), np.nan)


def _codes(values: Any, names: Any) -> np.ndarray:
    """Position of each value among `names`; -1 for others."""
    found = pc.fill_null(pc.index_in(values, pa.array(list(names), pa.string())), -1)
    found = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    return np.array(found.to_numpy(zero_copy_only=False), np.int64)


def _count(into: np.ndarray, domain: np.ndarray, member: np.ndarray) -> None:
    ok = (domain >= 0) & (member >= 0)
    np.add.at(into, (domain[ok], member[ok]), 1)


def _by_domain(good: np.ndarray, trials: np.ndarray, members: list[str]) -> dict[str, Counts]:
    return {
        d: {m: (float(good[i, j]), float(trials[i, j])) for j, m in enumerate(members) if trials[i, j]}
        for i, d in enumerate(DOMAINS)
        if trials[i].any()
    }
