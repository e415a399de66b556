"""A run whose shards hold planted scores, published through the real code and merged."""

from __future__ import annotations

import random
from pathlib import Path

from gra_hpc.flows.gra.committee import Decision, consensus
from gra_hpc.merge.round import merge_round
from gra_hpc.records import CRITERIA, Review, Sample, sample_schema
from gra_hpc.run import attempts, publish
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.merged import pool_of
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.run import Run
from gra_hpc.run.slices import read_pool, slice_of
from tests.run.test_plan import make

HOSTILE = "</script><script>document.title='owned'</script><b>&amp; \u202eevil"


def reviewed(path: Path, samples: int) -> Run:
    """The run. Sample i is worth 5 to 10; its Reviewers see that with errors, its text says what it is worth."""
    run = make(
        path, f"method.samples_per_seed={samples // 12}", "launch.shards=1", "method.accept_mean=8",
        "method.accept_sd=1.5", "merge.fuzzy=false",
    )  # fmt: skip
    shard = run.round(1).shard(0)
    units = slice_of(run.config, RoundPlan.load(run.round(1)), read_pool(pool_of(run, run.plan, 1)), 0)
    made = [_sample(run, unit.sample) for unit in units]
    here = attempts.begin(shard)
    publish.publish(
        shard, here, fingerprint=run.plan.fingerprint, round_=1,
        ledger=Ledger.of(len(made), ((s.status, s.stage, s.reason) for s in made)), samples=made,
        embeddings=[None] * len(made), schema=sample_schema(), calls=[],
        details={"tokens": {}, "timings": {"started": 0.0, "ended": 0.0}, "host": "n", "engines": {"engines": {}}},
        attempts=[here],
    )  # fmt: skip
    merge_round(run, 1)
    return run


def worth(instruction: str) -> float:
    """What a sample is worth, from its text."""
    return float(instruction.split("worth ")[1].split()[0])


def _sample(run: Run, s: Sample) -> Sample:
    rng = random.Random(s.id)
    value = rng.uniform(5, 10)
    s.instruction = f"Sample {s.id[:6]}, worth {value:.2f} points. {HOSTILE}"
    s.response, s.keywords = "It is so.\n" * rng.randint(1, 5), ("a", "b", "c")
    for member in s.roles.reviewers:
        seen = value + rng.gauss(0, 0.7)
        s.reviews.append(Review(member, {c: max(1, min(10, round(seen + rng.gauss(0, 0.4)))) for c in CRITERIA}))
    found = consensus(s.reviews, run.config.method)
    s.mean, s.sd, s.score = found.mean, found.sd, found.mean
    if found.decision is Decision.reject:
        s.status, s.stage, s.reason = "rejected", "response_review", "mean below the threshold"
    else:
        s.status, s.summary = "accepted", "A summary."
    return s
