"""Measurements of a run for its report: exact sums from manifests, distributions from a fair part of the shards.

A shard's slice is every S-th seed, so that whole shards make a fair sample. They are read in batches; all that is kept
is counts of integers, so that the same tables give the same figures, in any order and on any number of cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.flows.domains import domains_of
from gra_hpc.flows.tools import SEAT
from gra_hpc.labels.agreement import Coincidences
from gra_hpc.parquet import open_table
from gra_hpc.records import ACCEPTED, CRITERIA, DOMAINS, FAILED, REJECTED, criteria_of, digest
from gra_hpc.release.inputs import Inputs, Table, read_slices
from gra_hpc.release.report.bias import Bias

SAMPLED = 400_000
"""Samples read for the distributions."""
HALVES = 21
"""Bins of scores: 0, 0.5, ..., 10."""
SD_BINS = 20
"""Bins of a quarter for deviations over Reviewers: 0 to 5."""
LENGTH_BINS = 36
"""Bins of texts' lengths: half powers of two."""
SPANS = 96
"""Steps of the time line."""
STATUSES = (ACCEPTED, REJECTED, FAILED)
_BATCH = 16_384


@dataclass
class Member:
    """What one seat of the committee did, over the samples that were read."""

    name: str
    model: str
    criteria: list[int]
    """Sums of its scores as a Reviewer, by criterion."""
    generated: int = 0
    accepted: int = 0
    """Of the generated."""
    received: list[int] = field(default_factory=lambda: [0] * HALVES)
    """Reviewers' mean scores of what it generated, by half points."""
    given: list[int] = field(default_factory=lambda: [0] * HALVES)
    """Its mean scores as a Reviewer."""
    adjudicated: list[int] = field(default_factory=lambda: [0] * HALVES)
    """Its mean scores as an Adjudicator."""
    judged: int = 0
    """Reviews of samples on which the committee decided."""
    too_strict: int = 0
    """Below the threshold, but the sample was accepted."""
    too_lenient: int = 0
    """At the threshold or above, but the sample was rejected."""
    passed: int = 0
    """Instructions it judged good, of `looked_at`."""
    looked_at: int = 0

    @property
    def reviews(self) -> int:
        return sum(self.given)


