"""What people say of a release's items: `for_humans.csv`, filled in, a file a person."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from gra_hpc.errors import GraError
from gra_hpc.flows.annotate.questions import Labels, label_written
from gra_hpc.flows.annotate.records import as_text
from gra_hpc.flows.annotate.settings import Kind
from gra_hpc.flows.annotate.views.collected import code_of
from gra_hpc.flows.annotate.views.outputs import AUDIT, cell
from gra_hpc.flows.parsing import Unparsable
from gra_hpc.labels import gold
from gra_hpc.storage import read_regular
from gra_hpc.terminal import several


def categories_of(labels: Labels) -> Sequence[str | int]:
    """The labels, by their names."""
    return labels.categories if labels.kind is not Kind.multi else labels.names


def _json_lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _csv(text: str) -> list[Any]:
    """Rows of a CSV file whose fields may be as long as the file."""
    before = csv.field_size_limit(max(len(text), 1))
    try:
        return list(csv.DictReader(io.StringIO(text, newline="")))
    finally:
        csv.field_size_limit(before)


@dataclass(frozen=True)
class People:
    """One person's labels."""

    who: str
    labels: dict[str, str]
    """As written, by the item's id; by its text where a row has no id."""
    audit: frozenset[str]
    """Which of the file's rows were drawn at random, named as in `labels`; empty where the file does not say."""
    texts: dict[str, str] = field(default_factory=dict)
    """Texts of the file's rows, named as in `labels`, where it has them (`_in_one`)."""
    elsewhere: tuple[str, ...] = ()
    """Items that it labels and the release does not have."""

    @classmethod
    def read(cls, path: Path) -> People:
        """A file with columns id and label, CSV or JSON lines: `for_humans.csv`, filled in; or text and label.

        Raises:
            GraError: no such file, other columns, or no label in it.
        """
        then = "fill in the column label of for_humans.csv"
        try:
            text = read_regular(path).decode("utf-8-sig")
            rows = _json_lines(text) if path.suffix == ".jsonl" else _csv(text)
        except OSError as e:
            raise GraError(f"{path}: {e.strerror}", "gra release agreement RELEASE for_humans.csv") from None
        except (ValueError, csv.Error, RecursionError) as e:
            raise GraError(f"{path}: not CSV or JSON lines in UTF-8 ({e})", then) from None
        by_text = all(isinstance(r, dict) and "id" not in r for r in rows)
        if any(not isinstance(r, dict) or not {"text" if by_text else "id", "label"} <= r.keys() for r in rows):
            raise GraError(f"{path}: no columns id and label, or text and label, in every row", then)
        labels: dict[str, str] = {}
        texts: dict[str, str] = {}
        audit = set()
        for r in rows:
            text = _in_one(str(r.get("text") or ""), str(r.get("second") or ""))
            item = text if r.get("id") in ("", None) else str(r["id"])
            if text:
                texts[item] = text
            if r.get("why") == AUDIT:
                audit.add(item)
            if r["label"] in ("", None):
                continue
            label = r["label"] if isinstance(r["label"], str) else json.dumps(r["label"])
            _add(labels, item, label, str(path))
        if not labels:
            raise GraError(f"{path}: nobody has given a label", then)
        return cls(path.stem, labels, frozenset(audit), texts)

    def of_items(self, texts: Sequence[str], ids: Sequence[str], seconds: Sequence[str] = ()) -> People:
        """The same of a release's items alone, by their ids. A row whose id the release does not have, as of another
        run over the same texts, is of the items with its text.

        Args:
            seconds: the second texts, of pairs.

        Raises:
            GraError: two rows of one text, by other ids, with two labels.
        """
        known = set(ids)
        rows: dict[str, list[str]] = {}
        for row in dict.fromkeys((*self.labels, *self.audit)):
            if row not in known and row in self.texts:
                rows.setdefault(self.texts[row], []).append(row)
        found = {row: label for row, label in self.labels.items() if row in known}
        by_id = frozenset(found)
        audit, seen = set(self.audit & known), set(known)
        for i, text, second in zip(ids, texts, seconds or [""] * len(ids), strict=True) if rows else ():
            forms = (_in_one(text, second), _in_one(cell(text), cell(second)), text, cell(text))
            for row in next((rows[form] for form in forms if form in rows), ()):
                seen.add(row)
                if row in self.labels and i not in by_id:
                    _add(found, i, self.labels[row], self.who)
                if row in self.audit:
                    audit.add(i)
        return replace(
            self,
            labels=found,
            audit=frozenset(audit | (self.audit - seen)),
            elsewhere=tuple(row for row in self.labels if row not in seen),
        )

    def codes(self, ids: Sequence[str], labels: Labels) -> np.ndarray:
        """The labels of some items, as `Collected` has them: int64 [n], -1 for none.

        Raises:
            GraError: labels that there are not, all at once.
        """
        wrong = []
        out = np.full(len(ids), gold.UNKNOWN, np.int64)
        for i, id_ in enumerate(ids):
            if written := self.labels.get(id_):
                try:
                    out[i] = code_of(as_text(label_written(written, labels, "")), labels)
                except Unparsable:
                    wrong.append((f"{written[:60]!r}: no such label", f"item {id_}"))
        if wrong:
            raise GraError(f"{self.who}: {several(wrong)}", f"one of {', '.join(map(str, categories_of(labels)))}")
        return out


def _in_one(text: str, second: str) -> str:
    """An item's text; of a pair both."""
    return f"{text}\n{second}" if second else text


def _add(labels: dict[str, str], item: str, label: str, who: str) -> None:
    """Take a label of an item.

    Raises:
        GraError: it has another one.
    """
    if labels.setdefault(item, label) != label:
        raise GraError(f"{who}: {item[:60]!r} has two labels, {labels[item]!r} and {label!r}", "keep one of them")


def of_files(files: Sequence[Path]) -> list[People]:
    """What people say, a file each; people whose files have one name are told apart by the directories.

    Raises:
        GraError: a file that is none, or that is given twice.
    """
    people = [People.read(f) for f in files]
    for one, other in combinations(files, 2):
        if one.samefile(other):
            raise GraError(f"{other}: given twice, and would count as two people", "give each person's file once")
    names = [p.who for p in people]
    return [
        replace(p, who=f"{f.absolute().parent.name}/{p.who}") if names.count(p.who) > 1 else p
        for f, p in zip(files, people, strict=True)
    ]
