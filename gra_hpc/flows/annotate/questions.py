"""What annotators and the Adjudicator are asked: schemas that admit nothing but labels, and parsers.

An answer is JSON with a reason, if wanted, and a label behind it. A label is, by kind: a name (choice, pair), an
integer (score), names (multi), or labelled quotes that are located in the text (spans).
"""

from __future__ import annotations

import math
import re
import string
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from gra_hpc.flows import parsing
from gra_hpc.flows.annotate.settings import AnnotateConfig, Kind
from gra_hpc.flows.ask import Question
from gra_hpc.flows.choices import read
from gra_hpc.labels.margins import confidence
from gra_hpc.labels.spans import Span, Unlocatable, locate

PROMPTS = Path(__file__).parent / "prompts"

FIRST, SECOND, TIE = "first", "second", "tie"
PAIR_MEANS = {FIRST: "the first text is", SECOND: "the second text is", TIE: "neither, or both alike"}

REASON_CHARACTERS = 120
QUOTE_CHARACTERS = 200
MOST_SPANS = 32
"""Of one answer: a model that finds no end is stopped."""

Label: TypeAlias = str | int | frozenset[str] | frozenset[Span]
KEYS = {Kind.choice: "label", Kind.pair: "label", Kind.score: "score", Kind.multi: "labels", Kind.spans: "spans"}


@dataclass(frozen=True)
class Said:
    """What somebody says of an item."""

    label: Label
    reason: str = ""
    sure: bool = True
    """Of the Adjudicator: whether the label is to stand."""
    margin: float | None = None
    """Of a chain's member: by how much its label is likelier than the next one, in nats."""
    share: float = 1.0
    """Of a chain's member: how likely its label is among all labels."""


@dataclass(frozen=True)
class Labels:
    """What may be said: the part of the settings that schemas, parsers and prompts need."""

    kind: Kind
    names: tuple[str, ...]
    """In the settings' order; of score and pair those that there are."""
    scores: tuple[int, ...] = ()
    reasons: bool = True

    @classmethod
    def of(cls, config: AnnotateConfig) -> Labels:
        """Of a run."""
        names = tuple(PAIR_MEANS) if config.kind is Kind.pair else tuple(config.labels)
        scores = tuple(range(config.lowest, config.highest + 1)) if config.kind is Kind.score else ()
        return cls(config.kind, names, scores, config.reasons)

    @property
    def categories(self) -> tuple[str | int, ...]:
        """All labels that an item may have one of, in order."""
        return self.scores or self.names


@lru_cache(maxsize=64)
def schema(labels: Labels, settles: bool = False) -> dict[str, Any]:
    """The JSON schema of an answer: for the same labels the same object, which engines know again.

    Args:
        settles: the Adjudicator's, who also says whether the label is to stand.
    """
    name = {"type": "string", "enum": list(labels.names)}
    of_kind: dict[Kind, dict[str, Any]] = {
        Kind.choice: name,
        Kind.pair: name,
        Kind.score: {"type": "integer", "enum": list(labels.scores)},
        Kind.multi: {"type": "array", "items": name, "minItems": 0, "maxItems": len(labels.names)},
        Kind.spans: {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "label": name,
                    "quote": {"type": "string", "minLength": 1, "maxLength": QUOTE_CHARACTERS},
                },
                "required": ["label", "quote"],
                "additionalProperties": False,
            },
            "minItems": 0,
            "maxItems": MOST_SPANS,
        },
    }
    reason = {"reason": {"type": "string", "maxLength": REASON_CHARACTERS}} if labels.reasons else {}
    properties = reason | {KEYS[labels.kind]: of_kind[labels.kind]} | ({"sure": {"type": "boolean"}} if settles else {})
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def said(answer: str, labels: Labels, text: str, settles: bool = False, swapped: bool = False) -> Said:
    """An answer as a label and its reason.

    Args:
        text: the item's, in which spans are located.
        swapped: of a pair the second text was shown first.

    Raises:
        Unparsable: it holds no label, or quotes what is not in the text.
    """
    value = parsing.json_object(answer, (KEYS[labels.kind],))
    label = label_of(value.get(KEYS[labels.kind]), labels, text)
    if swapped:
        label = {FIRST: SECOND, SECOND: FIRST}.get(str(label), label)
    sure = value.get("sure", not settles)
    if not isinstance(sure, bool):
        raise parsing.Unparsable("sure is neither true nor false")
    return Said(label, " ".join(parsing.plain(value.get("reason", "")).split()), sure)


