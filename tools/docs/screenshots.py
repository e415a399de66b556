#!/usr/bin/env python3
"""docs/audit.png and docs/audit-done.png: the page on which people judge samples, used by keyboard in Chromium.

    python tools/docs/screenshots.py [DIRECTORY]        needs Chromium; docs/ if left out

The samples are the demo's seeds as they are; that they were reviewed is made up, for the page shows no score.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

from gra_hpc.config import presets
from gra_hpc.errors import GraError
from gra_hpc.flows.gra.committee import Decision, consensus
from gra_hpc.judging import audit
from gra_hpc.launch.tasks import ShardTask
from gra_hpc.merge.round import merge_round
from gra_hpc.records import CRITERIA, Record, Review, Sample, sample_schema
from gra_hpc.run import attempts, planning, publish
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.merged import pool_of
from gra_hpc.run.plan import RoundPlan
from gra_hpc.run.run import Run
from gra_hpc.run.slices import read_pool, slice_of

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # this file is run as a program

from tools.docs.chromium import CHROMIUM, browser  # noqa: E402

SAMPLES, SHOWN = 20, 7
"""Samples of the audit, and the one that is being judged in the first picture."""
WORDS = (
    *("engine.kind=simulated", "merge.semantic=false", "launch.shards=1", "method.accept_mean=8"),
    f"models.smollm2.path={ROOT / 'models' / 'smollm2-135m'}",
)


def planted(path: Path) -> Run:
    """A merged run whose samples are its seeds, half of them accepted."""
    run = planning.make(path, presets.compose("demo", WORDS))
    if run.plan.undescribed:
        ShardTask(str(run.path), 0, 0)()
        merge_round(run, 0)
    units = slice_of(run.config, RoundPlan.load(run.round(1)), read_pool(pool_of(run, run.plan, 1)), 0)
    made = [_sample(run, unit.sample, unit.anchor) for unit in units if isinstance(unit.sample, Sample)]
    shard = run.round(1).shard(0)
    here = attempts.begin(shard)
    publish.publish(
        shard, here, fingerprint=run.plan.fingerprint, round_=1,
        ledger=Ledger.of(len(made), ((s.status, s.stage, s.reason) for s in made)), samples=made,
        embeddings=[None] * len(made), calls=[], schema=sample_schema(),
        details={"tokens": {}, "timings": {"started": 0.0, "ended": 0.0}, "host": "n", "engines": {"engines": {}}},
        attempts=[here],
    )  # fmt: skip
    merge_round(run, 1)
    return run


def _sample(run: Run, s: Sample, seed: Record) -> Sample:
    s.instruction, s.response, s.keywords = seed.instruction, seed.response, seed.keywords
    points = 9 if random.Random(s.id).random() < 0.5 else 6
    s.reviews = [Review(member, dict.fromkeys(CRITERIA, points)) for member in s.roles.reviewers]
    found = consensus(s.reviews, run.config.method)
    s.mean, s.sd, s.score = found.mean, found.sd, found.mean
    if found.decision is Decision.accept:
        s.status, s.summary = "accepted", seed.summary
    else:
        s.status, s.stage, s.reason = "rejected", "response_review", "mean below the threshold"
    return s


def take(run: Run, scratch: Path, to: Path) -> list[Path]:
    """Judge the samples by keyboard, and take the pictures on the way."""
    page, pictures = scratch / "audit.html", [to / "audit.png", to / "audit-done.png"]
    list(audit.write(run, SAMPLES, 0, page))
    with browser(scratch / "profile") as b:
        b.open(page, scratch / "downloads")
        b.key("e")  # asks for a name first
        b.write("ada")
        b.key("Escape")
        for i in range(1, SAMPLES + 1):
            b.key("kkrk"[i % 4])
            if i == SHOWN:
                b.key("ArrowLeft")
                b.screenshot(pictures[0])
                b.key("ArrowRight")
        b.screenshot(pictures[1])
        if b.complaints:
            raise GraError(f"{page}: {b.complaints[0]}")
    return pictures


def main() -> None:
    """Take them, and say where they are."""
    if not CHROMIUM:
        raise SystemExit("Chromium is not installed")
    to = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs"
    with tempfile.TemporaryDirectory() as scratch:
        for picture in take(planted(Path(scratch) / "first"), Path(scratch), to):
            print(f"{picture}: {picture.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