class Distributions:
    """Counts over samples.

    Args:
        members: model by seat.
        accept_mean: the threshold for a single review.
        domains: their names.
        criteria: what Reviewers score.
    """

    def __init__(
        self,
        members: dict[str, str],
        accept_mean: float,
        domains: Sequence[str] = DOMAINS,
        criteria: Sequence[str] = CRITERIA,
    ) -> None:
        self.members = {name: Member(name, model, [0] * len(criteria)) for name, model in members.items()}
        self.criteria = tuple(criteria)
        self.accept_mean = accept_mean
        self.samples = 0
        self.domains = {d: dict.fromkeys(STATUSES, 0) for d in (*domains, "")}
        self.sd = [0] * SD_BINS
        self.lengths = {
            (name, status): [0] * LENGTH_BINS for name in ("instruction", "response") for status in STATUSES
        }
        self.agreement = {c: Coincidences(11) for c in self.criteria}
        self.mean_agreement = Coincidences(10 * len(self.criteria) + 1)
        """Of Reviewers' scores added up: 6 to 60 for the paper's six."""
        self.bias = Bias(members, accept_mean, self.criteria, domains)

    def add(self, batch: pa.Table) -> None:
        """Count a batch of samples of `records.sample_schema`."""
        self.samples += len(batch)
        status = codes(batch["status"], STATUSES)
        domain = codes(batch["domain"], list(self.domains))
        for (d, counts), row in zip(self.domains.items(), cross(domain, status, len(self.domains), 3), strict=True):
            self.domains[d] = {s: counts[s] + n for s, n in zip(STATUSES, row, strict=True)}
        for name in ("instruction", "response"):
            bins = length_bins(batch[name])
            for s, row in zip(STATUSES, cross(status, bins, 3, LENGTH_BINS), strict=True):
                self.lengths[name, s] = _plus(self.lengths[name, s], row)
        sd = batch["sd"].to_numpy()
        quarters = np.clip(np.nan_to_num(sd, nan=-1) * 4, -1, SD_BINS - 1).astype(int)
        self.sd = _plus(self.sd, np.bincount(quarters[~np.isnan(sd)], minlength=SD_BINS).tolist())
        self._generators(batch, status)
        self._instruction_reviews(batch)
        self._reviews(batch, status)
        self._verdicts(batch)
        self.bias.add(batch)

    def _generators(self, batch: pa.Table, status: np.ndarray) -> None:
        names = list(self.members)
        who = codes(batch["generator"], names)
        mean = batch["mean"].to_numpy()
        scored = ~np.isnan(mean)
        halves = np.rint(np.nan_to_num(mean) * 2).astype(int)
        received = cross(who[scored], halves[scored], len(names), HALVES)
        for m, n, good, row in zip(
            self.members.values(),
            cross(who, np.zeros(len(who), int), len(names), 1),
            cross(who, (status == 0).astype(int), len(names), 2),
            received,
            strict=True,
        ):
            m.generated += n[0]
            m.accepted += good[1]
            m.received = _plus(m.received, row)

    def _instruction_reviews(self, batch: pa.Table) -> None:
        reviews = flat(batch["instruction_reviews"])
        if not len(reviews):
            return
        who = codes(reviews.field("member"), list(self.members))
        passed = np.minimum.reduce([ints(reviews.field(n)) for n in criteria_of(reviews.type)])
        for m, row in zip(self.members.values(), cross(who, passed, len(self.members), 2), strict=True):
            m.looked_at += sum(row)
            m.passed += row[1]

    def _reviews(self, batch: pa.Table, status: np.ndarray) -> None:
        reviews = flat(batch["reviews"])
        if not len(reviews):
            return
        names = list(self.members)
        lengths = pc.fill_null(pc.list_value_length(batch["reviews"]), 0).to_numpy()
        who = codes(reviews.field("member"), names)
        scores = np.stack([ints(reviews.field(c)) for c in self.criteria])  # [criteria, reviews]
        total = scores.sum(axis=0)
        own = total >= len(scores) * self.accept_mean - 1e-6
        final = np.repeat(status, lengths)
        decided = final != STATUSES.index(FAILED)
        accepted = final == 0
        halves = np.rint(total / len(self.criteria) * 2).astype(int)
        given = cross(who, halves, len(names), HALVES)
        kinds = np.where(own == accepted, 0, np.where(accepted, 1, 2))
        verdicts = cross(who[decided], kinds[decided], len(names), 3)
        for i, m in enumerate(self.members.values()):
            m.given = _plus(m.given, given[i])
            m.criteria = _plus(m.criteria, scores[:, who == i].sum(axis=1).tolist())
            m.judged += sum(verdicts[i])
            m.too_strict += verdicts[i][1]
            m.too_lenient += verdicts[i][2]
        for criterion, row in zip(self.criteria, scores, strict=True):
            self.agreement[criterion].add(row, lengths)
        self.mean_agreement.add(total, lengths)

    def _verdicts(self, batch: pa.Table) -> None:
        verdicts = batch["verdict"].drop_null().combine_chunks()
        if not len(verdicts):
            return
        who = codes(verdicts.field("member"), list(self.members))
        total = np.sum([ints(verdicts.field(c)) for c in self.criteria], axis=0)
        halves = np.rint(total / len(self.criteria) * 2).astype(int)
        for m, row in zip(self.members.values(), cross(who, halves, len(self.members), HALVES), strict=True):
            m.adjudicated = _plus(m.adjudicated, row)


@dataclass
class Work:
    """What engines did, over all shards."""

    tokens: dict[tuple[str, str], list[int]]
    """Calls, prompt and completion tokens by role and model: exact."""
    hours: dict[tuple[str, str], float]
    """Engine-hours by role and model: a model's busy hours, shared out by the time its calls took. Empty: unknown."""
    shards: int = 0
    attempts: int = 0
    restarts: int = 0
    """Engines started again after they died."""
    hosts: int = 0
    given_up: int = 0
    """Calls that killed their engine twice."""
    corrupt: int = 0
    """Unreadable lines in journals."""
    lost: int = 0
    """Used answers that could not be read again when their shard was published."""
    turns: dict[str, list[float]] = field(default_factory=dict)
    """Where engines took turns: swaps and lost seconds by group, which is named by its models."""
    tools: dict[str, int] = field(default_factory=dict)
    """Uses by tool."""
    endless: dict[str, int] = field(default_factory=dict)
    """Calls whose thoughts did not end, by model."""