def codes(labels: Labels) -> tuple[str, ...]:
    """A letter for each label: labels' own names may share their first token."""
    return tuple(string.ascii_uppercase[: len(labels.categories)])


def chosen(answer: str, labels: Labels) -> Said:
    """The likeliest label of an answer out of `codes`, and how sure it is.

    A server that tells no probabilities, or a model that thinks first, is not sure at all of the label that it says.

    Raises:
        Unparsable: none of the letters.
    """
    letters = codes(labels)
    found = read(answer, letters)
    best = max(letters, key=lambda letter: found.scores[letter]) if found.scores else found.code
    label = labels.categories[letters.index(best)]
    if not found.scores:
        return Said(label, margin=0.0)
    shares = {letter: math.exp(score - found.scores[best]) for letter, score in found.scores.items()}
    return Said(label, margin=confidence(found.scores), share=1 / math.fsum(shares.values()))


def label_of(value: Any, labels: Labels, text: str) -> Label:
    """A label as JSON has it, of an answer or of a file of examples.

    Raises:
        Unparsable: none that there is.
    """
    if labels.kind is Kind.score:
        if isinstance(value, bool) or not isinstance(value, int) or value not in labels.scores:
            raise parsing.Unparsable(f"no integer score from {labels.scores[0]} to {labels.scores[-1]}")
        return value
    if labels.kind in (Kind.choice, Kind.pair):
        return _name(value, labels)
    if not isinstance(value, list):
        raise parsing.Unparsable(f"{KEYS[labels.kind]} are not a list")
    if labels.kind is Kind.multi:
        return frozenset(_name(v, labels) for v in value)
    if not all(isinstance(v, dict) and isinstance(v.get("quote"), str) for v in value):
        raise parsing.Unparsable("a span without a quote")
    try:
        return frozenset(locate(text, [(_name(v.get("label"), labels), v["quote"]) for v in value]))
    except Unlocatable as e:
        raise parsing.Unparsable(str(e)) from None


def label_written(written: str, labels: Labels, text: str) -> Label:
    """A label as people write it: a name, an integer, names with semicolons between them (`none` for no name), spans as
    `name: quote; name: quote` (`none` for no span), or of multi and spans a JSON list as an answer has it. A name that
    differs in case and blanks alone is the one that it can be.

    Raises:
        Unparsable: none that there is.
    """
    given = written.strip()
    value: Any = given
    try:
        if labels.kind is Kind.score:
            value = int(given)
        elif given.startswith("[") and labels.kind in (Kind.multi, Kind.spans):
            value = orjson.loads(given)
    except ValueError:
        raise parsing.Unparsable("no such label") from None
    if labels.kind is Kind.multi and isinstance(value, str):
        value = [] if value.casefold() == "none" else [name.strip() for name in value.split(";") if name.strip()]
    if labels.kind is Kind.spans and isinstance(value, str):
        value = _mentions(value, labels)
    return label_of(_named(value, labels), labels, text)


def _named(value: Any, labels: Labels) -> Any:
    """The same with the labels' own names in place of those that differ in case and blanks alone."""
    if isinstance(value, list):
        return [_named(v, labels) for v in value]
    if isinstance(value, dict):
        return value | {"label": _named(value.get("label"), labels)}
    if not isinstance(value, str) or value in labels.names:
        return value
    meant = [name for name in labels.names if name.casefold() == " ".join(value.split()).casefold()]
    return meant[0] if len(meant) == 1 else value


def _mentions(written: str, labels: Labels) -> list[dict[str, str]]:
    """Labelled quotes as `in_words` has them; a quote may have semicolons in it, but no label and a colon behind one.

    Raises:
        Unparsable: what it begins with is no label.
    """
    if written.casefold() == "none":
        return []
    names = "|".join(re.escape(name) for name in sorted(labels.names, key=len, reverse=True))
    before, *parts = re.split(rf"(?:^|;)\s*({names})\s*:", written, flags=re.IGNORECASE)
    if before.strip() or not parts:
        raise parsing.Unparsable("no label and a colon before a quote")
    return [{"label": n, "quote": quote.strip()} for n, quote in zip(parts[::2], parts[1::2], strict=True)]


