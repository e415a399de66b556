"""What is kept of an item: its label, how it came about, and what everybody said."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from gra_hpc.flows.annotate.label import Item
from gra_hpc.flows.annotate.questions import Said, as_json
from gra_hpc.flows.annotate.settings import Kind


@dataclass(frozen=True, slots=True)
class Annotation:
    """What one member says of an item."""

    member: str
    said: str
    """The label as text: a name; as JSON an integer, names, or [start, end, label] in code points of the text."""
    reason: str
    sure: bool = True
    margin: float | None = None
    """Of a chain's member: how much likelier its label is than the next one, in nats."""

    @classmethod
    def of(cls, member: str, said: Said) -> Annotation:
        """As it is stored."""
        return cls(member, as_text(said.label), said.reason, said.sure, said.margin)


@dataclass(frozen=True, slots=True)
class Labelled:
    """The result of one item."""

    text: str
    second: str = ""
    """Of a pair."""
    label: str = ""
    """As text (`as_text`); empty: undecided."""
    confidence: float = 0.0
    """Share of the annotators' weight behind the label, 0 to 1."""
    how: str = ""
    """agreed, settled or undecided; empty: failed."""
    annotations: tuple[Annotation, ...] = ()
    verdict: Annotation | None = None
    """The Adjudicator's."""
    gold: str = ""
    """The label that the record came with, as text; empty: none."""

    @classmethod
    def of(cls, item: Item, gold: str = "") -> Labelled:
        """As it is stored."""
        return cls(
            item.text,
            item.second,
            "" if item.label is None else as_text(item.label),
            item.confidence,
            item.how,
            tuple(Annotation.of(member, said) for member, said in item.annotations),
            Annotation.of(*item.verdict) if item.verdict else None,
            gold,
        )


def as_text(label: Any) -> str:
    """A label as a text, the same label the same text: a name is itself, all others are JSON."""
    return label if isinstance(label, str) else json.dumps(as_json(label), ensure_ascii=False, separators=(",", ":"))


def of_text(text: str, kind: Kind) -> Any:
    """What `as_text` wrote, as JSON holds it."""
    return text if kind in (Kind.choice, Kind.pair) else json.loads(text)
