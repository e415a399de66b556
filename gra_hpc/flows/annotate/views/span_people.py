"""Spans by people beside the committee's: precision, recall and F1 over located spans, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from gra_hpc.errors import GraError
from gra_hpc.flows.annotate.questions import Labels, label_written
from gra_hpc.flows.annotate.views import agreement
from gra_hpc.flows.annotate.views.people import People
from gra_hpc.flows.parsing import Unparsable
from gra_hpc.labels.gold import RESAMPLED, Figure
from gra_hpc.labels.spans import Span
from gra_hpc.terminal import several

Spans = frozenset[Span]


@dataclass(frozen=True)
class Matched:
    """Two parties' spans, item by item: int64 [n] each. A span is the same by bounds and label."""

    same: np.ndarray
    said: np.ndarray
    true: np.ndarray

    @classmethod
    def of(cls, items: Iterable[Sequence[tuple[Spans, Spans]]]) -> Matched:
        """Of items in which one said something; of each pairs of that, and of what counts as true by somebody."""
        counts = [[sum(n) for n in zip(*map(_counts, pairs), strict=True)] for pairs in items if pairs]
        return cls(*np.array(counts, np.int64).reshape(len(counts), 3).T)

    def figures(self, seed: int = 0) -> dict[str, Any]:
        """Precision, recall and F1 over all spans of all items, with intervals from items drawn anew."""
        n = len(self.same)
        names = ("precision", "recall", "f1")
        if not n:
            return {"decided": 0} | {name: Figure(None) for name in names}
        rng = np.random.default_rng(seed)
        sums = np.stack([self.same, self.said, self.true])
        drawn = np.stack([sums @ np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(RESAMPLED)], axis=1)
        once, many = _shares(*sums.sum(axis=1)[:, None]), _shares(*drawn)
        return {"decided": n} | {name: _figure(v, d) for name, v, d in zip(names, once, many, strict=True)}


def _counts(pair: tuple[Spans, Spans]) -> tuple[int, int, int]:
    said, true = pair
    return len(said & true), len(said), len(true)


def _shares(same: np.ndarray, said: np.ndarray, true: np.ndarray) -> list[np.ndarray]:
    """Precision, recall, F1; NaN where there is nothing to divide by."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return [same / said, same / true, 2 * same / (said + true)]


def _figure(value: np.ndarray, drawn: np.ndarray) -> Figure:
    if np.isnan(value[0]):
        return Figure(None)
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Figure(float(value[0]), float(low), float(high))


def beside(rows: Sequence[Mapping[str, Any]], labels: Labels, people: Sequence[People]) -> dict[str, Any]:
    """Committee, members and people beside people. Of several people each is the truth in turn, with equal weight.

    What was drawn at random tells of all items: where the files say what was, figures are of that alone.

    Args:
        rows: of labels.parquet: id, text, label, annotators.

    Raises:
        GraError: nobody has marked an item of this run, or quotes that do not stand in its text.
    """
    ids, texts = [r["id"] for r in rows], [r["text"] for r in rows]
    known = [person.of_items(texts, ids) for person in people]
    audit = frozenset().union(*(p.audit for p in known))
    marked: dict[str, list[Spans]] = {}
    for person in known:
        wrong = []
        for id_, text in zip(ids, texts, strict=True):
            if id_ in person.labels and (not audit or id_ in audit):
                try:
                    marked.setdefault(id_, []).append(_read(person.labels[id_], labels, text))
                except Unparsable as e:
                    wrong.append((f"{person.labels[id_][:60]!r}: {e}", f"item {id_}"))
        if wrong:
            then = f"`label: quote; label: quote` or `none`, labels {', '.join(labels.names)}"
            raise GraError(f"{person.who}: {several(wrong)}", then)
    if not marked:
        raise GraError("no label of an item of this run", "give the files that were made from its for_humans.csv")
    pairs: dict[str, list[list[tuple[Spans, Spans]]]] = {"committee": []}
    for row in rows:
        true = marked.get(row["id"])
        if true is None:
            continue
        if row["label"] is not None:
            pairs["committee"].append([(_spans(row["label"]), spans) for spans in true])
        for said in row["annotators"]:
            pairs.setdefault(said["member"], []).append([(_spans(said["label"]), spans) for spans in true])
    two = [list(combinations(of_item, 2)) for of_item in marked.values()]
    elsewhere = list(dict.fromkeys(i for p in known for i in p.elsewhere))
    not_drawn = [i for i in ids if audit and i not in audit and any(i in p.labels for p in known)]
    left_out = {"that this release does not have": elsewhere, "not drawn at random": not_drawn}
    return {
        "people": [p.who for p in people],
        "at_random": bool(audit),
        "drawn": agreement.drawn_of(known),
        "left_out": {why: items for why, items in left_out.items() if items},
        "same": [(a.who, b.who) for a, b in combinations(known, 2) if a.labels == b.labels],
        "items": len(marked),
        "figures": {who: Matched.of(found).figures() for who, found in pairs.items()},
        "among_people": Matched.of(two).figures()["f1"] if any(two) else None,
    }


def _spans(shown: Sequence[Mapping[str, Any]]) -> Spans:
    """Spans as labels.parquet has them."""
    return frozenset(Span(s["start"], s["end"], s["label"]) for s in shown)


def _read(written: str, labels: Labels, text: str) -> Spans:
    """Spans as a person writes them; `Unparsable` if there are none such."""
    found = label_written(written, labels, text)
    assert isinstance(found, frozenset)
    return frozenset(s for s in found if isinstance(s, Span))


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The figures of `beside`, for people."""
    yield from agreement.whose(found)
    yield from agreement.table(found["figures"], {"precision": "precision", "recall": "recall", "F1 of spans": "f1"})
    if found["among_people"] is not None:
        yield f"among people  F1 of two people's spans {found['among_people']:.2f}"
