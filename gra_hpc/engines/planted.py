"""A planted committee: the simulated engine answers right as often as a table says, member by member.

The instrument for what is to find out who is right (votes, weights, Dawid and Skene, chains, standings): the truth is
written in each text, where `engine.simulated_truth` finds it, and no language model knows anything. A table of skill,
`engine.simulated_skill`, has by member and question how often the answer is right, or how likely each answer is:

    ada: {"*": 0.9}
    ben: {annotate: {sports: 0.6, "*": 0.8}, settle: {"*": {yes: 0.7, no: 0.3}}}

`*` stands for all that are not named. The innermost keys are the truth itself, or what a group named `by` of the
expression finds beside it: a domain, a language.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gra_hpc.flows.calls import Answer, Request
from gra_hpc.flows.choices import written

Row = Mapping[str, Any]
"""What one member does: by question (or `*`), by truth (or `*`) a share of right answers, or shares of answers."""


class Planted:
    """Puts right and wrong answers into those of the simulated engine.

    Args:
        truth: regular expression; its group `truth`, else its first one, is the right answer.
        skill: the table, by member.
    """

    def __init__(self, truth: str, skill: Mapping[str, Row]) -> None:
        self._truth, self._skill = re.compile(truth), skill

    def answered(self, request: Request, simulated: Answer) -> Answer:
        """The answer, right or wrong as the table has it; as it was where there is no truth, no row, or no place for
        one: a question with choices, or a schema one of whose parts is a list of answers that has the truth."""
        found = next((m for t in request.messages[::-1] if (m := self._truth.search(t["content"]))), None)
        if found is None or simulated.finish != "stop":
            return simulated
        named = found.groupdict()
        truth, by = named.get("truth") or found[1], named.get("by") or ""
        share = _share(self._skill, request.member, request.step, by or truth)
        if share is None:
            return simulated
        rng = _numbers(request)
        if request.choices:
            codes = {code: _meaning(request, code) for code in request.choices}
            right = next((code for code, meaning in codes.items() if truth in (code, meaning)), None)
            if right is None:
                return simulated
            shares = _shares(share, right, request.choices, codes)
            answer = _drawn(shares, rng)
            scores = {code: math.log(max(p, 1e-9)) for code, p in shares.items()}
            return _with_text(simulated, written(answer, scores))
        value = orjson.loads(simulated.text) if request.schema else None
        if not isinstance(value, dict) or request.schema is None:
            return simulated
        for name, part in request.schema.get("properties", {}).items():
            options = {str(o): o for o in part.get("enum", ())}
            if truth in options:
                value[name] = options[_drawn(_shares(share, truth, list(options), {}), rng)]
        return _with_text(simulated, orjson.dumps(value).decode())


def _share(skill: Mapping[str, Row], *keys: str) -> float | Mapping[str, float] | None:
    """What the table says under member, question and truth, each or `*`; none: nothing."""
    found: Any = skill
    for key in keys:
        if isinstance(found, (int, float)):
            return float(found)
        found = found.get(key, found.get("*")) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) or found is None else float(found)


def _shares(
    share: float | Mapping[str, float], right: str, options: Sequence[str], meanings: Mapping[str, str]
) -> dict[str, float]:
    """How likely each answer is: by the table's own shares, or the right one's, the others alike."""
    if isinstance(share, Mapping):
        given = {o: float(share.get(o, share.get(meanings.get(o, ""), 0.0))) for o in options}
        total = sum(given.values())
        return {o: p / total for o, p in given.items()} if total else dict.fromkeys(options, 1 / len(options))
    wrong = (1 - share) / max(1, len(options) - 1)
    return {o: share if o == right else wrong for o in options}


def _meaning(request: Request, code: str) -> str:
    """What a code stands for: what follows it on its line of the prompt."""
    line = re.compile(rf"^\W*{re.escape(code)}\s*[:.)=-]+\s*([^\n:]+?)\s*(?::|$)", re.MULTILINE)
    return next((m[1] for t in request.messages if (m := line.search(t["content"]))), "")


def _numbers(request: Request) -> float:
    """A number from 0 to 1 that follows from the request: the same in every attempt."""
    payload = orjson.dumps((request.member, request.messages, request.sampling.seed))
    return int.from_bytes(hashlib.blake2b(payload, digest_size=8, person=b"planted").digest(), "big") / 2**64


def _drawn(shares: Mapping[str, float], at: float) -> str:
    """The answer at a place from 0 to 1 of all shares."""
    for answer, share in shares.items():
        at -= share
        if at < 0:
            return answer
    return list(shares)[-1]


def _with_text(answer: Answer, text: str) -> Answer:
    return Answer(text, answer.finish, answer.prompt_tokens, max(1, len(text) // 4), answer.seconds, answer.thoughts)
