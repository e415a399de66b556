"""What rows are compared by, in merges and where a release is split: columns of their flow's tables."""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass
from typing import Any

from gra_hpc.conversation import asked
from gra_hpc.records import CODING, CONTEXT, Candidate

_NULL = type(None)


@dataclass(frozen=True)
class Keys:
    """Columns of text, by name."""

    text: str
    """What a row asks, or is; never null. Its embedding is compared, too."""
    answer: str = ""
    """What it says to that; empty: rows are compared by the text alone."""
    group: str = ""
    """What it is about; empty: nothing is said of that."""
    code: tuple[str, ...] = (CODING,)
    """Groups whose rows are compared as code: there signs and indents count."""
    seeds_rival: bool = True
    """Whether a row may not be a duplicate of a seed. No: rows answer the seeds' own instructions."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that are named."""
        return tuple(name for name in (self.text, self.answer, self.group) if name)

    @property
    def of_records(self) -> Keys:
        """What the pool's rows are compared by with these: a seed has a response and a domain, and they count only
        where the others have answers and groups."""
        code = tuple(dict.fromkeys((*RECORDS.code, *self.code)))
        return Keys(RECORDS.text, RECORDS.answer if self.answer else "", RECORDS.group if self.group else "", code)

    def embedded(self, made: Candidate) -> str:
        """The text of a candidate whose embedding is compared, with what was said before it."""
        row = made.row()
        return asked(row.get(CONTEXT) or "", row[self.text] or "")

    def check(self, result: type | None) -> None:
        """See that they are texts of a result, and that no row can be without the one that all are compared by.

        Raises:
            TypeError: one that is not, or can.
        """
        kinds = typing.get_type_hints(result) if result else {}
        for name in self.columns:
            if not _is_text(_without_null(kinds.get(name))):
                known = ", ".join(n for n, kind in kinds.items() if _is_text(_without_null(kind))) or "none"
                raise TypeError(f"keys: {name!r} is no text of the flow's result; its texts: {known}")
        if self.text and not _is_text(kinds[self.text]):
            raise TypeError(
                f"keys: {self.text!r} may be null, and rows without it would be duplicates of one another; expected str"
            )


def _is_text(kind: Any) -> bool:
    """Whether a column of such fields holds texts alone."""
    return kind is str or (
        typing.get_origin(kind) is typing.Literal and all(isinstance(text, str) for text in typing.get_args(kind))
    )


def _without_null(kind: Any) -> Any:
    """X of `X | None`; what is no such type as it is."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind
    some = [one for one in typing.get_args(kind) if one is not _NULL]
    return some[0] if len(some) == 1 else kind


RECORDS = Keys("instruction", "response", "domain")
"""Of seeds, and of all that goes into the pool."""