@dataclass
class TimeLine:
    """Answered calls and their tokens over time."""

    began: float = 0.0
    """Unix time of the first answer, in seconds."""
    step: float = 0.0
    """Seconds per entry."""
    tokens: list[int] = field(default_factory=list)
    """Completion tokens in each step."""
    calls: list[int] = field(default_factory=list)


def choose_shards(tables: Sequence[Table], limit: int = SAMPLED) -> list[Table]:
    """Whole shards of about `limit` samples, drawn by a digest of their place."""
    order = sorted(tables, key=lambda t: digest("report", t.manifest["round"], t.shard.number))
    chosen, rows = [], 0
    for table in order:
        if rows >= limit:
            break
        chosen.append(table)
        rows += table.manifest["samples"]["rows"]
    return chosen


def distributions(inputs: Inputs, tables: Sequence[Table]) -> Distributions:
    """Counts over the samples of some shards."""
    method = inputs.run.config.method
    out = Distributions(inputs.model_of, method.accept_mean, domains_of(method), inputs.run.plan.rubric.response)
    columns = ["status", "domain", "generator", "instruction", "response", "instruction_reviews", "reviews", "verdict"]
    for table in tables:
        for batch in read_slices(table.samples, [*columns, "mean", "sd"], _BATCH):
            out.add(batch)
    return out


def measure_work(tables: Sequence[Table], sampled: Sequence[Table]) -> Work:
    """Tokens, hours and incidents from the shards' manifests; hours by role from the calls of some shards."""
    out, hosts = Work({}, {}), set()
    busy: dict[str, float] = {}
    for t in tables:
        m = t.manifest
        for key, (calls, prompt, completion) in m["tokens"].items():
            role, model = key.split(" ", 1)
            total = out.tokens.setdefault((role, model), [0, 0, 0])
            out.tokens[role, model] = _plus(total, [calls, prompt, completion])
        engines = m["engines"].get("engines", {})
        for e in engines.values():
            seconds = e.get("busy_seconds", 0.0) * max(1, e.get("gpus", 1))
            busy[e["model"]] = busy.get(e["model"], 0.0) + seconds
            out.restarts += e.get("restarts", 0)
        for g in m["engines"].get("rotation", {}).get("groups", []):
            swaps, lost = out.turns.setdefault(", ".join(g["models"]), [0, 0.0])
            out.turns[", ".join(g["models"])] = [swaps + g["swaps"], lost + g["lost_seconds"]]
        for tool, uses in m.get("tools", {}).items():
            out.tools[tool] = out.tools.get(tool, 0) + uses
        for model, calls in m.get("endless_thoughts", {}).items():
            out.endless[model] = out.endless.get(model, 0) + calls
        out.shards += 1
        out.attempts += len(m["attempts"])
        out.given_up += m["engines"].get("given_up", 0)
        out.corrupt += m.get("corrupt_journal_lines", 0)
        out.lost += m.get("lost_calls", 0)
        hosts |= {a.get("host", m["host"]) for a in m["attempts"]}
    out.hosts = len(hosts)
    spent = call_milliseconds(sampled) if any(busy.values()) else {}
    for (role, model), ms in sorted(spent.items()):
        of_model = sum(v for (_, other), v in spent.items() if other == model)
        if busy.get(model) and of_model:
            out.hours[role, model] = busy[model] / 3600 * ms / of_model
    return out


