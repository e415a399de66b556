"""The gold questions of a run: which candidates have one beside them, and what was answered.

A candidate has a gold question by its id alone, so that shards, attempts and resumes ask the same ones. The question is
put to the candidate's own Reviewers, under an id of its own: no sample, no key of another call and no table but that of
the calls knows of it. Answers are in the shard's manifest, by question and member.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gra_hpc.config.settings import MethodConfig
from gra_hpc.errors import ReleaseError
from gra_hpc.flows.registry import find
from gra_hpc.labels.marks import Marks
from gra_hpc.records import Candidate, Sample, digest
from gra_hpc.run.directory import RunDir
from gra_hpc.run.merged import as_planned
from gra_hpc.run.plan import Plan
from gra_hpc.run.shard_manifest import GoldAnswer
from gra_hpc.sources.gold import KEEP, Gold, parse
from gra_hpc.storage import read_regular


@dataclass(frozen=True)
class GoldQuestions:
    """All of a run."""

    questions: list[Gold]
    """In the order of their ids."""
    _by: dict[tuple[bool, str], list[Gold]] = field(init=False, default_factory=dict)
    """By verdict and domain; under no domain all of a verdict."""

    def __post_init__(self) -> None:
        for one in self.questions:
            for domain in {one.domain, ""}:
                self._by.setdefault((one.keep, domain), []).append(one)

    @classmethod
    def of(cls, run: RunDir, plan: Plan) -> GoldQuestions | None:
        """Those that were planned; none where there are none.

        Raises:
            ReleaseError: their file is not as it was planned.
        """
        if not plan.gold:
            return None
        path = as_planned(run, plan, run.gold)
        try:
            return cls(parse(read_regular(path)))
        except (ValueError, TypeError) as e:
            raise ReleaseError(f"{path}: not the gold questions of a run ({e})", run.anew()) from None

    def beside(self, sample: Candidate, method: MethodConfig) -> tuple[Gold, Sample] | None:
        """The question beside a candidate, as a sample that its Reviewers are asked about; for most none.

        Both verdicts are as likely; the question is of the candidate's domain where there is one.
        """
        assert isinstance(sample, Sample)
        rng = random.Random(digest(method.seed, "gold", sample.id))
        if rng.random() >= method.gold_rate:
            return None
        keep = rng.random() < 0.5
        one = rng.choice(self._by.get((keep, sample.domain)) or self._by[keep, ""])
        asked = Sample(digest("gold", sample.id), sample.round, one.id, sample.index, one.domain, sample.roles)
        asked.instruction, asked.response = one.instruction, one.response
        return one, asked


@dataclass
class Counted:
    """Answers to gold questions, counted."""

    members: dict[str, Marks] = field(default_factory=dict)
    by_domain: dict[str, dict[str, Marks]] = field(default_factory=dict)
    """By domain and member; the empty one: questions of none."""
    questions: dict[str, list[int]] = field(default_factory=dict)
    """Right answers, and answers, by the question's id."""

    @classmethod
    def of(cls, gold: GoldQuestions, answers: Iterable[GoldAnswer], method: MethodConfig) -> Counted:
        """Count answers; those to questions that the run does not have are left out."""
        out, known = cls(), {one.id: one for one in gold.questions}
        says = find(method.flow).gold
        assert says, "planned with such questions alone"
        for answer in answers:
            one = known.get(answer.question)
            if one is None:
                continue
            would = None if answer.points is None else says.keeps(answer.points, method)
            for marks in (out.members, out.by_domain.setdefault(one.domain, {})):
                marks.setdefault(answer.member, Marks()).add(one.keep, would)
            if would is not None:
                this = Marks()
                this.add(one.keep, would)
                right, asked = out.questions.get(one.id, [0, 0])
                out.questions[one.id] = [right + this.right, asked + 1]
        return out


def planned(questions: Iterable[Gold]) -> dict[str, int]:
    """What the plan says of the questions: how many are to be kept and rejected; nothing of none."""
    keeps = [one.keep for one in questions]
    return {KEEP: sum(keeps), "reject": len(keeps) - sum(keeps)} if keeps else {}


def entries(answers: Iterable[tuple[str, str, int | None]]) -> list[list[Any]]:
    """Answers as a manifest keeps them, in an order of their own."""
    return [list(a) for a in sorted(answers, key=lambda a: (a[0], a[1], a[2] or 0))]
