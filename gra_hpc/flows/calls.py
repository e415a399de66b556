"""The door to the engines: ask with messages and sampling, get text, thoughts, finish reason and token counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from gra_hpc.models.thinking import Thinking
from gra_hpc.records import digest


@dataclass(frozen=True, slots=True)
class Sampling:
    """Resolved sampling of one call."""

    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    repetition_penalty: float = 1.0
    thinking_tokens: int = 0
    """Longest thoughts, beside `max_tokens`, which bounds the answer; 0 for a model that does not think."""
    top_k: int = 0
    """So many likeliest tokens alone; 0: all."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer; it is without them."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question to one model."""

    model: str
    """Name of an entry in `models`."""
    identity: str
    """Digest of the model's files: what the answer depends on, wherever they lie."""
    messages: tuple[dict[str, str], ...]
    """Chat messages: role (system, user, assistant) and content."""
    sampling: Sampling
    schema: dict[str, Any] | None = None
    """JSON schema the answer must follow (guided decoding), or none for free text."""
    thinking: Thinking | None = None
    """How the model thinks; none for one that does not, whose digests say nothing of it."""
    choices: tuple[str, ...] = ()
    """Codes of one token each, of which the answer is one; how likely each is comes with it (`choices.py`)."""
    member: str = ""
    """Who is asked, and"""
    step: str = ""
    """what: for the simulated engine; no answer depends on them, and no digest says them."""

    @property
    def digest(self) -> str:
        """Digest of everything the answer depends on; independent of placement."""
        s = self.sampling
        sampling = [s.temperature, s.top_p, s.max_tokens, s.seed, s.repetition_penalty]
        thinking = [self.thinking.digested, s.thinking_tokens] if self.thinking else []
        named = ("choices", self.choices), ("stop", s.stop), ("top_k", (s.top_k,) if s.top_k else ())
        more = [[name, *what] for name, what in named if what]
        return digest(self.identity, self.messages, sampling, self.schema, *thinking, *more)


@dataclass(frozen=True, slots=True)
class Answer:
    """One model's answer."""

    text: str
    finish: str
    """stop, length, thoughts (they did not end: there is no answer), or error (the engine refused the request; text
    holds its words)."""
    prompt_tokens: int
    completion_tokens: int
    """Thoughts included."""
    seconds: float
    thoughts: str = ""
    """What the model thought first."""


class Draining(Exception):
    """A call that is not asked any more, because the attempt is about to end."""


class Engine(Protocol):
    """Anything that answers. Implementations: `node.Node` (real engines), `simulated.SimulatedEngine`."""

    async def ask(self, request: Request) -> Answer:
        """Answer a request.

        A request that the model itself cannot serve (too long, refused) is answered with finish `error`.

        Raises:
            EngineError: no engine for the model can be kept running; the attempt must end.
        """
        ...
