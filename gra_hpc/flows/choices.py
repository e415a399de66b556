"""An answer that is one of a few codes, with the log-probability of each: what a model says, and how sure it is.

Such an answer's text is JSON that an engine's client writes and a question's parser reads: so a journal keeps it like
any other, and a replay knows the same. The log-probabilities are the model's own, before a grammar masks other tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import orjson

from gra_hpc.flows.parsing import Unparsable

LISTED = 20
"""Most likely tokens that an engine lists: as many as vLLM gives unless it is started otherwise."""


@dataclass(frozen=True)
class Chosen:
    """An answer out of some choices."""

    code: str
    scores: Mapping[str, float]
    """Log-probability by code, in nats; empty from a server that tells none."""


def scores(listed: Iterable[tuple[str, float]], choices: Sequence[str]) -> dict[str, float]:
    """Log-probabilities of the codes, from those of the likeliest tokens at the answer's place.

    A code with and without a space before it is one code. One that is not listed is given the least that is: it has no
    more than that.
    """
    tokens = [(token.strip(), score) for token, score in listed if math.isfinite(score)]
    if not tokens:
        return {}
    least = min(score for _, score in tokens)
    out = {}
    for code in choices:
        found = [math.exp(score) for token, score in tokens if token == code]
        out[code] = math.log(math.fsum(found)) if found and math.fsum(found) > 0 else least
    return out


def written(code: str, of: Mapping[str, float]) -> str:
    """The text of such an answer."""
    return orjson.dumps({"choice": code, "scores": {k: round(v, 6) for k, v in of.items()}}).decode()


def read(text: str, choices: Sequence[str]) -> Chosen:
    """The answer in such a text.

    Raises:
        Unparsable: none of the choices.
    """
    try:
        found = orjson.loads(text)
        code, of = found["choice"], {str(k): float(v) for k, v in found["scores"].items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Unparsable("not an answer out of choices") from None
    if code not in choices:
        raise Unparsable("none of the choices")
    return Chosen(code, of)
