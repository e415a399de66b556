"""The records that travel through a run, their ids and their Arrow schemas.

A `Record` is a row of the pool: a seed, or an accepted sample of an earlier round. A `Sample` is one planned
candidate with its whole history, whatever became of it.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    import pyarrow as pa

DOMAINS = ("coding", "math", "qa", "reasoning", "role_play", "language", "creation")
"""The seven domains of the paper, section 3."""

CODING = "coding"
"""The domain whose texts are compared as code."""

CRITERIA = ("correctness", "clarity", "completeness", "relevance", "coherence", "ethicality")
"""What a Reviewer scores from 1 to 10 (paper, section 3.3)."""

INSTRUCTION_CRITERIA = ("reasonableness", "completeness", "clarity")
"""What a Reviewer answers with 0 or 1 about an instruction."""

ACCEPTED, REJECTED, FAILED = "accepted", "rejected", "failed"


@dataclass(frozen=True, slots=True)
class Rubric:
    """The names of what Reviewers score, in order: columns of their reviews."""

    response: tuple[str, ...] = CRITERIA
    instruction: tuple[str, ...] = INSTRUCTION_CRITERIA

    @classmethod
    def of(cls, frozen: Mapping[str, Any]) -> Rubric:
        """That of a run, by what its plan has frozen: the paper's, where nothing is said of it."""
        return cls(**{kind: tuple(names) for kind, names in frozen.get("rubric", {}).items()})


PAPER = Rubric()
"""The paper's."""
COUNTS = range(2, 13)
"""So many criteria responses may be scored by."""
_REVIEWER = ("member", "model", "comment")
"""What a review has beside its scores."""
TAKEN = (*_REVIEWER, "scores", "mean")
"""Names that no criterion can have."""


def criteria_of(review: pa.DataType) -> tuple[str, ...]:
    """The criteria that reviews of a table have scores of, by the type of one."""
    return tuple(f.name for f in review if f.name not in _REVIEWER)


def scores_of(review: Mapping[str, Any]) -> dict[str, int]:
    """The scores of a review that was read from a table, by criterion."""
    return {name: score for name, score in review.items() if name not in _REVIEWER}


def mean_of(review: Mapping[str, Any]) -> float:
    """The mean of a review that was read from a table."""
    scores = scores_of(review)
    return sum(scores.values()) / len(scores)


def digest(*parts: object, size: int = 16) -> str:
    """Hex digest of JSON-able parts: the same parts give the same id on every machine."""
    payload = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(payload, digest_size=size).hexdigest()


@dataclass(frozen=True, slots=True)
class Record:
    """A row of the pool."""

    id: str
    """Digest of content and occurrence for a seed; the sample's id for an accepted sample."""
    instruction: str
    response: str
    domain: str = ""
    """One of `DOMAINS`; empty before round 0."""
    keywords: tuple[str, ...] = ()
    summary: str = ""
    score: float | None = None
    """Mean review score, 1 to 10; none for a seed."""
    round: int = 0
    """0 for a seed."""
    seed_id: str = ""
    """The seed a sample was anchored on; a seed's own id."""
    source: str = ""
    """For a seed: `file:line` or `dataset:row`."""
    thoughts: str = ""
    """For a seed: what its response was thought out with, as it came with it."""
    context: str = ""
    """What the response answers, where that is more than the instruction (`conversation.pack`)."""

    @property
    def described(self) -> bool:
        """Whether round 0 has nothing left to add."""
        return bool(self.domain and self.keywords and self.summary)


def seed_id(instruction: str, response: str, occurrence: int, context: str = "") -> str:
    """Id of a seed: its content, and how many seeds with this content came before it."""
    return digest("seed", instruction, response, occurrence, *([context] if context else []))


def sample_id(round_: int, seed: str, index: int) -> str:
    """Id of a candidate: independent of the seed's position, the shard and the number of shards."""
    return digest("sample", round_, seed, index)


@dataclass(frozen=True, slots=True)
class Roles:
    """Who does what for one sample: names of committee members."""

    generator: str
    reviewers: tuple[str, ...]
    adjudicator: str
    """Empty when no member is left: then drawn after the reviews (see `committee.late_adjudicator`)."""
    summarizer: str


