"""Runs with published shards, made up for the merge's tests (and for its benchmark, at scale)."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from gra_hpc.config.settings import MemberConfig, ModelConfig, RunConfig, SeedsConfig
from gra_hpc.models.identity import identity
from gra_hpc.records import ACCEPTED, FAILED, REJECTED, Record, Roles, Sample, digest, sample_id, sample_schema, seed_id
from gra_hpc.run import publish
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.pins import ModelPin
from gra_hpc.run.plan import Plan, RoundPlan
from gra_hpc.run.run import Run
from gra_hpc.run.signing import signer_of
from gra_hpc.sources import benchmarks
from gra_hpc.sources.seeds import write_records

WORDS = [
    f"{a}{b}{c}"
    for a in "bdfgklmnprstvz"
    for b in ("a", "e", "i", "o", "u", "ou")
    for c in ("n", "r", "s", "t", "", "le")
]


def text(rng: random.Random, words: int = 30) -> str:
    """Words at random."""
    return " ".join(rng.choices(WORDS, k=words)).capitalize() + "."


def _identity(embedder: Path) -> str:
    """Of an embedding model; one that is not there has a made-up one."""
    model = ModelConfig(path=str(embedder))
    return identity(embedder, model, nested=True) if embedder.is_dir() else digest(str(embedder))


def seed(i: int, instruction: str = "", response: str = "", occurrence: int = 0, **more: object) -> Record:
    """A described seed."""
    rng = random.Random(f"seed {i}")
    instruction, response = instruction or text(rng, 12), response or text(rng)
    id_ = seed_id(instruction, response, occurrence)
    fields = {"domain": "qa", "keywords": ("a", "b", "c"), "summary": "A summary.", "seed_id": id_, "source": f"s:{i}"}
    return Record(id_, instruction, response, **(fields | more))  # type: ignore[arg-type]


def sample(
    i: int,
    instruction: str = "",
    response: str = "",
    score: float | None = 9.0,
    status: str = ACCEPTED,
    round_: int = 1,
    seed_of: str = "s",
) -> Sample:
    """A finished sample; the same number gives the same sample."""
    rng = random.Random(f"sample {round_} {i}")
    s = Sample(sample_id(round_, seed_of, i), round_, seed_of, i, "qa", Roles("a", ("b", "c", "d"), "e", "a"))
    s.instruction, s.response = instruction or text(rng, 12), response or text(rng)
    s.keywords, s.summary, s.score, s.mean, s.sd = ("k1", "k2", "k3"), "In short.", score, score, 0.5
    s.status = status
    if status != ACCEPTED:
        s.stage, s.reason = "response_review", "mean below 8" if status == REJECTED else "unparsed"
    return s


def make_run(
    path: Path,
    seeds: Sequence[Record],
    shards: int,
    rounds: int = 1,
    undescribed: int = 0,
    embed: str = "",
    **merge: object,
) -> Run:
    """A planned run without models: only the merge works on it.

    Args:
        embed: directory of the embedding model; empty: no semantic step.
        merge: fields of the merge's configuration.
    """
    config = RunConfig(
        seeds=SeedsConfig(path="seeds.jsonl"),
        models={"m": ModelConfig(path="none")},
        committee={"a": MemberConfig(model="m")},
    )
    config.merge.semantic, config.merge.embed_model = bool(embed), embed
    config.method.rounds = rounds
    path.mkdir(parents=True)
    pin = ModelPin(embed, _identity(Path(embed)), "", "") if embed else None
    frozen = {"method": {"rounds": rounds}}
    plan = Plan(digest("plan", 1), frozen, "0", 0.0, shards, len(seeds), 0, undescribed, {}, pin)
    run = Run(path, plan, lambda: config)
    configure(run, **merge)
    plan.benchmarks.update({s: benchmarks.find(s) for s in config.merge.decontamination.sources})
    run.plan_file.write_text(json.dumps(asdict(plan)))
    write_records(run.seeds, seeds)
    for r in (0, 1) if undescribed else (1,):
        RoundPlan(r, 100, shards).save(run.round(r))
    return run


def configure(run: Run, target_accepted: int = 0, **merge: object) -> None:
    """Change the run's configuration, here and as it is saved."""
    config = run.config
    for key, value in merge.items():
        holder = config.merge
        *path, last = key.split("__")
        for p in path:
            holder = getattr(holder, p)
        assert hasattr(holder, last), key
        setattr(holder, last, value)
    config.method.target_accepted = target_accepted or config.method.target_accepted
    run.save()


def publish_shard(
    run: Run,
    round_: int,
    number: int,
    samples: Sequence[Sample],
    embeddings: Sequence[bytes | None] | None = None,
    attempt: str = "a1",
    signed: bool = False,
    context: bool = False,
) -> None:
    """Publish a shard as a real attempt does.

    Args:
        context: samples may have context.
        signed: with what a merge needs of its texts; a shard of an earlier version has none.
    """
    shard = run.round(round_).shard(number)
    here = shard.attempt(attempt)
    here.path.mkdir(parents=True)
    ledger = Ledger.of(len(samples), ((s.status, s.stage, s.reason) for s in samples))
    assert publish.publish(
        shard,
        here,
        fingerprint=run.plan.fingerprint,
        round_=round_,
        ledger=ledger,
        samples=samples,
        embeddings=embeddings or [None] * len(samples),
        calls=[],
        details={},
        signer=signer_of(run.config, run.plan) if signed else None,
        attempts=[here],
        schema=sample_schema(context=context),
    )


def tables(run: Run, round_: int = 1) -> dict[str, bytes]:
    """The merged tables' bytes."""
    merged = run.round(round_).merged
    return {name: (merged / name).read_bytes() for name in ("kept.parquet", "pool.parquet", "dropped.parquet")}


def rows(path: Path) -> list[dict]:
    """A table's rows."""
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


def change(words: str, places: Sequence[int], by: str = "changed") -> str:
    """A text with some words replaced."""
    parts = words.split()
    for p in places:
        parts[p] = f"{by}{p}"
    return " ".join(parts)


__all__ = [
    "ACCEPTED",
    "FAILED",
    "REJECTED",
    "change",
    "configure",
    "make_run",
    "publish_shard",
    "rows",
    "sample",
    "seed",
    "tables",
    "text",
]
