"""The items of a chain that went a round each link: a row an item, with what all links said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.flows.annotate.label import KEPT
from gra_hpc.flows.annotate.questions import Labels
from gra_hpc.flows.annotate.records import as_text
from gra_hpc.flows.annotate.views.collected import EARLIER, encoded

Tables = Callable[[], Iterable[pa.Table]]


def whole(tables: Tables, chain: Sequence[str], labels: Labels) -> Tables:
    """Each item's last row, in the order of those rows, with the annotations of all links, in theirs. Where the last
    link that saw an item has no answer, its label is that of the one before, which did not keep it: `EARLIER`.

    Args:
        tables: the rows of all rounds, a round each link; always in the same order.
    """
    names = pa.array([as_text(label) for label in labels.categories], pa.string())
    found = _Links.of(tables(), labels)

    def items() -> Iterator[pa.Table]:
        at = 0
        for table in tables():
            rows = found.last[at : at + len(table)]
            yield found.filled(table.filter(pa.array(rows)), at + np.flatnonzero(rows), pa.array(list(chain)), names)
            at += len(table)

    return items


SPENT = ("calls", "prompt_tokens", "completion_tokens")


def spent(tables: Iterable[pa.Table], links: int) -> list[dict[str, int]]:
    """What each link's answers took: calls, prompt tokens and written tokens.

    Args:
        tables: the rows of all rounds, a round each link.
    """
    total = np.zeros((links, len(SPENT)), np.int64)
    for table in tables:
        round_ = table["round"].to_numpy().astype(np.int64) - 1
        for i, name in enumerate(SPENT):
            np.add.at(total[:, i], round_, table[name].to_numpy().astype(np.int64))
    return [dict(zip(SPENT, row, strict=True)) for row in total.tolist()]


@dataclass(frozen=True)
class _Links:
    """Of n rows what was said in each, and which rows are of one item; about 50 bytes a row."""

    round: np.ndarray
    """int16 [n], from 1."""
    code: np.ndarray
    """int64 [n]: index in `Labels.categories`; -1: no answer."""
    margin: np.ndarray
    """float64 [n], in nats."""
    share: np.ndarray
    """float64 [n]: the row's confidence."""
    last: np.ndarray
    """bool [n]: whether it is its item's last row."""
    answered: np.ndarray
    """int64: rows with an answer, item by item, each in the links' order."""
    begin: np.ndarray
    """int64 [n]: of an item's last row, where its rows begin in `answered`, and"""
    end: np.ndarray
    """where they end."""

    @classmethod
    def of(cls, tables: Iterable[pa.Table], labels: Labels) -> _Links:
        kinds = (np.uint64, np.int16, np.int64, np.float64, np.float64)
        parts: list[tuple[np.ndarray, ...]] = [tuple(np.empty(0, kind) for kind in kinds)]
        parts += [_read(table, labels) for table in tables]
        seed, round_, code, margin, share = (np.concatenate(p) for p in zip(*parts, strict=True))
        order = np.lexsort((round_, seed))
        ends = np.append(np.flatnonzero(np.diff(seed[order])), len(order) - 1)[: len(order)]
        so_far = np.concatenate([[0], np.cumsum(code[order] >= 0)])
        last = np.zeros(len(order), bool)
        last[order[ends]] = True
        begin, end = np.zeros(len(order), np.int64), np.zeros(len(order), np.int64)
        begin[order[ends]] = so_far[np.concatenate([[0], ends[:-1] + 1])[: len(ends)]]
        end[order[ends]] = so_far[ends + 1]
        return cls(round_, code, margin, share, last, order[code[order] >= 0], begin, end)

    def filled(self, table: pa.Table, rows: np.ndarray, chain: pa.Array, names: pa.Array) -> pa.Table:
        """Some items' last rows with what all links said.

        Args:
            rows: int64, the rows' numbers, in the table's order.
            chain: the links' names.
            names: the labels as text.
        """
        begin, counts = self.begin[rows], self.end[rows] - self.begin[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        said = self.answered[np.repeat(begin - offsets[:-1], counts) + np.arange(offsets[-1])]
        kind = table.schema.field("annotations").type
        columns = {
            "member": chain.take(pa.array(self.round[said] - 1)),
            "said": names.take(pa.array(self.code[said])),
            "reason": pa.repeat("", len(said)),
            "sure": pa.repeat(True, len(said)),
            "margin": pa.array(self.margin[said]),
        }
        fields = list(kind.value_type)
        each = pa.StructArray.from_arrays([columns[f.name].cast(f.type) for f in fields], fields=fields)
        lists = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), each).cast(kind)
        known = counts > 0
        newest = np.zeros(len(rows), np.int64)
        newest[known] = self.answered[self.end[rows][known] - 1]
        any_said = pa.array(known)
        label = pc.if_else(any_said, names.take(pa.array(np.maximum(self.code[newest], 0))), "")
        new = {
            "annotations": lists,
            "label": label,
            "how": pc.if_else(pa.array(self.code[rows] >= 0), KEPT, pc.if_else(any_said, EARLIER, "")),
            "confidence": pa.array(np.where(known, self.share[newest], 0.0)),
        }
        for name, column in new.items():
            place = table.schema.get_field_index(name)
            table = table.set_column(place, table.schema.field(place), column.cast(table.schema.field(place).type))
        return table


def _read(table: pa.Table, labels: Labels) -> tuple[np.ndarray, ...]:
    """Seed, round, label, margin and confidence of each row."""
    seeds = np.array([int(i[:16], 16) for i in table["seed_id"].to_pylist()], np.uint64)
    lists = pa.concat_arrays(table["annotations"].chunks) if len(table) else pa.array([], table["annotations"].type)
    margin = np.full(len(table), np.nan)
    given = pc.struct_field(pc.list_flatten(lists), "margin")
    margin[pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)] = given.to_numpy(zero_copy_only=False)
    share = pc.fill_null(table["confidence"], 0.0).to_numpy()
    return seeds, table["round"].to_numpy().astype(np.int16), encoded(table["label"], None, labels), margin, share
