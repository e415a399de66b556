"""Bias of judges: what was planted is found, and what was not is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gra_hpc.records import CRITERIA, DOMAINS, sample_schema
from gra_hpc.release.report.bias import Bias, Moments
from gra_hpc.release.report.fairness import section

MEMBERS = {"a1": "A", "a2": "A", "b": "B", "c": "C", "d": "D"}
SELF, STRICT, LONG, SHARED = 0.8, -0.7, 0.3, 0.9


def planted(
    rows: int, *, self_preference: float = 0.0, shared: float = 0.0, strict: float = 0.0, long: float = 0.0
) -> pa.Table:
    """Samples that a committee scored: quality and noise, and what is planted.

    Args:
        self_preference: points that seats of A give more to what A wrote.
        shared: errors that both seats of A make together, as a standard deviation.
        strict: points that c gives more.
        long: points that b gives more for each doubling of the response's length.
    """
    rng, names, table = np.random.default_rng(5), list(MEMBERS), []
    for i in range(rows):
        order = rng.permutation(names).tolist()
        writer, judges = order[0], order[1:4]
        length = int(rng.integers(4, 10))
        quality, of_a = 6 + rng.normal(0, 1), rng.normal(0, 1)
        reviews = []
        for judge in judges:
            value = quality + rng.normal(0, 0.6)
            value += self_preference * (MEMBERS[judge] == "A" == MEMBERS[writer]) + shared * of_a * (
                MEMBERS[judge] == "A"
            )
            value += strict * (judge == "c") + long * (length - 6.5) * (judge == "b")
            scores = {c: int(np.clip(round(value + rng.normal(0, 0.5)), 1, 10)) for c in CRITERIA}
            reviews.append({"member": judge, "comment": "", **scores})
        row = {"generator": writer, "domain": DOMAINS[i % 7], "response": "x" * 2**length, "reviews": reviews}
        table.append({"status": "accepted", **row})
    return pa.Table.from_pylist(table, sample_schema())


def measured(table: pa.Table) -> Bias:
    found = Bias(MEMBERS, 8.0)
    for start in range(0, len(table), 700):
        found.add(table.slice(start, 700))
    return found


def test_a_run_s_own_domains_are_told_apart() -> None:
    own = ("contracts", "tax")
    table = planted(200)
    named = pa.array([own[i % 2] for i in range(len(table))])
    table = table.set_column(table.schema.get_field_index("domain"), "domain", named)
    found = Bias(MEMBERS, 8.0, domains=own)
    found.add(table)
    said = section(found)
    assert said is not None and said["domains"] == list(own)


@pytest.fixture(scope="module")
def fair() -> Bias:
    return measured(planted(2000))


@pytest.fixture(scope="module")
def unfair() -> Bias:
    return measured(planted(2000, self_preference=SELF, shared=SHARED, strict=STRICT, long=LONG))


def test_self_preference_is_found_where_it_was_planted(fair: Bias, unfair: Bias) -> None:
    none, some = fair.self_preference(0), unfair.self_preference(0)
    assert none and none.low < 0 < none.high and none.high - none.low < 0.4
    assert some and some.low < SELF < some.high and some.low > 0.3
    assert all(unfair.self_preference(m) is None for m in (1, 2, 3)), (
        "they have one seat each, and never judge themselves"
    )


def test_severity_and_reliability(fair: Bias, unfair: Bias) -> None:
    c, mean = list(MEMBERS).index("c"), fair.scales.index("mean")
    every = slice(None)
    strict = unfair.beside.difference(c, every, mean)
    assert strict and strict.low < STRICT < strict.high + 0.15 and strict.high < -0.4
    calm = fair.beside.difference(c, every, mean)
    assert calm and abs(calm.value) < 0.1
    for scale in range(len(CRITERIA)):
        found = unfair.beside.difference(c, every, scale)
        assert found and found.value < -0.4
    good, worse = fair.beside.correlation(0, every, mean), unfair.beside.correlation(0, every, mean)
    assert good and worse and good > 0.75 > worse
    by_domain = [unfair.beside.at(c, d, mean)[0] for d in range(len(DOMAINS) + 1)]
    assert sum(by_domain) == unfair.beside.at(c, every, mean)[0] and by_domain[-1] == 0


def test_a_judge_that_likes_length(fair: Bias, unfair: Bias) -> None:
    b = list(MEMBERS).index("b")
    none, some = fair.length.slope(b), unfair.length.slope(b)
    assert none and none.low < 0 < none.high
    assert some and some.low < LONG < some.high and some.low > 0.2
    overall = fair.length.slope(len(MEMBERS))
    assert overall and abs(overall.value) < 0.06


def test_seats_of_one_model_count_for_less(fair: Bias, unfair: Bias) -> None:
    for bias, low, high in ((fair, 2.85, 3.0), (unfair, 2.5, 2.85)):
        found = bias.independent()
        assert found and found[0] == 3 and low <= found[1] <= high, found


def test_the_matrix_counts_every_review(unfair: Bias) -> None:
    n, total, passed = unfair.judged
    assert n.sum() == 6000 and n[1:, 1:].trace() == 0 and n[0, 0] > 0
    assert 5 < total.sum() / n.sum() < 7 and 0 < passed.sum() < n.sum()
    assert total[0, 0] / n[0, 0] > total[1, 0] / n[1, 0] + 0.4


def test_what_is_not_there_is_none() -> None:
    nothing = Bias(MEMBERS, 8.0)
    nothing.add(planted(1).slice(0, 0))
    assert nothing.independent() is None and nothing.self_preference(0) is None
    assert nothing.length.slope(0) is None and nothing.beside.difference(0) is None
    assert nothing.beside.correlation(0) is None
    alone: Any = planted(3).to_pylist()
    for row in alone:
        row["reviews"] = row["reviews"][:1]
    nothing.add(pa.Table.from_pylist(alone, sample_schema()))
    assert nothing.independent() is None and nothing.judged[0].sum() == 3


def test_moments_are_those_of_numpy() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(3, 2, 500)
    y = 2 * x + rng.normal(0, 1, 500)
    m = Moments(2)
    m.add(np.zeros(500, int), x, y)
    slope, mean = m.slope(0), m.mean(0)
    assert slope and slope.value == pytest.approx(np.polyfit(x, y, 1)[0]) and slope.low < 2 < slope.high
    assert mean and mean.value == pytest.approx(y.mean())
    assert mean.high - mean.value == pytest.approx(1.96 * y.std(ddof=1) / 500**0.5, rel=1e-3)
    assert m.correlation(0) == pytest.approx(np.corrcoef(x, y)[0, 1]) and m.slope(1) is None
