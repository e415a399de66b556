"""What a merged round has shown of its members, for the next round's roles (`standing.py`)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.config.settings import MethodConfig
from gra_hpc.flows.domains import domains_of
from gra_hpc.flows.gra.standing import GOLD, REFUSAL, ROLES, Counts, Standing, added
from gra_hpc.flows.registry import After
from gra_hpc.flows.scores import means
from gra_hpc.records import FAILED, criteria_of

log = logging.getLogger(__name__)

_COLUMNS = ("status", "domain", "generator", "instruction_reviews", "reviews", "verdict", "mean")


def standing_after(after: After) -> dict[str, Any]:
    """The standing of the round after one that is being merged: its counts, and those before."""
    members, method = list(after.config.committee), after.config.method
    domains = domains_of(method)
    parts = [Standing.from_dict(dict(after.before)).counts] if after.before else []
    gold = {GOLD: {d: dict(by) for d, by in answers.items()}} if (answers := after.gold()) else {}
    parts.append(_counted(after, members, domains) | gold)
    counts = {
        role: {d: found for d in (*domains, "") if (found := added(part.get(role, {}).get(d, {}) for part in parts))}
        for role in (*ROLES, GOLD, REFUSAL)
    }
    standing = Standing.of(counts, members, method.explore, [method.seed, after.round], domains)
    for member, share in standing.concentrated():
        log.warning("round %d: %s is to generate %.0f%% of it", after.round + 1, member, 100 * share)
    return standing.to_dict()


def _counted(after: After, members: list[str], domains: tuple[str, ...]) -> dict[str, dict[str, Counts]]:
    """Successes and trials of one merge, by role and domain."""
    method = after.config.method
    trials, agreed, asked, refused, first, good = (np.zeros((len(domains), len(members)), np.int64) for _ in range(6))
    for batch in after.samples(_COLUMNS):
        judged = pa.Table.from_batches([batch]).filter(pc.not_equal(batch["status"], FAILED))
        domain, writer = _codes(judged["domain"], domains), _codes(judged["generator"], members)
        _count(trials, domain, writer)
        who, row, same = _agreements(judged, members, method)
        _count(asked, domain[row], who)
        _count(agreed, domain[row[same]], who[same])
        for who, row, no in _first_seats(judged, members, method):
            _count(first, domain[row], who)
            _count(refused, domain[row[no]], who[no])
    for batch in after.kept(("domain", "generator")):
        _count(good, _codes(batch["domain"], domains), _codes(batch["generator"], members))
    return {
        "generator": _by_domain(good, trials, members, domains),
        "reviewer": _by_domain(agreed, asked, members, domains),
        REFUSAL: _by_domain(refused, first, members, domains),
    }


def _agreements(rows: pa.Table, members: list[str], method: MethodConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each review of a row that all Reviewers scored, beside others: its member, its row, and whether its verdict is
    the Adjudicator's, or else that of the other Reviewers' mean."""
    full = rows["mean"].is_valid().to_numpy()
    lists = rows["reviews"].combine_chunks()
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    reviews, row = pc.list_flatten(lists), np.repeat(np.arange(len(rows)), counts)
    if not len(reviews):
        return row, row, row.astype(bool)
    mean = means(reviews)
    total = np.bincount(row, mean, len(rows))
    others = (total[row] - mean) / np.maximum(counts[row] - 1, 1)
    verdict = means(rows["verdict"].combine_chunks())
    settled = ~np.isnan(verdict)[row]
    right = np.where(settled, verdict[row] >= method.adjudicate_mean - 1e-9, others >= method.accept_mean - 1e-9)
    same = (mean >= method.accept_mean - 1e-9) == right
    counted = full[row] & ((counts[row] > 1) | settled)
    return _codes(reviews.field("member"), members)[counted], row[counted], same[counted]


def _first_seats(
    rows: pa.Table, members: list[str], method: MethodConfig
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The answers of the first seats, about instructions and about responses: member, row, and whether it is a no (a
    zero; a mean below the threshold)."""
    for name in ("instruction_reviews", "reviews"):
        lists = rows[name].combine_chunks()
        there = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False) > 0
        row = np.flatnonzero(there)
        found = pc.list_element(lists.take(pa.array(row)), 0)
        if name == "reviews":
            no = means(found) < method.accept_mean - 1e-9
        else:
            scores = [pc.struct_field(found, c).to_numpy(zero_copy_only=False) for c in criteria_of(found.type)]
            no = np.min(scores, axis=0) == 0 if len(row) else np.zeros(0, bool)
        yield _codes(found.field("member"), members), row, no


def _codes(values: Any, names: Any) -> np.ndarray:
    """Position of each value among `names`; -1 for others."""
    found = pc.fill_null(pc.index_in(values, pa.array(list(names), pa.string())), -1)
    found = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    return np.array(found.to_numpy(zero_copy_only=False), np.int64)


def _count(into: np.ndarray, domain: np.ndarray, member: np.ndarray) -> None:
    ok = (domain >= 0) & (member >= 0)
    np.add.at(into, (domain[ok], member[ok]), 1)


def _by_domain(good: np.ndarray, trials: np.ndarray, members: list[str], domains: tuple[str, ...]) -> dict[str, Counts]:
    return {
        d: {m: (float(good[i, j]), float(trials[i, j])) for j, m in enumerate(members) if trials[i, j]}
        for i, d in enumerate(domains)
        if trials[i].any()
    }
