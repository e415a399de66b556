"""Runs whose shards were published through the real code, with made-up samples; then merged for real."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np

from gra_hpc.config.settings import EngineConfig, EngineKind, MemberConfig, ModelConfig, RunConfig, SeedsConfig
from gra_hpc.flows.gra.committee import Decision, at_least, consensus
from gra_hpc.flows.units import Unit
from gra_hpc.merge.described_seeds import merge_described
from gra_hpc.merge.round import merge_round
from gra_hpc.records import (
    CRITERIA,
    DOMAINS,
    INSTRUCTION_CRITERIA,
    Call,
    InstructionReview,
    Review,
    Sample,
    sample_schema,
)
from gra_hpc.run import attempts, plan, planning, publish
from gra_hpc.run.ledger import Ledger
from gra_hpc.run.merged import pool_of
from gra_hpc.run.run import Run
from gra_hpc.run.slices import read_pool, slice_of

WORDS = [
    *("river", "lamp", "copper", "seven", "window", "orbit", "garden", "letter", "stone", "music", "ladder"),
    *("winter", "planet", "bridge", "needle", "harbour", "engine", "violet", "pepper", "ribbon", "mirror", "anchor"),
    *("basket", "candle", "desert", "falcon", "ginger", "hammer", "island", "jacket", "kettle"),
]
BENCHMARK = "how many apples are left when three of the twelve apples in the basket are eaten by a hungry goat"


def write_model(directory: Path, hidden: int = 64) -> Path:
    """A model directory: real config.json and safetensors file, small random weights."""
    from safetensors.numpy import save_file

    directory.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_hidden_layers": 2, "intermediate_size": 2 * hidden, "vocab_size": 256,
        "max_position_embeddings": 8192, "torch_dtype": "float16",
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages[0].content }}"}))
    weights = {"model.embed_tokens.weight": np.zeros((256, hidden), np.float16)}
    save_file(weights, str(directory / "model.safetensors"))
    return directory


class Maker:
    """Makes runs under one temporary directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.models = [write_model(path / "models" / n, 16 * (i + 4)) for i, n in enumerate(("ant", "bee", "cat"))]

    def config(self, *, seeds: int = 30, simulated: bool = False, undescribed: int = 0) -> RunConfig:
        """A configuration with three models in five seats."""
        file = self.path / f"seeds-{seeds}-{undescribed}.jsonl"
        with file.open("w") as f:
            for i in range(seeds):
                row = {"instruction": f"Say something about {WORDS[i % 31]} number {i}.", "response": f"It is {i}."}
                if i >= undescribed:
                    row |= {"domain": DOMAINS[i % 7], "keywords": [WORDS[i % 31], "number", f"k{i}"], "summary": "S."}
                f.write(json.dumps(row) + "\n")
            f.write("not json\n")
        config = RunConfig(
            seeds=SeedsConfig(path=str(file), licence="CC0-1.0"),
            models={p.name: ModelConfig(path=str(p), licence="Apache-2.0") for p in self.models},
            committee={
                "ant": MemberConfig("ant"),
                "bee": MemberConfig("bee"),
                "cat": MemberConfig("cat"),
                "strict": MemberConfig("ant", persona="You are | strict."),
                "mild": MemberConfig("bee"),
            },
            engine=EngineConfig(kind=EngineKind.simulated if simulated else EngineKind.vllm, env={"TOKEN": "x"}),
        )
        config.merge.semantic = False
        config.launch.shards = 3
        config.method.samples_per_seed = 4
        config.release.licence = "cc0-1.0"
        config.release.validation = 0.1
        config.site.account = "secret-account"
        return config

    def make(
        self,
        name: str = "run",
        config: RunConfig | None = None,
        *,
        rounds: int = 1,
        skip: tuple[int, ...] = (),
        merge: bool = True,
        acceptance: float = 0.6,
    ) -> Run:
        """Plan a run, publish its shards but `skip`, merge its rounds.

        Args:
            acceptance: share of samples that the made-up committee likes.
        """
        config = config or self.config()
        config.method.rounds = rounds
        run = planning.make(self.path / name, config)
        if run.plan.undescribed and merge:
            self.publish(run, 0)
            merge_described(run)
        for number in range(1, rounds + 1):
            self.publish(run, number, skip, acceptance)
            if merge:
                merge_round(run, number)
        return run

    def publish(self, run: Run, number: int, skip: tuple[int, ...] = (), acceptance: float = 0.6) -> None:
        """Publish the shards of a round."""
        config, frozen = run.config, run.plan
        round_plan = plan.RoundPlan.load(run.round(number))
        pool = read_pool(pool_of(run, frozen, number))
        for n in range(round_plan.shards):
            shard = run.round(number).shard(n)
            if n in skip or publish.is_published(shard):
                continue
            units = list(slice_of(config, round_plan, pool, n))
            calls: list[Call] = []
            samples = [made_up(config, u, calls, acceptance) for u in units]
            here = attempts.begin(shard)
            ledger = Ledger.of(len(units), ((s.status, s.stage, s.reason) for s in samples))
            publish.publish(
                shard,
                here,
                fingerprint=frozen.fingerprint,
                round_=number,
                ledger=ledger,
                samples=samples,
                embeddings=[None] * len(samples),
                schema=sample_schema(),
                calls=calls,
                details={
                    "tokens": tokens(calls),
                    "timings": {"started": 1_700_000_000.0 + 100 * n, "ended": 1_700_000_360.0 + 100 * n},
                    "host": f"node{n}",
                    "engines": {
                        "engines": {
                            f"{m}-0": {"model": m, "replica": 0, "busy_seconds": 300.0 + n, "restarts": n % 2}
                            for m in config.models
                        },
                        "given_up": 0,
                    },
                },
                attempts=[here],
            )


