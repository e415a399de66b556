"""`ask`: from a question to an answered, journalled call, with bounded retries. The only thing a flow awaits."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from gra_hpc.config.settings import MemberConfig, MethodConfig, SamplingConfig
from gra_hpc.flows.calls import Engine, Request, Sampling
from gra_hpc.flows.parsing import Unparsable
from gra_hpc.flows.render import Own, render, wording
from gra_hpc.models import special_tokens
from gra_hpc.models.thinking import Thinking
from gra_hpc.records import Call, Candidate, digest
from gra_hpc.thoughts import apart, mark_in, without_marks

T = TypeVar("T")


@dataclass(frozen=True)
class Question(Generic[T]):
    """One kind of question."""

    step: str
    """Name in the call's key; also the template's name."""
    prompts: Path = field(kw_only=True)
    """Directory of its template."""
    stage: str
    """Where a sample ends in the ledger if this cannot be answered."""
    parse: Callable[[str, dict[str, Any]], T]
    """From the answer and the template's variables to a value; raises `parsing.Unparsable`."""
    schema: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """From the template's variables to the JSON schema for guided decoding."""
    keeps_thoughts: bool = False
    """What was thought before the answer stays with the sample."""
    choices: Callable[[dict[str, Any]], tuple[str, ...]] | None = None
    """From the template's variables to the codes of which the answer is one; `parse` reads it by `choices.read`."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer, which is without them."""
    role: str = ""
    """Who is asked, where the flow leaves that to `Context.ask_all` and `Flow.expect`; empty: its first role."""


class Unanswered(Exception):
    """A question without a usable answer after all tries: the sample has failed, with stage, cause and raw text."""

    def __init__(self, stage: str, reason: str, raw: str) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage, self.reason, self.raw = stage, reason, raw


class Ask(Protocol):
    """What a flow is given for one sample."""

    async def __call__(self, question: Question[T], member: str, seat: str, /, **variables: Any) -> T:
        """Ask a committee member; `seat` is generator, reviewer-1, ..., adjudicator, summarizer.

        Raises:
            Unanswered: no usable answer within the bound.
        """
        ...


_Settled = tuple[tuple[float, float, int], tuple[float, int, int, tuple[str, ...]]]
"""The fields of a `Sampling` before its seed, and behind it."""


class Calls(Protocol):
    """Where answered calls are kept (`journal.Journal`)."""

    def get(self, key: str, digest: str) -> Call | None: ...

    def append(self, call: Call) -> None: ...


