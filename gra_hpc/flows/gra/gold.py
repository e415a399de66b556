"""Gold questions: a record with a known verdict, put to a sample's Reviewers as if it were a sample.

The Reviewers are asked in the same words, so that no model can tell. A Reviewer's verdict is its own mean against
`accept_mean`, the committee's threshold.
"""

from __future__ import annotations

from gra_hpc.config.settings import MethodConfig
from gra_hpc.flows.ask import Ask, Unanswered, together
from gra_hpc.flows.criteria import rubric_of
from gra_hpc.flows.gra import questions as q
from gra_hpc.flows.gra.committee import at_least
from gra_hpc.flows.registry import Gold
from gra_hpc.records import Candidate, Sample


async def put(ask: Ask, question: Candidate) -> list[tuple[str, int | None]]:
    """Ask all Reviewers about the response, whatever the others say.

    Args:
        question: instruction, response and roles set; it is no candidate of the run.

    Returns:
        Member, and its scores added up (6 to 60 for the paper's six); none where it had no answer that can be used.
    """
    assert isinstance(question, Sample)

    async def one(seat: int, member: str) -> tuple[str, int | None]:
        texts = {"instruction": question.instruction, "context": "", "response": question.response}
        try:
            scores, _ = await ask(q.REVIEW_RESPONSE, member, f"reviewer-{seat}", **texts)
        except Unanswered:
            return member, None
        return member, sum(scores.values())

    return await together([one(i, member) for i, member in enumerate(question.roles.reviewers, 1)])


def keeps(points: int, method: MethodConfig) -> bool:
    """Whether scores that add up to so many points are a yes."""
    return at_least(points / len(rubric_of(method).response), method.accept_mean)


GOLD = Gold(put, keeps)
