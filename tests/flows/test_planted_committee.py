"""A planted committee through whole rounds: real draws, shards and merges; what members are good at is made up."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import pytest

from gra_hpc.flows.gra.committee import Decision, consensus
from gra_hpc.flows.gra.standing import Standing
from gra_hpc.merge.round import merge_round
from gra_hpc.records import ACCEPTED, CRITERIA, INSTRUCTION_CRITERIA, InstructionReview, Review, Sample, sample_schema
from gra_hpc.run import attempts, gold, publish
from gra_hpc.run.gold import GoldQuestions
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.merged import pool_of
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.run import Run
from gra_hpc.run.slices import read_pool, slice_of
from gra_hpc.views import roles
from tests.flows.test_gold import gold_file
from tests.run.test_plan import make

BEST = {"math": "ada", "coding": "ben", "qa": "cyd"}
"""Who writes good samples of a domain (8 of 10; the others 3 of 10)."""
GOOD, BAD = 0.8, 0.3
JUDGE = "dee"
"""Sees what a sample is worth; the others say yes to everything, and so agree with each other."""


def one_round(run: Run, number: int) -> list[Sample]:
    """Publish and merge a round; its samples."""
    units = slice_of(run.config, RoundPlan.load(run.round(number)), read_pool(pool_of(run, run.plan, number)), 0)
    questions = GoldQuestions.of(run, run.plan)
    made, answers = [], []
    for unit in units:
        sample = unit.sample
        assert isinstance(sample, Sample)
        made.append(written(run, sample))
        if questions and (beside := questions.beside(sample, run.config.method)):
            answers += [(beside[0].id, m, points(m, beside[0].keep)) for m in sample.roles.reviewers]
    shard = run.round(number).shard(0)
    here = attempts.begin(shard)
    details = {"tokens": {}, "timings": {"started": 0.0, "ended": 0.0}, "host": "n", "engines": {"engines": {}}}
    publish.publish(
        shard, here, fingerprint=run.plan.fingerprint, round_=number,
        ledger=Ledger.of(len(made), ((s.status, s.stage, s.reason) for s in made)), samples=made,
        embeddings=[None] * len(made), calls=[], schema=sample_schema(propensity=True),
        details=details | ({"gold": gold.entries(answers)} if questions else {}), attempts=[here],
    )  # fmt: skip
    merge_round(run, number)
    return made


def points(member: str, good: bool) -> int:
    """What a Reviewer gives, of 60."""
    return 54 if good or member != JUDGE else 47


def written(run: Run, s: Sample) -> Sample:
    good = random.Random(s.id).random() < (GOOD if BEST[s.domain] == s.roles.generator else BAD)
    s.instruction, s.response, s.keywords = f"Task {s.id}", f"Done {s.id}", ("a", "b", "c")
    s.instruction_reviews = [InstructionReview(m, dict.fromkeys(INSTRUCTION_CRITERIA, 1)) for m in s.roles.reviewers]
    for member in s.roles.reviewers:
        six = dict.fromkeys(CRITERIA, points(member, good) // 6)
        s.reviews.append(Review(member, six))
    found = consensus(s.reviews, run.config.method)
    s.mean, s.sd, s.score = found.mean, found.sd, found.mean
    if good and found.decision is Decision.accept:
        s.status, s.summary = ACCEPTED, "Short."
    else:
        s.status, s.stage, s.reason = "rejected", "response_review", "mean below the threshold"
    return s


WORDS = (
    "method.policy=performance", "method.rounds=4", "method.samples_per_seed=50", "launch.shards=1",
    "method.accept_mean=8", "method.accept_sd=1.5", "merge.exact=false", "merge.fuzzy=false",
)  # fmt: skip


def test_after_three_rounds_the_share_is_the_oracles(tmp_path: Path) -> None:
    """Within 5% of always taking the best writer, but for the even part, which is chosen; by the merges' own counts."""
    run = make(tmp_path, *WORDS)
    share = []
    for number in range(1, 5):
        made = one_round(run, number)
        share.append(sum(s.status == ACCEPTED for s in made) / len(made))
    oracle = 0.9 * GOOD + 0.1 * (GOOD + 4 * BAD) / 5
    assert share[0] < 0.5 and share[3] > 0.95 * oracle, share
    standing = Standing.from_dict(roles.standings(run)[4])
    assert all(standing.shares["generator"][d][m] > 0.85 for d, m in BEST.items())
    said = [line for line in roles.lines(run) if "drawn evenly" in line]
    found = re.search(r"accepted (\d+)% of 600; .* about \d+% \((\d+)% to (\d+)%\)", said[-1])
    assert found and len(said) == 3
    seen, low, high = (int(n) / 100 for n in found.groups())
    assert seen == pytest.approx(share[3], abs=0.006) and low <= (GOOD + 4 * BAD) / 5 <= high < seen


@pytest.mark.parametrize("with_gold", [False, True])
def test_gold_finds_the_judge_whom_agreement_hides(
    tmp_path: Path, with_gold: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Four Reviewers who say yes to everything agree with each other; one who sees what samples are worth does not."""
    words = (f"method.gold={gold_file(tmp_path / 'g.jsonl')}", "method.gold_rate=0.25") if with_gold else ()
    run = make(tmp_path, *WORDS, "method.rounds=2", *words)
    one_round(run, 1)
    standing = Standing.from_dict(roles.standings(run)[2])
    judges = {m: sum(standing.shares["reviewer"][d][m] for d in BEST) / 3 for m in run.config.committee}
    seats = Counter(m for s in one_round(run, 2) for m in s.roles.reviewers)
    others = [m for m in run.config.committee if m != JUDGE]
    if with_gold:
        assert judges[JUDGE] > 0.85 and all(seats[JUDGE] > 1.2 * seats[m] for m in others)
        assert sum("no better than chance" in line for line in roles.lines(run)) == len(others)
        assert sum("no better than chance" in r.message for r in caplog.records if "round 1" in r.message) == len(
            others
        )
    else:
        assert judges[JUDGE] < 0.1 and all(seats[JUDGE] < seats[m] for m in others)
