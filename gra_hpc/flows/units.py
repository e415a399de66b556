"""What a flow is given: a pool to draw from, and one candidate to make."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from gra_hpc.config.settings import MethodConfig, RunConfig
from gra_hpc.errors import GraError
from gra_hpc.flows.ask import Ask, Question, together
from gra_hpc.flows.payload import Made
from gra_hpc.flows.tools import Tool, Use
from gra_hpc.records import Candidate, Record

T = TypeVar("T")
Seated = TypeVar("Seated")

Embed: TypeAlias = Callable[[Sequence[str]], Any]
"""Vectors of texts: float [n, d], of length one."""


def settings_of(config: RunConfig) -> Any:
    """The section of a run's flow, of the type that `Flow.settings` says."""
    return getattr(config, config.method.flow)


def seated(seats: Mapping[str, Seated], role: str, flow: str, step: str) -> Seated:
    """Who has a role: its members, or their shares.

    Args:
        seats: by role.
        role: who is asked; empty: there is no first role.
        flow: its name.
        step: what they are asked.

    Raises:
        GraError: the role has no seats.
    """
    if role not in seats:
        who, others = f"the role {role}" if role else "its first role", ", ".join(seats) or "none"
        raise GraError(
            f"flow {flow}: question {step} is for {who}, which has no seat; roles that have: {others}",
            "mend the flow's roles, or what draws them, and plan a new run  (docs/flows.md)",
        )
    return seats[role]


@dataclass
class Pool:
    """Seeds and accepted samples so far, by domain."""

    anchors: list[Record]
    """The seeds, in the plan's order."""
    by_domain: dict[str, list[Record]]


@dataclass(frozen=True)
class Unit:
    """One candidate to make."""

    sample: Candidate
    """Filled in by the flow; its status is set exactly once, at the end."""
    anchor: Record
    """The seed it rests on."""
    examples: tuple[Record, ...] = ()

    @property
    def made(self) -> Made[Any]:
        """The candidate of a flow with a result of its own."""
        assert isinstance(self.sample, Made)
        return self.sample

    @property
    def tools(self) -> tuple[Tool, ...]:
        """Those that it may use and that are to be made ready."""
        return ()


@dataclass(frozen=True)
class Draw:
    """What the candidates of a slice are drawn from."""

    config: RunConfig
    pool: Pool
    round: int
    """0: the seeds are described."""
    standing: Mapping[str, Any] = field(default_factory=dict)
    """What the rounds before have left for this one's draws; empty: nothing."""
    anchors: Sequence[Record] = ()
    """The seeds that candidates of the slice rest on."""
    embed: Embed | None = None
    """Of `merge.embed_model`; none where nothing is to be computed (prompts that are only shown)."""

    @property
    def settings(self) -> Any:
        """The flow's own section of the configuration."""
        return settings_of(self.config)


Drawn: TypeAlias = Callable[[str, Record, int, random.Random], Unit]
"""`drawn(id, anchor, index, rng)`: a candidate; `rng` is seeded by its id, so that it is the same in every attempt."""


@dataclass(frozen=True)
class Context:
    """What a flow has at hand while it makes one candidate."""

    ask: Ask
    config: RunConfig
    use: Use
    """Has a tool work, whose results are kept as answers are."""

    async def ask_all(self, question: Question[T], made: Made[Any], /, **variables: Any) -> list[tuple[str, T]]:
        """Ask all who have the question's role for a candidate, at once and apart from each other.

        Args:
            variables: the template's.

        Returns:
            Member and answer, in the order of the seats (`ROLE-1`, `ROLE-2`, ... in the calls' keys).

        Raises:
            Unanswered: one has no usable answer within the bound.
            GraError: nobody has the role.
        """
        role = question.role or next(iter(made.seats), "")
        members = seated(made.seats, role, made.flow, question.step)
        asked = [self.ask(question, member, f"{role}-{i}", **variables) for i, member in enumerate(members, 1)]
        return list(zip(members, await together(asked), strict=True))

    @property
    def settings(self) -> Any:
        """The flow's own section of the configuration."""
        return settings_of(self.config)

    @property
    def method(self) -> MethodConfig:
        """Thresholds and policies."""
        return self.config.method
