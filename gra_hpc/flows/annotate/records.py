"""What is kept of an item: its label, how it came about, and what everybody said."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from gra_hpc.flows.annotate.label import Item
from gra_hpc.flows.annotate.questions import Said, as_json


@dataclass(frozen=True, slots=True)
class Annotation:
    """What one member says of an item."""

    member: str
    said: str
    """The label as JSON: a name, an integer, names, or [start, end, label] in code points of the text."""
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
    """As JSON; empty: undecided."""
    confidence: float = 0.0
    """Share of the annotators' weight behind the label, 0 to 1."""
    how: str = ""
    """agreed, settled or undecided; empty: failed."""
    annotations: tuple[Annotation, ...] = ()
    verdict: Annotation | None = None
    """The Adjudicator's."""
    gold: str = ""
    """The label that the record came with, as JSON; empty: none."""

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
    """A label as a short JSON text: the same label, the same text."""
    return json.dumps(as_json(label), ensure_ascii=False, separators=(",", ":"))