def answer_of(label: Label, labels: Labels, text: str) -> str:
    """A label as the answer of an example, which has no reason."""
    value: Any = sorted(label) if isinstance(label, frozenset) else label
    if labels.kind is Kind.spans and isinstance(label, frozenset):
        spans = sorted(s for s in label if isinstance(s, Span))
        value = [{"label": s.label, "quote": text[s.start : s.end]} for s in spans]
    return orjson.dumps({KEYS[labels.kind]: value}).decode()


def _name(value: Any, labels: Labels) -> str:
    if not isinstance(value, str) or value not in labels.names:
        raise parsing.Unparsable("no such label")
    return value


def as_json(label: Label) -> Any:
    """A label as JSON holds it: a name, an integer, sorted names, or sorted [start, end, label]."""
    if isinstance(label, frozenset):
        return [list(v) if isinstance(v, tuple) else v for v in sorted(label)]
    return label


def from_json(value: Any) -> Label:
    """What `as_json` wrote."""
    if isinstance(value, list):
        return frozenset(Span(*v) if isinstance(v, list) else v for v in value)
    out: Label = value
    return out


def in_words(label: Label, text: str) -> str:
    """A label as the Adjudicator and people read it."""
    if isinstance(label, frozenset):
        parts = [f"{v.label}: {text[v.start : v.end]}" if isinstance(v, Span) else str(v) for v in sorted(label)]
        return "; ".join(parts) or "none"
    return str(label)


def wording(config: AnnotateConfig) -> dict[str, Any]:
    """What the settings say to both templates."""
    labels = Labels.of(config)
    kind = labels.kind
    heads = {
        Kind.choice: "Give the one label that fits best:",
        Kind.multi: "Give all labels that fit, or none:",
        Kind.score: f"Give an integer score from {config.lowest} to {config.highest}.",
        Kind.spans: "Find the passages that these labels are about, and quote each exactly as it stands in the text:",
        Kind.pair: "Say which text it is:",
    }
    means = PAIR_MEANS if kind is Kind.pair else config.labels if kind.named else {}
    lines = [f'- "{name}"{f": {meaning}" if meaning else ""}' for name, meaning in means.items()]
    forms = {
        Kind.choice: '"label": "the label"',
        Kind.multi: '"labels": ["a label", "another"]',
        Kind.score: f'"score": {(config.lowest + config.highest) // 2}',
        Kind.spans: '"spans": [{"label": "a label", "quote": "words of the text"}]',
        Kind.pair: f'"label": "{FIRST}"',
    }
    lettered = [f"{c} ({means[str(c)]})" if means.get(str(c)) else str(c) for c in labels.categories]
    reason = '"reason": "why, in under 12 words", ' if config.reasons else ""
    return {
        "labels": labels,
        "kind": kind.value,
        "guide": config.guide.strip(),
        "task": "\n".join([heads[kind], *lines]),
        "lettered": "\n".join(
            f"{letter}: {name}" for letter, name in zip(string.ascii_uppercase, lettered, strict=False)
        ),
        "form": f"Answer as JSON of this form: {{{reason}{forms[kind]}}}",
    }


ANNOTATE: Question[Said] = Question(
    "annotate",
    "annotation",
    lambda a, v: said(a, v["labels"], v["text"], swapped=v["swapped"]),
    lambda v: schema(v["labels"]),
    prompts=PROMPTS,
)

SETTLE: Question[Said] = Question(
    "settle",
    "adjudication",
    lambda a, v: said(a, v["labels"], v["text"], settles=True, swapped=v["swapped"]),
    lambda v: schema(v["labels"], settles=True),
    prompts=PROMPTS,
)

LINK: Question[Said] = Question(
    "link",
    "annotation",
    lambda a, v: chosen(a, v["labels"]),
    choices=lambda v: codes(v["labels"]),
    prompts=PROMPTS,
)