@dataclass(frozen=True, slots=True)
class InstructionReview:
    """One Reviewer's judgement of an instruction; scores are 0 or 1."""

    member: str
    scores: dict[str, int]
    comment: str = ""

    @property
    def passed(self) -> bool:
        return all(score == 1 for score in self.scores.values())


@dataclass(frozen=True, slots=True)
class Review:
    """One member's scores of a response (a Reviewer's review, or the Adjudicator's verdict); scores are 1 to 10."""

    member: str
    scores: dict[str, int]
    comment: str = ""

    @property
    def mean(self) -> float:
        return sum(self.scores.values()) / len(self.scores)


@dataclass(slots=True)
class Candidate(ABC):
    """One candidate of any flow: what all have in common. Filled in by its flow; `status` is set exactly once, at the
    end."""

    id: str
    round: int
    seed_id: str
    index: int
    score: float | None = field(default=None, kw_only=True)
    """What the merge ranks by; none: behind all that have one."""
    status: str = field(default="", kw_only=True)
    """accepted, rejected or failed."""
    stage: str = field(default="", kw_only=True)
    """Where a rejected or failed candidate ended."""
    reason: str = field(default="", kw_only=True)
    raw: str = field(default="", kw_only=True)
    """The answer that could not be used, as the model gave it."""
    calls: int = field(default=0, kw_only=True)
    prompt_tokens: int = field(default=0, kw_only=True)
    completion_tokens: int = field(default=0, kw_only=True)
    thoughts: str = field(default="", kw_only=True)
    """What the answer that is kept was thought out with, without marks."""

    @abstractmethod
    def row(self) -> dict[str, Any]:
        """As a row of its flow's table, without the embedding."""


@dataclass(slots=True)
class Sample(Candidate):
    """A candidate of GRA and its whole history. Its score is the Adjudicator's mean if there was a verdict, else mu."""

    domain: str
    roles: Roles
    examples: tuple[str, ...] = ()
    """Ids of the pool records shown to the Generator."""
    keywords: tuple[str, ...] = ()
    instruction: str = ""
    response: str = ""
    summary: str = ""
    instruction_reviews: list[InstructionReview] = field(default_factory=list)
    reviews: list[Review] = field(default_factory=list)
    verdict: Review | None = None
    mean: float | None = None
    """Mean over Reviewers (mu)."""
    sd: float | None = None
    """Population standard deviation over Reviewers."""
    context: str = ""
    """What the response answers, where that is more than the instruction: its seed's."""
    propensity: float = 1.0
    """The chance that its Generator had to be drawn for it."""

    def row(self) -> dict[str, Any]:
        """As a row of `sample_schema`, with thoughts, context and propensity."""
        return {
            "id": self.id,
            "round": self.round,
            "seed_id": self.seed_id,
            "index": self.index,
            "domain": self.domain,
            "generator": self.roles.generator,
            "reviewers": list(self.roles.reviewers),
            "adjudicator": self.verdict.member if self.verdict else self.roles.adjudicator,
            "summarizer": self.roles.summarizer,
            "examples": list(self.examples),
            "keywords": list(self.keywords),
            "instruction": self.instruction,
            "response": self.response,
            "summary": self.summary,
            "instruction_reviews": [
                {"member": r.member, "comment": r.comment, **r.scores} for r in self.instruction_reviews
            ],
            "reviews": [{"member": r.member, "comment": r.comment, **r.scores} for r in self.reviews],
            "verdict": {"member": self.verdict.member, "comment": self.verdict.comment, **self.verdict.scores}
            if self.verdict
            else None,
            "mean": self.mean,
            "sd": self.sd,
            "score": self.score,
            "status": self.status,
            "stage": self.stage,
            "reason": self.reason,
            "raw": self.raw,
            "calls": self.calls,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            THOUGHTS: self.thoughts,
            CONTEXT: self.context,
            PROPENSITY: self.propensity,
        }


@dataclass(frozen=True, slots=True)
class Call:
    """One answered model call, as the journal keeps it."""

    key: str
    """`sample id/step/seat/try`."""
    digest: str
    """Digest of the request: messages, sampling with its seed, schema, model."""
    member: str
    model: str
    text: str
    finish: str
    """stop, length, thoughts (they did not end), encoding (not valid Unicode: text holds it written out), or error (the
    engine refused the request; text holds its words)."""
    prompt_tokens: int
    completion_tokens: int
    seed: int
    at: float
    """Unix time of the answer, in seconds."""
    seconds: float
    thoughts: str = ""
    """What the model thought before its answer."""