@dataclass(frozen=True)
class Asker:
    """Asks the committee's members, through the engines, and remembers every answer."""

    members: dict[str, MemberConfig]
    identities: dict[str, str]
    """Digest of each model's files, by model name."""
    method: MethodConfig
    engine: Engine
    calls: Calls
    answered: Callable[[str, Call, bool], None]
    """Told of every call: role, call, and whether an engine was asked (or a journal)."""
    special: re.Pattern[str] = special_tokens.COMMON
    """Finds a special token of the committee's models: an answer becomes part of their prompts."""
    thinking: Mapping[str, Thinking | None] = field(default_factory=dict)
    """How each model thinks, by model name."""
    own: Own = ()
    """Templates of the run's own."""
    languages: Callable[[str], str] = lambda _: ""
    """The language that is asked for, by the seed's id; empty: none is."""
    _settled: dict[tuple[int, str, bool, tuple[str, ...]], tuple[MemberConfig, _Settled]] = field(default_factory=dict)
    """What was settled of sampling, by member (each is kept, so that no other takes its number), role and kind."""

    def for_sample(self, sample: Candidate) -> Ask:
        """`ask` for one sample; counts its calls and tokens."""
        common = wording(self.method) | {"language": self.languages(sample.seed_id)}

        async def ask(question: Question[T], member: str, seat: str, /, **own: Any) -> T:
            variables = common | own
            reason, raw = "", ""
            for attempt in range(self.method.max_tries):
                key = f"{sample.id}/{question.step}/{seat}/{attempt}"
                call = await self._call(key, question, member, seat, variables)
                sample.calls += 1
                sample.prompt_tokens += call.prompt_tokens
                sample.completion_tokens += call.completion_tokens
                mark = mark_in(call.text)
                raw = "" if mark else call.text  # rejects are released too, and without thoughts
                if reason := self._unusable(call, mark, question.keeps_thoughts):
                    if call.finish == "error":
                        break
                    continue
                try:
                    answer = question.parse(call.text, variables)
                except Unparsable as e:
                    reason = str(e)
                    continue
                if question.keeps_thoughts:
                    sample.thoughts = without_marks(call.thoughts)
                return answer
            raise Unanswered(question.stage, reason, raw)

        return ask

    def _unusable(self, call: Call, mark: str, keeps_thoughts: bool) -> str:
        """Why an answer is none; empty: it may be one. `mark` is one of thoughts in its text."""
        if call.finish == "error":
            return "engine died" if "engine died" in call.text else "refused by the engine"
        if call.finish == "thoughts":
            return "thoughts did not end"
        if mark:
            return f"thoughts in the answer: {mark}" if apart(call.text).ended else "thoughts did not end"
        if call.finish == "length":
            return "answer cut off at max_tokens"
        if call.finish == "encoding":
            return "answer is not valid Unicode"
        if "\0" in call.text or (keeps_thoughts and "\0" in call.thoughts):
            return "NUL character in the answer"
        if found := self.special.search(call.text):
            return f"control token {found[0]}"
        if keeps_thoughts and (found := self.special.search(call.thoughts)):
            return f"control token {found[0]} in the thoughts"
        return ""

    def request(self, key: str, question: Question[Any], member: str, seat: str, variables: dict[str, Any]) -> Request:
        """The request behind a key: a pure function of configuration, prompts, sample and try."""
        m = self.members[member]
        thinking = self.thinking.get(m.model)
        return Request(
            model=m.model,
            identity=self.identities[m.model],
            messages=render(question.step, variables, question.prompts, m.persona, self.own),
            sampling=self.sampling(m, seat, bool(question.schema or question.choices), key, question.stop),
            schema=question.schema(variables) if question.schema else None,
            thinking=thinking,
            choices=question.choices(variables) if question.choices else (),
            member=member,
            step=question.step,
        )

    def sampling(self, member: MemberConfig, seat: str, guided: bool, key: str, stop: tuple[str, ...] = ()) -> Sampling:
        """The member's setting, else the role's, else the method's; the seed derives from the call's key."""
        role = seat.split("-")[0]
        asked = (id(member), role, guided, stop)
        known = self._settled.get(asked)
        if known is None:
            known = self._settled[asked] = member, self._settle(member, role, guided, stop)
        (temperature, top_p, longest), others = known[1]
        seed = int(digest(self.method.seed, key, size=4), 16) & 0x7FFFFFFF
        return Sampling(temperature, top_p, longest, seed, *others)

    def _settle(self, member: MemberConfig, role: str, guided: bool, stop: tuple[str, ...]) -> _Settled:
        """What the calls of a member in a role have in common: all but the seed, which is between the two."""
        layers = [member.sampling, self.method.role_sampling.get(role, SamplingConfig()), self.method.sampling]

        def first(name: str, default: float) -> float:
            return next((v for s in layers if (v := getattr(s, name)) is not None), default)

        longest = int(first("max_tokens", 4096))
        thinks = self.thinking.get(member.model)
        return (
            (
                first("temperature", 0.2),
                first("top_p", 0.9),
                min(longest, self.method.verdict_tokens) if guided else longest,
            ),
            (
                # JSON repeats its own punctuation, and honest scores repeat: no penalty on them
                1.0 if guided else first("repetition_penalty", 1.0),
                int(first("thinking_tokens", 2048)) if thinks and thinks.on else 0,
                int(first("top_k", 0)),
                stop,
            ),
        )

    async def _call(self, key: str, question: Question[Any], member: str, seat: str, variables: dict[str, Any]) -> Call:
        request = self.request(key, question, member, seat, variables)
        request_digest = request.digest
        role = seat.split("-")[0]
        known = self.calls.get(key, request_digest)
        if known is not None:
            self.answered(role, known, False)
            return known
        answer = await self.engine.ask(request)
        text, finish = _writable(answer.text), answer.finish
        if text != answer.text and finish == "stop":
            finish = "encoding"
        call = Call(
            key=key,
            digest=request_digest,
            member=member,
            model=request.model,
            text=text,
            finish=finish,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            seed=request.sampling.seed,
            at=time.time(),
            seconds=answer.seconds,
            thoughts=_writable(answer.thoughts),
        )
        self.calls.append(call)
        self.answered(role, call, True)
        return call


def _writable(text: str) -> str:
    """A text that UTF-8 can hold: half of a pair, which no file takes, is written out (`\\ud83d`)."""
    return text.encode("utf-8", "backslashreplace").decode()


async def together(questions: Sequence[Awaitable[T]]) -> list[T]:
    """All answers, in order. Where several fail, every one is still awaited, and the first in order is raised: what a
    sample ends with does not depend on which answer came first. An interruption goes before an answer that cannot be
    used: the sample is not at its end, and the next attempt goes on with it."""
    results = await asyncio.gather(*questions, return_exceptions=True)
    errors = [r for r in results if isinstance(r, BaseException)]
    for e in errors:
        if not isinstance(e, Unanswered):
            raise e
    if errors:
        raise errors[0]
    return results  # type: ignore[return-value]
