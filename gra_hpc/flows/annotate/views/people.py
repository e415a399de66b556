"""What people say of a release's items: `for_humans.csv`, filled in, a file a person."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from gra_hpc.errors import GraError
from gra_hpc.flows.annotate.questions import Labels, label_written
from gra_hpc.flows.annotate.records import as_text
from gra_hpc.flows.annotate.settings import Kind
from gra_hpc.flows.annotate.views.collected import code_of
from gra_hpc.flows.annotate.views.outputs import cell
from gra_hpc.flows.parsing import Unparsable
from gra_hpc.labels import gold
from gra_hpc.storage import read_regular


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
    """As written, by the item's id."""
    audit: frozenset[str]
    """Ids that were drawn at random; empty where the file does not say."""
    by_text: bool = False
    """`labels` is by the items' texts."""
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
        key = "text" if by_text else "id"
        if any(not isinstance(r, dict) or not {key, "label"} <= r.keys() for r in rows):
            raise GraError(f"{path}: no columns id and label, or text and label, in every row", then)
        texts: dict[str, str] = {}
        for r in rows:
            if r["label"] in ("", None):
                continue
            item, label = str(r[key]), r["label"] if isinstance(r["label"], str) else json.dumps(r["label"])
            if texts.setdefault(item, label) != label:
                raise GraError(
                    f"{path}: {item[:60]!r} has two labels, {texts[item]!r} and {label!r}", "keep one of them"
                )
        if not texts:
            raise GraError(f"{path}: nobody has given a label", then)
        audit = frozenset(str(r["id"]) for r in rows if r.get("why") == "audit" and "id" in r)
        return cls(path.stem, texts, audit, by_text)

    def of_items(self, texts: Sequence[str], ids: Sequence[str]) -> People:
        """The same of a release's items alone, by their ids."""
        if not self.by_text:
            known = set(ids)
            return replace(self, elsewhere=tuple(i for i in self.labels if i not in known))
        found, seen = {}, set()
        for i, text in zip(ids, texts, strict=True):
            if key := next((t for t in (text, cell(text)) if t in self.labels), None):
                found[i] = self.labels[key]
                seen.add(key)
        return replace(self, labels=found, elsewhere=tuple(t for t in self.labels if t not in seen))

    def codes(self, ids: Sequence[str], labels: Labels) -> np.ndarray:
        """The labels of some items, as `Collected` has them: int64 [n], -1 for none.

        Raises:
            GraError: a label that there is not.
        """
        out = np.full(len(ids), gold.UNKNOWN, np.int64)
        for i, id_ in enumerate(ids):
            if written := self.labels.get(id_):
                try:
                    out[i] = code_of(as_text(label_written(written, labels, "")), labels)
                except Unparsable:
                    options = ", ".join(map(str, categories_of(labels)))
                    raise GraError(f"{self.who}: {written[:60]!r} of item {id_}: no such label", options) from None
        return out


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
