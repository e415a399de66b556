"""Standings: planted committees, where the good are found and the equal stay equal."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from gra_hpc.config.settings import MemberConfig, MethodConfig, Policy, ReviewOrder, RunConfig
from gra_hpc.errors import ConfigError, GraError
from gra_hpc.flows.gra.committee import draw_by_standing
from gra_hpc.flows.gra.load import seats
from gra_hpc.flows.gra.standing import REFUSAL, ROLES, Counts, Standing, added, chance_of_best, differ
from gra_hpc.flows.gra.views.before import _reviewers
from gra_hpc.flows.gra.views.standing import warnings
from gra_hpc.launch.tasks import ShardTask
from gra_hpc.merge.round import merge_round
from gra_hpc.records import CRITERIA, DOMAINS, INSTRUCTION_CRITERIA
from gra_hpc.run.rounds import remaining
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json
from gra_hpc.views import roles
from tests.run.test_plan import make

MEMBERS = list("abcde")


MODELS = {m: m for m in MEMBERS}
METHOD = MethodConfig(policy=Policy.performance)


def rounds(
    skill: dict[str, dict[str, float]], seed: int, number: int = 3, samples: int = 700
) -> tuple[Standing, list[float]]:
    """Some rounds of a planted committee: a member's sample of a domain is good with its skill there.

    Returns:
        The standing after them, and the share of good samples of each round.
    """
    rng = random.Random(seed)
    standing, counts, found = (
        Standing.of({}, MEMBERS, 0.1, seed),
        {"generator": dict[str, Counts](), "reviewer": {}},
        [],
    )
    for n in range(number):
        good = 0
        for i in range(samples):
            domain = DOMAINS[i % len(DOMAINS)]
            writer = draw_by_standing(MODELS, METHOD, rng, standing.shares, domain).generator
            success = rng.random() < skill[writer][domain]
            good += success
            counts["generator"][domain] = added([counts["generator"].get(domain, {}), {writer: (float(success), 1.0)}])
        found.append(good / samples)
        standing = Standing.of(counts, MEMBERS, 0.1, (seed, n))
    return standing, found


def test_the_accepted_share_comes_near_the_oracle_s() -> None:
    """Each domain has a member of its own that is best: after three rounds within 5% of always taking it, but for the
    even part, which is chosen."""
    skill = {m: {d: 0.8 if i % 5 == j else 0.3 for i, d in enumerate(DOMAINS)} for j, m in enumerate(MEMBERS)}
    last = [rounds(skill, seed, number=4)[1] for seed in range(3)]
    oracle = 0.9 * 0.8 + 0.1 * (0.8 + 4 * 0.3) / 5
    assert sum(r[3] for r in last) / 3 > 0.95 * oracle
    assert all(r[0] < 0.5 for r in last), "the first round knows nothing"


def test_equal_members_stay_even() -> None:
    """Chi-square over what they generate: no more often unlike than chance."""
    skill = {m: dict.fromkeys(DOMAINS, 0.5) for m in MEMBERS}
    unlike = 0
    for seed in range(10):
        standing, _ = rounds(skill, seed, number=2, samples=350)
        rng = random.Random(seed)
        seen = Counter(
            draw_by_standing(MODELS, METHOD, rng, standing.shares, DOMAINS[i % 7]).generator for i in range(700)
        )
        unlike += sum((seen[m] - 140) ** 2 / 140 for m in MEMBERS) > 9.49  # 95th percentile at 4 degrees of freedom
    assert unlike <= 4


def test_worked_cases() -> None:
    assert not differ({"a": (5, 10), "b": (5, 10)}) and differ({"a": (90, 100), "b": (50, 100)})
    assert not differ({}) and not differ({"a": (3, 3), "b": (4, 4)}) and not differ({"a": (0, 1), "b": (1, 1)})
    best = chance_of_best({"a": (90, 100), "b": (50, 100)}, ["a", "b"], "x")
    assert best["a"] > 0.999 and best == chance_of_best({"a": (90, 100), "b": (50, 100)}, ["a", "b"], "x")
    even = chance_of_best({"a": (50, 100), "b": (50, 100)}, ["a", "b"], "x")
    assert even["a"] == pytest.approx(0.5, abs=0.05)


def test_shares_add_up_and_explore() -> None:
    counts = {"generator": {"math": {"a": (80.0, 100.0), "b": (20.0, 100.0)}}, "reviewer": {}}
    standing = Standing.of(counts, MEMBERS, 0.2, 1)
    for role in ROLES:
        for domain in DOMAINS:
            shares = standing.shares[role][domain]
            assert sum(shares.values()) == pytest.approx(1) and min(shares.values()) >= 0.2 / 5 - 1e-12
    assert standing.shares["generator"]["math"]["a"] > 0.5 and standing.generated()["a"] > 0.5
    assert standing.shares["reviewer"]["math"] == dict.fromkeys(MEMBERS, 0.2)
    assert Standing.from_dict(standing.to_dict()) == standing


def test_roles_are_disjoint_and_follow_the_seed() -> None:
    standing = Standing.of({"generator": {"qa": {"a": (9.0, 10.0), "b": (1.0, 10.0)}}}, MEMBERS, 0.1, 1)
    for seed in range(50):
        found = draw_by_standing(MODELS, METHOD, random.Random(seed), standing.shares, "qa")
        assert found == draw_by_standing(MODELS, METHOD, random.Random(seed), standing.shares, "qa")
        assert len({found.generator, *found.reviewers, found.adjudicator}) == 5
    few = draw_by_standing({"a": "a", "b": "b"}, METHOD, random.Random(1), standing.shares, "qa")
    assert len(few.reviewers) == 1 and few.adjudicator == ""


def test_a_run_counts_draws_and_does_not_depend_on_its_shards(tmp_path: Path) -> None:
    """The same roles with one shard and with two; the merge's counts are those of the tables."""
    drawn, words = [], ("method.policy=performance", "method.rounds=2", "method.samples_per_seed=2")
    for shards in (1, 2):
        run = make(tmp_path, *words, f"launch.shards={shards}", name=f"run{shards}")
        while steps := [s for s in remaining(run) if s.round == 1 or s.shards]:
            for shard in steps[0].shards:
                ShardTask(str(run.path), steps[0].round, shard)()
            if steps[0].round == 2:
                break
            merge_round(run, 1)
        rows = [
            r for n in (1, 2) for f in run.round(n).shards.glob("*/samples-*") for r in pq.read_table(f).to_pylist()
        ]
        drawn.append({r["id"]: (r["generator"], r["reviewers"], r["summarizer"]) for r in rows})
    assert drawn[0] == drawn[1] and len(drawn[0]) == 48
    standing = Standing.from_dict(roles.standings(run)[2])
    first = [r for r in rows if r["round"] == 1]
    kept = pq.read_table(run.round(1).kept).to_pylist()
    made = added(standing.counts["generator"].values())
    for member in run.config.committee:
        mine = [r for r in first if r["generator"] == member and r["status"] != "failed"]
        assert made[member] == (sum(r["generator"] == member for r in kept), len(mine))
    judged = added(standing.counts["reviewer"].values())
    assert sum(n for _, n in judged.values()) == sum(len(r["reviews"]) for r in first if r["mean"] is not None)
    for row in rows:
        chance = 1 / 5 if row["round"] == 1 else standing.shares["generator"][row["domain"]][row["generator"]]
        assert row["propensity"] == chance and 0 < chance <= 1
    said = list(roles.lines(run))
    assert said[0] == "round 2" and len(said) >= 2 + len(run.config.committee)