THOUGHTS = "thoughts"
"""A column of tables of runs in which there are thoughts; other runs' tables do not have it."""
CONTEXT = "context"
"""A column of tables of runs whose seeds have context; other runs' tables do not have it."""
PROPENSITY = "propensity"
"""A column of tables of runs whose roles follow performance; other runs' tables do not have it."""


def record_schema(thoughts: bool = False, context: bool = False) -> pa.Schema:
    """Arrow schema of `Record`: seeds.parquet and pool.parquet.

    Args:
        thoughts: with their column.
        context: with its column.
    """
    import pyarrow as pa

    return pa.schema(
        [
            ("id", pa.string()),
            ("instruction", pa.string()),
            ("response", pa.string()),
            ("domain", pa.string()),
            ("keywords", pa.list_(pa.string())),
            ("summary", pa.string()),
            ("score", pa.float64()),
            ("round", pa.int32()),
            ("seed_id", pa.string()),
            ("source", pa.string()),
            *([(THOUGHTS, pa.string())] if thoughts else []),
            *([(CONTEXT, pa.string())] if context else []),
        ]
    )


def end_columns() -> list[tuple[str, pa.DataType]]:
    """Columns that every flow's samples end with: how the candidate ended, and what it cost."""
    import pyarrow as pa

    return [
        ("score", pa.float64()),
        ("status", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("raw", pa.string()),
        ("calls", pa.int32()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("embedding", pa.binary()),
    ]


def sample_schema(
    thoughts: bool = False, context: bool = False, propensity: bool = False, rubric: Rubric = PAPER
) -> pa.Schema:
    """Arrow schema of `Sample`: a shard's samples.parquet. `embedding` holds float16 little-endian bytes or null.

    Args:
        thoughts: with their column.
        context: with its column.
        propensity: with its column.
        rubric: the criteria of its reviews.
    """
    import pyarrow as pa

    names = [("member", pa.string()), ("comment", pa.string())]
    instruction_review = pa.struct([*names, *((c, pa.int8()) for c in rubric.instruction)])
    review = pa.struct([*names, *((c, pa.int8()) for c in rubric.response)])
    return pa.schema(
        [
            ("id", pa.string()),
            ("round", pa.int32()),
            ("seed_id", pa.string()),
            ("index", pa.int32()),
            ("domain", pa.string()),
            ("generator", pa.string()),
            ("reviewers", pa.list_(pa.string())),
            ("adjudicator", pa.string()),
            ("summarizer", pa.string()),
            ("examples", pa.list_(pa.string())),
            ("keywords", pa.list_(pa.string())),
            ("instruction", pa.string()),
            ("response", pa.string()),
            ("summary", pa.string()),
            ("instruction_reviews", pa.list_(instruction_review)),
            ("reviews", pa.list_(review)),
            ("verdict", review),
            ("mean", pa.float64()),
            ("sd", pa.float64()),
            *end_columns(),
            *([(THOUGHTS, pa.string())] if thoughts else []),
            *([(CONTEXT, pa.string())] if context else []),
            *([(PROPENSITY, pa.float64())] if propensity else []),
        ]
    )


def optional_columns() -> dict[str, pa.DataType]:
    """Columns that only some runs' samples and records have, with their types."""
    import pyarrow as pa

    return {THOUGHTS: pa.string(), CONTEXT: pa.string(), PROPENSITY: pa.float64()}


def call_schema(thoughts: bool = False) -> pa.Schema:
    """Arrow schema of `Call`: a shard's calls.parquet.

    Args:
        thoughts: with their column.
    """
    import pyarrow as pa

    return pa.schema(
        [
            ("key", pa.string()),
            ("digest", pa.string()),
            ("member", pa.string()),
            ("model", pa.string()),
            ("text", pa.string()),
            ("finish", pa.string()),
            ("prompt_tokens", pa.int32()),
            ("completion_tokens", pa.int32()),
            ("seed", pa.int64()),
            ("at", pa.float64()),
            ("seconds", pa.float64()),
            *([(THOUGHTS, pa.string())] if thoughts else []),
        ]
    )
