"""What a merge counts of its members' work, for the next round's roles (`flows/gra/standing.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.config.settings import MethodConfig
from gra_hpc.flows.domains import domains_of
from gra_hpc.flows.gra.standing import GOLD, REFUSAL, ROLES, Counts, Standing, added
from gra_hpc.parquet import read_batches
from gra_hpc.records import CRITERIA, FAILED, INSTRUCTION_CRITERIA
from gra_hpc.run.directory import ShardDir
from gra_hpc.run.gold import Counted, GoldQuestions
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.run import Run
from gra_hpc.run.shard_manifest import ShardManifest

_COLUMNS = ("status", "domain", "generator", "instruction_reviews", "reviews", "verdict", "mean")
_BATCH = 16_384


def standing_after(
    run: Run, number: int, tables: Iterable[Path], kept: Path, shards: Iterable[ShardDir]
) -> dict[str, Any]:
    """The standing of the round after one that is being merged: its counts, and those before.

    Args:
        tables: the samples of the shards that the merge takes in.
        kept: the rows that it keeps.
        shards: these shards.
    """
    members, method = list(run.config.committee), run.config.method
    domains = domains_of(method)
    before = RoundPlan.load(run.round(number)).standing
    parts = [Standing.from_dict(before).counts] if before else []
    parts.append(_counted(tables, kept, members, method) | _gold(run, shards))
    counts = {
        role: {d: found for d in (*domains, "") if (found := added(part.get(role, {}).get(d, {}) for part in parts))}
        for role in (*ROLES, GOLD, REFUSAL)
    }
    return Standing.of(counts, members, method.explore, [method.seed, number], domains).to_dict()


def by_chance(run: Run, shards: Iterable[ShardDir]) -> list[str]:
    """Members that are right about the gold questions of some shards no more often than by chance."""
    found = _answered(run, shards)
    return [name for name, marks in sorted(found.members.items()) if marks.at_chance] if found else []


def _answered(run: Run, shards: Iterable[ShardDir]) -> Counted | None:
    """Answers to gold questions in the manifests of shards; none where the run has no such questions."""
    questions = GoldQuestions.of(run, run.plan)
    if questions is None:
        return None
    answers = (answer for s in shards for answer in ShardManifest.load(s).gold)
    return Counted.of(questions, answers, run.config.method.accept_mean)


def _gold(run: Run, shards: Iterable[ShardDir]) -> dict[str, dict[str, Counts]]:
    """Right answers to gold questions, and answers, by the questions' domains."""
    answered = _answered(run, shards)
    if answered is None:
        return {}
    found = answered.by_domain
    return {GOLD: {d: {m: (float(n.right), float(n.asked)) for m, n in by.items()} for d, by in found.items()}}


def _counted(
    tables: Iterable[Path], kept: Path, members: list[str], method: MethodConfig
) -> dict[str, dict[str, Counts]]:
    """Successes and trials of one merge, by role and domain."""
    domains = domains_of(method)
    trials, agreed, asked, refused, first, good = (np.zeros((len(domains), len(members)), np.int64) for _ in range(6))
    for path in tables:
        for batch in read_batches(path, _COLUMNS, _BATCH):
            judged = pa.Table.from_batches([batch]).filter(pc.not_equal(batch["status"], FAILED))
            domain, writer = _codes(judged["domain"], domains), _codes(judged["generator"], members)
            _count(trials, domain, writer)
            who, row, same = _agreements(judged, members, method)
            _count(asked, domain[row], who)
            _count(agreed, domain[row[same]], who[same])
            for who, row, no in _first_seats(judged, members, method):
                _count(first, domain[row], who)
                _count(refused, domain[row[no]], who[no])
    for batch in read_batches(kept, ("domain", "generator"), _BATCH):
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
    mean = _means(reviews)
    total = np.bincount(row, mean, len(rows))
    others = (total[row] - mean) / np.maximum(counts[row] - 1, 1)
    verdict = _means(rows["verdict"].combine_chunks())
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
            no = _means(found) < method.accept_mean - 1e-9
        else:
            scores = [pc.struct_field(found, c).to_numpy(zero_copy_only=False) for c in INSTRUCTION_CRITERIA]
            no = np.min(scores, axis=0) == 0 if len(row) else np.zeros(0, bool)
        yield _codes(found.field("member"), members), row, no


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


def _by_domain(good: np.ndarray, trials: np.ndarray, members: list[str], domains: tuple[str, ...]) -> dict[str, Counts]:
    return {
        d: {m: (float(good[i, j]), float(trials[i, j])) for j, m in enumerate(members) if trials[i, j]}
        for i, d in enumerate(domains)
        if trials[i].any()
    }