def test_the_strictest_reviewer_has_the_first_seat_of_a_bounded_review() -> None:
    """Fewer questions are asked so, of the same Reviewers; where all are alike the seats are as drawn."""
    says_no = dict(zip(MEMBERS, (0.1, 0.5, 0.2, 0.7, 0.3), strict=True))
    counts = {"qa": {m: (100 * p, 100.0) for m, p in says_no.items()}}
    standing = Standing.of({REFUSAL: counts}, MEMBERS, 0.1, 1)
    assert standing.strictest["qa"] == ["d", "b", "e", "c", "a"] == standing.strictest["math"]
    assert Standing.from_dict(standing.to_dict()) == standing
    bounded = MethodConfig(policy=Policy.performance, review_order=ReviewOrder.bounded)
    asked = {"drawn": 0, "strictest": 0}
    for seed in range(400):
        drawn, ordered, together = (
            draw_by_standing(MODELS, method, random.Random(seed), standing.shares, "qa", order)
            for method, order in (
                (bounded, ()),
                (bounded, standing.strictest["qa"]),
                (METHOD, standing.strictest["qa"]),
            )
        )
        assert together == drawn and sorted(ordered.reviewers) == sorted(drawn.reviewers)
        assert (ordered.generator, ordered.adjudicator) == (drawn.generator, drawn.adjudicator)
        assert list(ordered.reviewers) == sorted(ordered.reviewers, key=lambda m: -says_no[m])
        rng = random.Random(f"verdicts {seed}")
        no = {m: rng.random() < p for m, p in says_no.items()}
        for name, row in (("drawn", drawn.reviewers), ("strictest", ordered.reviewers)):
            asked[name] += next((i for i, m in enumerate(row, 1) if no[m]), len(row))
    assert asked["strictest"] < 0.9 * asked["drawn"]
    even = {"qa": dict.fromkeys(MEMBERS, (50.0, 100.0))}
    assert Standing.of({REFUSAL: even}, MEMBERS, 0.1, 1).strictest == {}


