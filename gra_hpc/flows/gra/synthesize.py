"""GRA, as in the paper: generate, review, adjudicate. Change the method here and in the prompt templates."""

from __future__ import annotations

from collections.abc import Sequence

from gra_hpc.config.settings import MethodConfig, ReviewOrder, Settle
from gra_hpc.conversation import shown
from gra_hpc.flows import domains
from gra_hpc.flows.ask import Ask, Unanswered, together
from gra_hpc.flows.gra import questions as q
from gra_hpc.flows.gra.committee import (
    Decision,
    at_least,
    consensus,
    highest_mean,
    late_adjudicator,
    majority,
)
from gra_hpc.records import ACCEPTED, FAILED, REJECTED, InstructionReview, Record, Review, Sample

STOPPED = "mean cannot reach the threshold"
"""Why a sample is rejected before all Reviewers have scored it."""


async def synthesize(sample: Sample, examples: Sequence[Record], ask: Ask, method: MethodConfig) -> Sample:
    """Take one candidate through all stages; it ends accepted, rejected or failed.

    Args:
        sample: id, domain and roles set.
        examples: 2 to 4 records of the sample's domain, the anchor seed first.
        ask: asks a committee member.
        method: thresholds and policies.
    """
    try:
        await generate_instruction(sample, examples, ask, method)
        if method.review_instruction and not await review_instruction(sample, ask, method):
            return sample
        sample.response = await ask(q.RESPONSE, sample.roles.generator, "generator", instruction=sample.instruction)
        await judge_response(sample, ask, method)
    except Unanswered as e:
        fail(sample, e.stage, e.reason, e.raw)
    return sample


async def generate_instruction(sample: Sample, examples: Sequence[Record], ask: Ask, method: MethodConfig) -> None:
    """Steps 1.1 and 1.2: new keywords, and an instruction about them."""
    domain = domains.label(method, sample.domain)
    generator = sample.roles.generator
    sample.keywords = await ask(
        q.KEYWORDS, generator, "generator", domain_name=domain, examples=examples, keywords=method.keywords
    )
    sample.instruction = await ask(
        q.INSTRUCTION, generator, "generator", domain_name=domain, examples=examples, keywords=sample.keywords
    )


async def review_instruction(sample: Sample, ask: Ask, method: MethodConfig) -> bool:
    """Step 2a: one zero from any Reviewer rejects the sample, before its response is paid for. Bounded: nobody is asked
    after the first zero."""
    found: dict[int, InstructionReview] = {}

    async def review(seat: int, member: str) -> None:
        question = ask(q.REVIEW_INSTRUCTION, member, f"reviewer-{seat}", instruction=sample.instruction)
        found[seat] = InstructionReview(member, *await question)

    seats = enumerate(sample.roles.reviewers, 1)
    try:
        if method.review_order is ReviewOrder.together:
            await together([review(i, member) for i, member in seats])
        else:
            for i, member in seats:
                await review(i, member)
                if not found[i].passed:
                    break
    finally:  # where one has no answer, the others' reviews are kept with the failed sample
        sample.instruction_reviews = [found[i] for i in sorted(found)]
    if all(r.passed for r in sample.instruction_reviews):
        return True
    criteria = sample.instruction_reviews[0].scores
    zeros = [c for c in criteria if any(r.scores[c] == 0 for r in sample.instruction_reviews)]
    reject(sample, "instruction_review", f"zero for {', '.join(zeros)}")
    return False


async def judge_response(sample: Sample, ask: Ask, method: MethodConfig) -> None:
    """Steps 2b to 4: the Reviewers score, the committee decides, the Adjudicator settles, a summary is attached."""
    if method.review_response:
        if not await review_response(sample, ask, method):
            return reject(sample, "response_review", STOPPED)
        result = consensus(sample.reviews, method)
        sample.mean, sample.sd, sample.score = result.mean, result.sd, result.mean
        if result.decision is Decision.reject:
            return reject(sample, "response_review", "mean below the threshold")
        if result.decision is Decision.adjudicate and not await settle(sample, ask, method):
            return None
    await accept(sample, ask, method)
    return None


async def review_response(sample: Sample, ask: Ask, method: MethodConfig) -> bool:
    """Step 2b: scores from every Reviewer. Bounded: nobody is asked once the mean cannot reach the threshold any
    more, whatever the others say; then the sample has no mean, but a bound of it (`highest_mean`).

    Returns:
        Whether all have scored.
    """
    found: dict[int, Review] = {}
    texts = {
        "instruction": sample.instruction,
        "context": shown(sample.context),
        "response": sample.response,
    }

    async def review(seat: int, member: str) -> None:
        found[seat] = Review(member, *await ask(q.REVIEW_RESPONSE, member, f"reviewer-{seat}", **texts))

    seats = list(enumerate(sample.roles.reviewers, 1))
    try:
        if method.review_order is ReviewOrder.together:
            await together([review(i, member) for i, member in seats])
        else:
            for i, member in seats:
                await review(i, member)
                best = highest_mean([r.mean for r in found.values()], len(seats))
                if not at_least(best, method.accept_mean):
                    break
    finally:
        sample.reviews = [found[i] for i in sorted(found)]
    return len(found) == len(seats)


async def settle(sample: Sample, ask: Ask, method: MethodConfig) -> bool:
    """Step 3: the Reviewers disagree; the Adjudicator (or, as an ablation, their majority) decides."""
    if method.settle is Settle.majority:
        if majority(sample.reviews, method):
            return True
        reject(sample, "adjudication", "majority below the threshold")
        return False
    member = sample.roles.adjudicator or late_adjudicator(sample.roles.reviewers, sample.roles, sample.reviews)
    scores, comment = await ask(
        q.ADJUDICATE,
        member,
        "adjudicator",
        instruction=sample.instruction,
        context=shown(sample.context),
        response=sample.response,
        reviews=sample.reviews,
    )
    sample.verdict = Review(member, scores, comment)
    sample.score = sample.verdict.mean
    if at_least(sample.verdict.mean, method.adjudicate_mean):
        return True
    reject(sample, "adjudication", "mean below the threshold")
    return False


async def accept(sample: Sample, ask: Ask, method: MethodConfig) -> None:
    """Step 4.4: the summary, so that later rounds can draw the sample as an example.

    A paid and accepted sample is not lost for its summary: if none can be had, the instruction's first words serve.
    """
    try:
        sample.summary = await ask(
            q.SUMMARY,
            sample.roles.summarizer,
            "summarizer",
            instruction=sample.instruction,
            context=shown(sample.context),
            summary_words=method.summary_words,
        )
    except Unanswered:
        sample.summary = " ".join(sample.instruction.split()[: method.summary_words])
        sample.reason = "summary taken from the instruction"
    sample.status = ACCEPTED


def reject(sample: Sample, stage: str, reason: str) -> None:
    """The committee does not want it."""
    sample.status, sample.stage, sample.reason = REJECTED, stage, reason


def fail(sample: Sample, stage: str, reason: str, raw: str = "") -> None:
    """It could not be judged."""
    sample.status, sample.stage, sample.reason, sample.raw = FAILED, stage, reason, raw
