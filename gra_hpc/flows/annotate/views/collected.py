"""All labels of a run as arrays: a few bytes an item and annotator, whatever the texts are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.flows.annotate.questions import Labels, from_json
from gra_hpc.flows.annotate.records import of_text
from gra_hpc.flows.annotate.settings import Aggregate, AnnotateConfig, Kind, Route
from gra_hpc.labels import dawid_skene
from gra_hpc.labels.dawid_skene import ABSTAINS, Model
from gra_hpc.labels.ranks import rank_ensemble

EARLIER = "earlier"
"""How a label came about that a link of a chain said and forwarded, where no later link had an answer."""
HOW = ("agreed", "settled", "kept", EARLIER, "undecided", "")
"""How a label came about; the last: no annotator has given an answer."""
COLUMNS = ("id", "label", "confidence", "how", "annotations", "gold")


@dataclass(frozen=True)
class Final:
    """The labels that are released."""

    code: np.ndarray
    """int64 [n]: index in `Labels.categories`; -1 for none. Of multi: bits, a label each."""
    confidence: np.ndarray
    """float64 [n], 0 to 1."""


@dataclass
class Collected:
    """The labels of n items by m members."""

    labels: Labels
    members: tuple[str, ...]
    said: np.ndarray
    """int64 [n, m]: index in `Labels.categories`, or of multi bits, a label each; -1 where a member says nothing. Of
    spans: 0 where a member has said something."""
    margin: np.ndarray
    """float64 [n, m]: of a chain's members, how much likelier their label is than the next; NaN where there is none."""
    label: np.ndarray
    """int64 [n], as the run has decided; -1 for none."""
    confidence: np.ndarray
    """float64 [n]: share of the annotators' weight."""
    how: np.ndarray
    """int8 [n]: index in `HOW`."""
    gold: np.ndarray
    """int64 [n]: the label that an item came with, as `label` has it; -1 for none."""
    keys: np.ndarray
    """uint64 [n]: of the ids, by which samples of items are drawn."""

    @classmethod
    def of(cls, tables: Iterable[pa.Table], labels: Labels, members: Sequence[str]) -> Collected:
        """Read the items' labels, a table at a time.

        Args:
            tables: with `COLUMNS`, in the order that all arrays have.
        """
        parts: list[tuple[np.ndarray, ...]] = [_read(t, labels, {m: i for i, m in enumerate(members)}) for t in tables]
        if not parts:
            parts = [_read(EMPTY, labels, {m: i for i, m in enumerate(members)})]
        return cls(labels, tuple(members), *(np.concatenate(p) for p in zip(*parts, strict=True)))

    def __len__(self) -> int:
        return len(self.label)

    @property
    def agreed(self) -> np.ndarray:
        """Items whose annotators agreed: bool [n]."""
        return self.how == HOW.index("agreed")

    @cached_property
    def models(self) -> list[Model]:
        """Dawid and Skene's: one, or of multi one for each label, whose labels are no and yes.

        Raises:
            ValueError: nobody has said anything.
        """
        if self.labels.kind is Kind.multi:
            return [dawid_skene.fit(self._bit(i), 2) for i in range(len(self.labels.names))]
        return [dawid_skene.fit(self.said, len(self.labels.categories))]

    def _bit(self, label: int) -> np.ndarray:
        """Whether each member gives an item a label: int64 [n, m], -1 where it says nothing."""
        return np.where(self.said < 0, ABSTAINS, (self.said >> label) & 1)

    def final(self, config: AnnotateConfig) -> Final:
        """The labels that are released. With `aggregate=dawid_skene` those that annotators agreed on are found anew,
        from all labels together, and every confidence is the posterior of the item's label; what the Adjudicator has
        settled, and what is undecided, stays."""
        if config.route is Route.chain:
            return self._by_rank(config) if config.rank and len(self) else Final(self.label, self.confidence)
        if config.aggregate is not Aggregate.dawid_skene or not (self.said >= 0).any():
            return Final(self.label, self.confidence)
        code, sure = self.label.copy(), self.confidence.copy()
        block = 1 << 18
        for start in range(0, len(self), block):
            here = slice(start, start + block)
            best, of_best, of_label = self._posterior(here)
            agreed, decided = self.agreed[here], self.label[here] >= 0
            code[here] = np.where(agreed, best, code[here])
            sure[here] = np.where(agreed, of_best, np.where(decided, of_label, of_best))
        sure[self.how == HOW.index("")] = 0.0
        return Final(code, sure)

    def links(self, config: AnnotateConfig) -> list[int]:
        """Columns of a chain's members, in its order."""
        return [self.members.index(name) for name in config.chain]

    def _by_rank(self, config: AnnotateConfig) -> Final:
        """Each item's label by the link in whose ranking it stands highest (`ranks.rank_ensemble`)."""
        columns = self.links(config)
        link = rank_ensemble([self.margin[:, c] for c in columns])
        chosen = self.said[np.arange(len(self)), np.array(columns)[np.maximum(link, 0)]]
        return Final(np.where(link >= 0, chosen, self.label), self.confidence)

    def _posterior(self, here: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The most probable label of some items, its probability, and that of the label which the run decided on."""
        label = self.label[here]
        if self.labels.kind is not Kind.multi:
            found = self.models[0].posterior(self.said[here])
            rows = np.arange(len(found))
            return found.argmax(axis=1), found.max(axis=1), found[rows, np.maximum(label, 0)]
        best = np.zeros(len(label), np.int64)
        of_best, of_label = np.ones(len(label)), np.ones(len(label))
        for i, model in enumerate(self.models):
            yes = model.posterior(self._bit(i)[here])[:, 1]
            best |= (yes > 0.5).astype(np.int64) << i
            of_best = np.minimum(of_best, np.maximum(yes, 1 - yes))
            of_label = np.minimum(of_label, np.where((label >> i) & 1, yes, 1 - yes))
        return best, of_best, of_label


EMPTY = pa.table(
    {
        "id": pa.array([], pa.string()),
        "label": pa.array([], pa.string()),
        "confidence": pa.array([], pa.float64()),
        "how": pa.array([], pa.string()),
        "gold": pa.array([], pa.string()),
        "annotations": pa.array(
            [], pa.list_(pa.struct([("member", pa.string()), ("said", pa.string()), ("margin", pa.float64())]))
        ),
    }
)


def _read(table: pa.Table, labels: Labels, members: dict[str, int]) -> tuple[np.ndarray, ...]:
    """The arrays of `Collected`, of some rows."""
    n = len(table)
    lists = table["annotations"].combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = pa.concat_arrays(lists.chunks)
    rows = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    flat = pc.list_flatten(lists)
    who = encoded(pc.struct_field(flat, "member"), members)
    what = encoded(pc.struct_field(flat, "said"), None, labels)
    said = np.full((n, len(members)), ABSTAINS, np.int64)
    known = who >= 0
    said[rows[known], who[known]] = what[known]
    margin = np.full((n, len(members)), np.nan)
    if pc.count(pc.struct_field(flat, "margin")).as_py():
        given = pc.struct_field(flat, "margin").to_numpy(zero_copy_only=False)
        margin[rows[known], who[known]] = given[known]
    label = encoded(table["label"], None, labels)
    how = encoded(table["how"], {name: i for i, name in enumerate(HOW)}).astype(np.int8)
    confidence = pc.fill_null(table["confidence"], 0.0).to_numpy()
    ids = table["id"].to_pylist()
    keys = np.array([int(i[:16], 16) for i in ids], np.uint64)
    return said, margin, label, confidence, how, encoded(table["gold"], None, labels), keys


def encoded(texts: Any, codes: dict[str, int] | None, labels: Labels | None = None) -> np.ndarray:
    """Codes of texts, each different text looked at once: int64, -1 for none."""
    found = (texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts).dictionary_encode()
    if isinstance(found, pa.ChunkedArray):
        found = pa.concat_arrays(found.chunks) if found.num_chunks else pa.array([], pa.string()).dictionary_encode()
    if codes is not None:
        of = [codes.get(text or "", -1) for text in found.dictionary.to_pylist()]
    else:
        assert labels is not None
        of = [code_of(text or "", labels) for text in found.dictionary.to_pylist()]
    index = pc.fill_null(found.indices, len(of)).to_numpy(zero_copy_only=False)
    table: np.ndarray = np.array([*of, -1], np.int64)
    return table[index]


def code_of(text: str, labels: Labels) -> int:
    """A stored label as a number; -1 for none, or one that there is not."""
    if not text:
        return -1
    label = from_json(of_text(text, labels.kind))
    if labels.kind is Kind.spans:
        return 0
    if isinstance(label, frozenset):
        return sum(1 << labels.names.index(str(name)) for name in label)
    return labels.categories.index(label) if label in labels.categories else -1


def value_of(code: int, labels: Labels) -> Any:
    """A number as the label of an item, as JSON has it; none for -1."""
    if code < 0:
        return None
    if labels.kind is Kind.multi:
        return sorted(name for i, name in enumerate(labels.names) if (code >> i) & 1)
    return labels.categories[code]
