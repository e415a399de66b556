"""Bounded review: one Reviewer after another, until the decision is certain; the decisions are those of asking all."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra_hpc.config.settings import MethodConfig, ReviewOrder
from gra_hpc.flows.ask import Question, Unanswered
from gra_hpc.flows.gra.committee import Decision, at_least, consensus, highest_mean
from gra_hpc.flows.gra.synthesize import STOPPED, judge_response, synthesize
from gra_hpc.judging.decisions import decided
from gra_hpc.launch.round_end import finish_round
from gra_hpc.launch.tasks import ShardTask
from gra_hpc.records import CRITERIA, INSTRUCTION_CRITERIA, Record, Review, Roles, Sample
from gra_hpc.release.verify.verify import verify
from gra_hpc.run.run import Run
from gra_hpc.storage import read_json
from gra_hpc.views.sample import find_sample, history
from tests.run.test_plan import make

BOUNDED = MethodConfig(review_order=ReviewOrder.bounded)
ROLES = Roles("g", ("a", "b", "c"), "j", "g")
SEED = Record("s", "Add.", "4", "math", ("x", "y", "z"), "Adds.", seed_id="s")


def review(points: int) -> Review:
    """One whose six scores add up to this."""
    return Review("a", {c: points // 6 + (i < points % 6) for i, c in enumerate(CRITERIA)})


def test_all_triples_are_decided_as_if_all_had_been_asked() -> None:
    """Of means in half points: 6,859. A third of the questions is not needed where all are as likely."""
    reviews, method, asked = {p: review(p) for p in range(6, 61, 3)}, MethodConfig(), 0
    for triple in itertools.product(reviews, repeat=3):
        known = consensus([reviews[p] for p in triple], method).decision
        for n in (1, 2, 3):
            asked += 1
            if not at_least(highest_mean([reviews[p].mean for p in triple[:n]], 3), 8):
                assert known is Decision.reject, triple
                break
        else:
            assert at_least(sum(triple) / 18, 8)
    assert 0.6 < asked / 3 / len(reviews) ** 3 < 0.7


def test_where_it_stops() -> None:
    """One Reviewer below 4 is enough, two below 14 together; nothing is accepted early at the paper's numbers."""
    assert not at_least(highest_mean([23 / 6], 3), 8) and at_least(highest_mean([4.0], 3), 8)
    assert not at_least(highest_mean([4.0, 59 / 6], 3), 8) and at_least(highest_mean([4.0, 10.0], 3), 8)
    assert highest_mean([8.0], 1) == 8 and highest_mean([], 3) == 10


ANSWERS = st.lists(st.lists(st.integers(1, 10), min_size=6, max_size=6), min_size=4, max_size=4)
ZEROS = st.lists(st.lists(st.sampled_from([0, 1, 1, 1]), min_size=3, max_size=3), min_size=3, max_size=3)


def judged(method: MethodConfig, answers: list[list[int]], zeros: list[list[int]]) -> tuple[Sample, list[str]]:
    """A sample through the flow; the steps and seats that were asked."""
    asked = []

    async def ask(question: Question[Any], member: str, seat: str, **_: Any) -> Any:
        asked.append(f"{question.step} {seat}")
        at = 3 if seat == "adjudicator" else int(seat[-1]) - 1 if seat.startswith("reviewer") else 0
        if question.step == "review_instruction":
            return dict(zip(INSTRUCTION_CRITERIA, zeros[at], strict=True)), ""
        if question.step in ("review_response", "adjudicate"):
            return dict(zip(CRITERIA, answers[at], strict=True)), ""
        return ("a", "b", "c") if question.step == "keywords" else "Text."

    sample = Sample("id", 1, "s", 0, "math", ROLES)
    asyncio.run(synthesize(sample, [SEED, SEED], ask, method))
    return sample, asked


@given(ANSWERS, ZEROS, st.sampled_from([6.0, 7.5, 8.0, 9.0]))
def test_the_flow_decides_as_if_all_had_been_asked(
    answers: list[list[int]], zeros: list[list[int]], accept: float
) -> None:
    all_, every = judged(MethodConfig(accept_mean=accept), answers, zeros)
    some, few = judged(MethodConfig(accept_mean=accept, review_order=ReviewOrder.bounded), answers, zeros)
    assert (some.status, some.stage) == (all_.status, all_.stage) and set(few) <= set(every)
    stopped = len(some.reviews) < len(all_.reviews)
    assert stopped == (some.reason == STOPPED)
    if stopped:
        assert (some.mean, some.score) == (None, None)
    else:
        assert (some.mean, some.sd, some.score, some.verdict) == (all_.mean, all_.sd, all_.score, all_.verdict)
    assert some.reviews == all_.reviews[: len(some.reviews)]
    assert some.instruction_reviews == all_.instruction_reviews[: len(some.instruction_reviews)]