def tokens(calls: list[Call]) -> dict[str, list[int]]:
    """As a shard counts them: by `role model`."""
    out: dict[str, list[int]] = {}
    for c in calls:
        role = c.key.split("/")[2].split("-")[0]
        total = out.setdefault(f"{role} {c.model}", [0, 0, 0])
        for i, n in enumerate((1, c.prompt_tokens, c.completion_tokens)):
            total[i] += n
    return out


def made_up(config: RunConfig, unit: Unit, calls: list[Call], acceptance: float) -> Sample:
    """A finished sample: what a committee might have made of it, drawn from its id."""
    s = replace(unit.sample)
    rng = random.Random(s.id)
    method = config.method

    def call(step: str, member: str, seat: str, text: str, finish: str = "stop") -> None:
        seconds = round(rng.uniform(0.5, 3), 3)
        calls.append(
            Call(
                f"{s.id}/{step}/{seat}/0", "d", member, config.committee[member].model, text, finish,
                rng.randint(50, 400), max(1, len(text) // 4), 1, 1_700_000_000.0 + rng.uniform(0, 300), seconds,
            )
        )  # fmt: skip
        s.calls += 1
        s.prompt_tokens += calls[-1].prompt_tokens
        s.completion_tokens += calls[-1].completion_tokens

    if s.round == 0:
        return described(s, unit, rng)
    s.keywords = tuple(rng.sample(WORDS, 3))
    call("keywords", s.roles.generator, "generator", ", ".join(s.keywords))
    text = " ".join(rng.choice(WORDS) for _ in range(rng.randint(20, 60)))
    twin = rng.random()
    if twin < 0.06:
        text = "the same old tale of a river and a lamp " * 3
    elif twin < 0.1:
        text += f" {BENCHMARK}"
    s.instruction = f"Write about {text} <b>&amp;</b>."
    call("instruction", s.roles.generator, "generator", s.instruction)
    if rng.random() < 0.05:
        s.status, s.stage, s.reason, s.raw = "failed", "instruction_review", "no JSON object", "I like <it>"
        return s
    for i, member in enumerate(s.roles.reviewers, 1):
        scores = {c: int(rng.random() < 0.97) for c in INSTRUCTION_CRITERIA}
        s.instruction_reviews.append(InstructionReview(member, scores, "fine"))
        call("review_instruction", member, f"reviewer-{i}", json.dumps(scores))
    if not all(r.passed for r in s.instruction_reviews):
        s.status, s.stage, s.reason = "rejected", "instruction_review", "zero for clarity"
        return s
    s.response = "Here: " + (
        "a river and a lamp" if twin < 0.06 else " ".join(rng.choice(WORDS) for _ in range(rng.randint(10, 200)))
    )
    call("response", s.roles.generator, "generator", s.response)
    if rng.random() < 0.05:
        s.status, s.stage, s.reason, s.raw = "failed", "response", "answer cut off at max_tokens", s.response
        s.response = ""
        return s
    base = 8.8 if rng.random() < acceptance else 5.5
    for i, member in enumerate(s.roles.reviewers, 1):
        lean = rng.gauss(0, 1.4)
        scores = {c: min(10, max(1, round(base + lean + rng.gauss(0, 0.5)))) for c in CRITERIA}
        s.reviews.append(Review(member, scores, rng.choice(["good", "too short", "clear | enough", "wrong <tag>"])))
        call("review_response", member, f"reviewer-{i}", json.dumps(scores))
    result = consensus(s.reviews, method)
    s.mean, s.sd, s.score = result.mean, result.sd, result.mean
    if result.decision is Decision.reject:
        s.status, s.stage, s.reason = "rejected", "response_review", "mean below the threshold"
        return s
    if result.decision is Decision.adjudicate:
        scores = {c: rng.randint(6, 10) for c in CRITERIA}
        s.verdict = Review(s.roles.adjudicator, scores, "settled")
        call("adjudicate", s.roles.adjudicator, "adjudicator", json.dumps(scores))
        s.score = s.verdict.mean
        if not at_least(s.score, method.adjudicate_mean):
            s.status, s.stage, s.reason = "rejected", "adjudication", "mean below the threshold"
            return s
    s.summary, s.status = f"About {s.keywords[0]}.", "accepted"
    call("summary", s.roles.summarizer, "summarizer", s.summary)
    return s


def described(s: Sample, unit: Unit, rng: random.Random) -> Sample:
    """A seed as round 0 leaves it: one in four could not be described."""
    s.instruction, s.response = unit.anchor.instruction, unit.anchor.response
    if int(s.id[:4], 16) % 4 == 0:
        s.status, s.stage, s.reason, s.raw = "failed", "prepare", "no JSON object", "well"
        return s
    s.domain, s.keywords, s.summary = rng.choice(DOMAINS), tuple(rng.sample(WORDS, 3)), "A seed."
    s.status = "accepted"
    return s
