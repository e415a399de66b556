"""Labelled records as examples: those that come with a label show annotators what is meant.

A record's label is its `response` (of pairs that is the second text: they have no labels of their own). A labelled
record is labelled as any other, without itself among its examples: what comes of it says how far annotators can be
trusted.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gra_hpc.conversation import shown
from gra_hpc.errors import SeedError
from gra_hpc.flows.annotate.label import Example
from gra_hpc.flows.annotate.questions import Label, Labels, answer_of, codes, label_written
from gra_hpc.flows.annotate.settings import AnnotateConfig, Examples, Kind
from gra_hpc.flows.parsing import Unparsable
from gra_hpc.flows.tools import Tool
from gra_hpc.flows.units import Embed
from gra_hpc.records import Record
from gra_hpc.terminal import several

MOST = 200_000
"""Labelled records that are looked through for the nearest."""


def text_of(record: Record) -> str:
    """What of a record is labelled: its instruction, of a conversation all its turns."""
    return shown(record.context) or record.instruction


def gold_of(record: Record, labels: Labels) -> Label | None:
    """The label that a record comes with; none if it has none.

    Raises:
        SeedError: one that there is not.
    """
    if labels.kind is Kind.pair or not record.response.strip():
        return None
    try:
        return label_written(record.response, labels, text_of(record))
    except Unparsable as e:
        raise _refused([(record, str(e))], labels) from None


def check_labels(records: Sequence[Record], labels: Labels) -> None:
    """Refuse labels that there are not, all at once.

    Raises:
        SeedError: with the first few and their counts.
    """
    wrong = []
    for record in records:
        if labels.kind is not Kind.pair and record.response.strip():
            try:
                label_written(record.response, labels, text_of(record))
            except Unparsable as e:
                wrong.append((record, str(e)))
    if wrong:
        raise _refused(wrong, labels)


def _refused(wrong: Sequence[tuple[Record, str]], labels: Labels) -> SeedError:
    """The error of records whose labels there are not, each with why."""
    written = ((f"{r.response.strip()[:60]!r}: {why}", r.source) for r, why in wrong)
    expected = ", ".join(map(str, labels.categories))
    said = several((f"its label {label}", source) for label, source in written)
    return SeedError(f"{said}; expected {expected}", "mend it there, then plan again")


@dataclass(frozen=True)
class Pool:
    """The labelled records of a run, and which are nearest to some items."""

    config: AnnotateConfig
    labelled: tuple[Record, ...]
    nearest: Tool | None = None
    """From an item's id to the places of the nearest, the nearest first; none: they are drawn."""

    @classmethod
    def of(
        cls, config: AnnotateConfig, records: Sequence[Record], items: Sequence[Record], embed: Embed | None
    ) -> Pool:
        """Of a run's records.

        Args:
            items: those whose nearest examples will be asked for.
            embed: where there is none (prompts that are only looked at), the nearest are drawn.
        """
        if config.examples is Examples.none or config.kind is Kind.pair:
            return cls(config, ())
        labelled = tuple(r for r in records if r.response.strip())
        if config.examples is Examples.random or embed is None or not labelled or not items:
            return cls(config, labelled)
        labelled = labelled[:MOST]
        near = functools.cache(functools.partial(_nearest, labelled, items, embed, config.shots))
        return cls(config, labelled, Tool("nearest", "1", lambda item: near()[item], near))

    def drawn(self, item: Record, labels: Labels, rng: random.Random) -> tuple[Example, ...]:
        """Some for an item's annotators, by chance."""
        count = min(self.config.shots + 1, len(self.labelled))
        drawn = [self.labelled[i] for i in rng.sample(range(len(self.labelled)), count)]
        return tuple(_example(r, labels) for r in drawn if r.id != item.id)[: self.config.shots]

    def at(self, places: Sequence[int], labels: Labels) -> tuple[Example, ...]:
        """Those at some places, the last first: models go by what they have read last."""
        return tuple(_example(self.labelled[i], labels) for i in reversed(places))


def _nearest(
    labelled: Sequence[Record], items: Sequence[Record], embed: Embed, shots: int
) -> Mapping[str, Sequence[int]]:
    """Places of the labelled records that are nearest to each item, by its id."""
    import numpy as np

    from gra_hpc.labels.nearest import nearest

    place = {r.id: i for i, r in enumerate(labelled)}
    own = np.array([place.get(r.id, -1) for r in items])
    vectors = embed([text_of(r) for r in (*labelled, *items)])  # together: the model is loaded once
    found = nearest(vectors[len(labelled) :], vectors[: len(labelled)], shots, own)
    return {r.id: row[row >= 0].tolist() for r, row in zip(items, found, strict=True)}


def _example(record: Record, labels: Labels) -> Example:
    text, label = text_of(record), gold_of(record, labels)
    assert label is not None, "labelled records have labels"
    letter = codes(labels)[labels.categories.index(label)] if isinstance(label, (str, int)) else ""
    return Example(text, answer_of(label, labels, text), letter)