@pytest.mark.parametrize(("first", "wanted"), [(3, STOPPED), (9, "no JSON object")])
def test_who_has_no_answer_is_still_a_failure_unless_it_was_certain_before(first: int, wanted: str) -> None:
    async def ask(question: Question[Any], member: str, seat: str, **_: Any) -> Any:
        if seat == "reviewer-2":
            raise Unanswered("response_review", "no JSON object", "hm")
        return dict.fromkeys(CRITERIA, first), ""

    sample = Sample("id", 1, "s", 0, "math", ROLES)
    try:
        asyncio.run(judge_response(sample, ask, BOUNDED))
    except Unanswered as e:
        sample.reason = e.reason
    assert sample.reason == wanted and len(sample.reviews) == 1


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The same run twice, but for the order of review."""
    path, found = tmp_path_factory.mktemp("bounded"), {}
    for order in ReviewOrder:
        words = ("launch.shards=1", "method.samples_per_seed=8", f"method.review_order={order.value}")
        run = found[order.value] = make(path, *words, name=order.value)
        ShardTask(str(run.path), 1, 0)()
        finish_round(run, 1)
    return found


def rows(run: Run, kind: str) -> list[dict[str, Any]]:
    return list(pq.read_table(next(run.round(1).shards.glob(f"*/{kind}-*.parquet"))).to_pylist())


def test_a_whole_run_has_the_same_decisions_with_fewer_calls(runs: dict[str, Run], tmp_path: Path) -> None:
    together, bounded = runs["together"], runs["bounded"]
    ends = [[(s["id"], s["status"], s["stage"]) for s in rows(r, "samples")] for r in (together, bounded)]
    assert ends[0] == ends[1]
    asked, all_ = ({c["key"]: c["digest"] for c in rows(r, "calls")} for r in (bounded, together))
    assert asked.items() < all_.items()
    manifests = [read_json(r.release / "manifest.json") for r in (together, bounded)]
    saved = manifests[1]["unasked"]
    assert sum(saved.values()) == len(all_) - len(asked) > 0 and "unasked" not in manifests[0]
    assert verify(bounded.release) == []
    card, report = ((bounded.release / n).read_text() for n in ("README.md", "report.html"))
    assert f"{saved['response']} about responses were not needed" in card
    assert "questions to Reviewers that were not needed" in report
    assert "one after another" not in (together.release / "README.md").read_text()


def test_a_stopped_sample_says_how_far_it_could_have_come(runs: dict[str, Run]) -> None:
    run = runs["bounded"]
    stopped = [s for s in rows(run, "samples") if s["reason"] == STOPPED]
    assert stopped and all(len(s["reviews"]) < 3 and s["mean"] is None for s in stopped)
    rejects = [r for f in run.release.glob("rejects/rejected-*.parquet") for r in pq.read_table(f).to_pylist()]
    said = {r["id"]: r["detail"] for r in rejects if r["detail"]}
    assert set(said) == {s["id"] for s in stopped}
    for s in stopped:
        bound = (sum(r[c] for r in s["reviews"] for c in CRITERIA) / 6 + 10 * (3 - len(s["reviews"]))) / 3
        assert said[s["id"]] == f"mean at most {bound:.2f} after {len(s['reviews'])} of 3 Reviewers"
        assert bound < run.config.method.accept_mean
    ledger = read_json(run.release / "manifest.json")["ledger"]["rejected"]
    counts = Counter(s["reason"] for s in stopped)
    assert ledger[f"response_review: {STOPPED}"] == counts[STOPPED]
    row, _, calls = find_sample(run, stopped[0]["id"])
    assert any(line.startswith("scores: mean at most ") for line in history(row, calls))


def test_looser_thresholds_leave_a_stopped_sample_open(runs: dict[str, Run]) -> None:
    """What a Reviewer who was not asked would have said is not known (`judging/decisions.py`)."""
    run = runs["bounded"]
    table = pq.read_table(next(run.round(1).shards.glob("*/samples-*.parquet")))
    bounds = {s["id"]: highest_mean([sum(r[c] for c in CRITERIA) / 6 for r in s["reviews"]], 3)
              for s in table.to_pylist() if s["reason"] == STOPPED}  # fmt: skip
    for accept in (run.config.method.accept_mean, 6.0, 1.0):
        found = {r["id"]: r for r in decided(table, MethodConfig(accept_mean=accept)).to_pylist()}
        open_ = {i for i, r in found.items() if r["reason"] == "not all Reviewers were asked"}
        assert open_ == {i for i, bound in bounds.items() if at_least(bound, accept)}
    assert open_ == set(bounds)