def call_milliseconds(tables: Sequence[Table]) -> dict[tuple[str, str], int]:
    """Time that calls took, by role and model, in whole milliseconds; tools' uses are none of a model's."""
    out: dict[tuple[str, str], int] = {}
    for table in tables:
        for batch in read_slices(table.calls, ["key", "model", "seconds"], _BATCH):
            batch = batch.filter(_of_models(batch["key"]))
            seat = _seats(batch["key"])
            role = pc.replace_substring_regex(seat, r"-\d+$", "")
            ms = np.rint(batch["seconds"].to_numpy() * 1000).astype(np.int64)
            pair = pc.binary_join_element_wise(role, batch["model"].combine_chunks(), " ").to_numpy(
                zero_copy_only=False
            )
            for name in np.unique(pair):
                key = tuple(str(name).split(" ", 1))
                out[key[0], key[1]] = out.get((key[0], key[1]), 0) + int(ms[pair == name].sum())
    return out


def time_line(tables: Sequence[Table]) -> TimeLine:
    """Answers and tokens over time, of all shards; a tool's use is no answer."""
    bounds = [b for t in tables if (b := _bounds(t)) is not None]
    if not bounds:
        return TimeLine()
    began, ended = min(a for a, _ in bounds), max(b for _, b in bounds)
    step = max((ended - began) / SPANS, 1e-3)
    tokens, calls = np.zeros(SPANS, np.int64), np.zeros(SPANS, np.int64)
    for table in tables:
        names = ["at", "completion_tokens", *(["key"] if table.manifest.get("tools") else [])]  # keys are most bytes
        for batch in read_slices(table.calls, names, 1 << 17):
            if "key" in names:
                batch = batch.filter(_of_models(batch["key"]))
            at = np.clip((batch["at"].to_numpy() - began) / step, 0, SPANS - 1).astype(int)
            calls += np.bincount(at, minlength=SPANS)
            np.add.at(tokens, at, batch["completion_tokens"].to_numpy())
    return TimeLine(began, step, tokens.tolist(), calls.tolist())


def _seats(keys: pa.ChunkedArray) -> pa.Array:
    """The seats in calls' keys."""
    return pc.list_element(pc.split_pattern(keys.combine_chunks(), "/"), 2)


def _of_models(keys: pa.ChunkedArray) -> pa.Array:
    """Whether calls are a model's, by their keys, and no tool's uses (`tools.is_use`): bool [n]."""
    return pc.invert(pc.starts_with(_seats(keys), f"{SEAT}-"))


def _bounds(table: Table) -> tuple[float, float] | None:
    """First and last answer of a shard, from its calls table's statistics."""
    with open_table(table.calls) as file:
        meta = file.metadata
    place = meta.schema.names.index("at")
    found = [meta.row_group(g).column(place).statistics for g in range(meta.num_row_groups)]
    known = [s for s in found if s is not None and s.has_min_max]
    return (min(s.min for s in known), max(s.max for s in known)) if known else None


def codes(values: Any, names: Sequence[str]) -> np.ndarray:
    """Position of each value among `names`; -1 for others."""
    found = pc.fill_null(pc.index_in(values, pa.array(list(names), pa.string())), -1)
    return found.to_numpy(zero_copy_only=False) if isinstance(found, pa.Array) else found.to_numpy()


def cross(a: np.ndarray, b: np.ndarray, rows: int, columns: int) -> list[list[int]]:
    """How often each pair occurs [rows][columns]; pairs with a negative member do not count."""
    ok = (a >= 0) & (b >= 0)
    counts = np.bincount(a[ok] * columns + b[ok], minlength=rows * columns)
    return [[int(n) for n in row] for row in counts.reshape(rows, columns)]


def length_bins(texts: pa.ChunkedArray) -> np.ndarray:
    """Half powers of two of the texts' lengths in characters; -1 for an empty text."""
    lengths = pc.fill_null(pc.utf8_length(texts), 0).to_numpy()
    bins = np.floor(2 * np.log2(np.maximum(lengths, 1)))
    return np.where(lengths > 0, np.minimum(bins, LENGTH_BINS - 1), -1).astype(int)


def flat(lists: pa.ChunkedArray) -> pa.StructArray:
    """All elements of lists, one after another."""
    return pc.list_flatten(lists.combine_chunks())


def ints(column: pa.Array) -> np.ndarray:
    """A column of small integers."""
    return column.to_numpy(zero_copy_only=False).astype(np.int64)


def _plus(a: Sequence[int], b: Sequence[int]) -> list[int]:
    return [x + y for x, y in zip(a, b, strict=True)]