def through_rounds(run: Run, number: int) -> dict[str, tuple[Any, ...]]:
    """Shards and merges of a run, in this process; roles and outcome by sample."""
    for n in range(1, number + 1):
        for shard in range(run.plan.shards):
            ShardTask(str(run.path), n, shard)()
        if n < number:
            merge_round(run, n)
    return drawn_of(run, number)


def drawn_of(run: Run, number: int) -> dict[str, tuple[Any, ...]]:
    files = [f for n in range(1, number + 1) for f in run.round(n).shards.glob("*/samples-*")]
    return {
        r["id"]: (r["generator"], r["reviewers"], r["adjudicator"], r["summarizer"], r["status"], r["response"])
        for f in files
        for r in pq.read_table(f).to_pylist()
    }


def test_first_seats_are_counted_whatever_the_order_of_review(tmp_path: Path) -> None:
    """How strict a member is, is counted where its question did not depend on others' answers."""
    found = []
    for order in ReviewOrder:
        words = ("method.policy=performance", "method.rounds=2", "method.samples_per_seed=6", "launch.shards=2")
        run = make(tmp_path, *words, f"method.review_order={order.value}", name=order.value)
        through_rounds(run, 1)
        merge_round(run, 1)
        rows = [r for f in run.round(1).shards.glob("*/samples-*") for r in pq.read_table(f).to_pylist()]
        refused, first = Counter[str](), Counter[str]()
        for r in (r for r in rows if r["status"] != "failed"):
            for review in r["instruction_reviews"][:1]:
                first[review["member"]] += 1
                refused[review["member"]] += min(review[c] for c in INSTRUCTION_CRITERIA) == 0
            for review in r["reviews"][:1]:
                first[review["member"]] += 1
                refused[review["member"]] += sum(review[c] for c in CRITERIA) / 6 < run.config.method.accept_mean
        counted = added(Standing.from_dict(roles.standings(run)[2]).counts[REFUSAL].values())
        assert counted == {m: (refused[m], n) for m, n in first.items()}
        found.append(counted)
    assert found[0] == found[1]


def test_a_killed_run_resumes_with_the_same_roles(tmp_path: Path) -> None:
    """Killed in the middle of the second round, after its merge of the first, and done again: as if never killed."""
    file = tmp_path / "gold.jsonl"
    texts = [
        f'{{"instruction": "a{i}", "response": "b", "verdict": "{v}"}}' for i in (1, 2) for v in ("keep", "reject")
    ]
    file.write_text("\n".join(t.replace('"a', f'"{i} a') for i, t in enumerate(texts)))
    words = (
        "method.policy=performance", "method.rounds=2", "method.samples_per_seed=4", "launch.shards=2",
        "method.review_order=bounded", f"method.gold={file}", "method.gold_rate=0.25", "launch.window=4",
    )  # fmt: skip
    whole = through_rounds(make(tmp_path, *words, name="whole"), 2)
    run = make(tmp_path, *words, name="killed")
    through_rounds(run, 1)
    merge_round(run, 1)
    program = (
        "import os, sys; from gra_hpc.run import journal; from gra_hpc.launch.tasks import ShardTask\n"
        "kept, seen = journal.Journal.append, []\n"
        "def append(self, call):\n"
        "    kept(self, call); self.flush(); seen.append(call)\n"
        "    if len(seen) == 40: os.kill(os.getpid(), 9)\n"
        "journal.Journal.append = append\n"
        "ShardTask(sys.argv[1], 2, 0)()"
    )
    died = subprocess.run([sys.executable, "-c", program, str(run.path)], capture_output=True, text=True, check=False)
    assert died.returncode == -9, died.stderr
    assert not drawn_of(run, 2).keys() - drawn_of(run, 1).keys()
    for shard in (0, 1):
        ShardTask(str(run.path), 2, shard)()
    assert drawn_of(run, 2) == whole
    manifest = read_json(run.round(2).shard(0).manifest)
    assert manifest["attempts"][-1]["replayed"] >= 30
    assert manifest["gold"] == read_json(Run.open(tmp_path / "whole").round(2).shard(0).manifest)["gold"] != []


def test_a_run_of_one_round_has_nothing_to_follow(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method\.rounds=1: expected 2 or more"):
        make(tmp_path, "method.policy=performance")
    with pytest.raises(GraError, match="follow no standing"):
        list(roles.lines(make(tmp_path)))
    one = Standing.of({"generator": {"qa": {"a": (90.0, 100.0), "b": (10.0, 100.0)}}}, ["a", "b"], 0.1, 1)
    assert [w.split(":")[0] for w in warnings(one)] == ["  a is to generate 95%"]


def test_a_plan_expects_as_many_seats_as_by_chance() -> None:
    committee = {m: MemberConfig(model=m) for m in MEMBERS}
    by_chance, by_standing = (
        RunConfig(committee=committee, method=MethodConfig(policy=p)) for p in (Policy.random, Policy.performance)
    )
    assert seats(by_chance) == seats(by_standing)
    assert _reviewers(by_chance) == _reviewers(by_standing) == 3
