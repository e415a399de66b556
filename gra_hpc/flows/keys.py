"""What rows are compared by, in merges and where a release is split: columns of their flow's tables."""

from __future__ import annotations

import typing
from dataclasses import dataclass

from gra_hpc.conversation import asked
from gra_hpc.records import CODING, CONTEXT, Candidate


@dataclass(frozen=True)
class Keys:
    """Columns of text, by name."""

    text: str
    """What a row asks, or is. Its embedding is compared, too."""
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
        """See that they are texts of a result.

        Raises:
            TypeError: one that is not.
        """
        kinds = typing.get_type_hints(result) if result else {}
        for name in self.columns:
            if kinds.get(name) not in (str, str | None):
                known = ", ".join(n for n, kind in kinds.items() if kind is str) or "none"
                raise TypeError(f"keys: {name!r} is no text of the flow's result; its texts: {known}")


RECORDS = Keys("instruction", "response", "domain")
"""Of seeds, and of all that goes into the pool."""
