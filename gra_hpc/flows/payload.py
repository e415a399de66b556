"""Tables of a flow's own: the columns that all flows share, and those of its result's dataclass.

`Made` is a candidate whose result is such a dataclass; its fields become columns: text, numbers, truth values, tuples,
dataclasses within, one of some texts (`Literal`), and each of them `| None`.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gra_hpc.records import ACCEPTED, REJECTED, THOUGHTS, Candidate, end_columns, optional_columns

if TYPE_CHECKING:
    import pyarrow as pa

R = TypeVar("R")


@dataclass(slots=True)
class Made(Candidate, Generic[R]):
    """A candidate of a flow with a result of its own."""

    flow: str
    """Its name."""
    seats: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Members by role."""
    result: R | None = None
    """None: the candidate did not come so far."""

    def accept(self, score: float | None = None) -> None:
        """It ends well; among duplicates the one with the highest score stays."""
        self.score, self.status = None if score is None else float(score), ACCEPTED

    def reject(self, stage: str, reason: str, score: float | None = None) -> None:
        """It ends at a stage, for a reason of a few words, by which the ledger counts."""
        self.score, self.status = None if score is None else float(score), REJECTED
        self.stage, self.reason = stage, reason

    def unfit(self) -> str:
        """Why no table can hold its result, in a few words; empty if one can. A value may be beyond 64 bits, no valid
        Unicode, or of another type than its field."""
        if self.result is None:
            return ""
        import pyarrow as pa

        row = dataclasses.asdict(self.result)  # type: ignore[call-overload]
        kind: Any = type(self.result)
        for column in arrow_of(kind):
            try:
                pa.scalar(row[column.name], column.type)
            except (OverflowError, TypeError, ValueError):
                return f"{column.name} fits no table"
        return ""

    def row(self) -> dict[str, Any]:
        """As a row of `schema`."""
        envelope = {f.name: getattr(self, f.name) for f in dataclasses.fields(Candidate)}
        seats = [{"role": role, "members": list(members)} for role, members in self.seats.items()]
        own = dataclasses.asdict(self.result) if self.result is not None else {}  # type: ignore[call-overload]
        return envelope | {"flow": self.flow, "seats": seats} | own


def schema(result: type | None, thoughts: bool = False) -> pa.Schema:
    """Arrow schema of a flow's samples: the common columns, then those of its result.

    Args:
        result: its dataclass; none: the common columns alone.
        thoughts: with their column.

    Raises:
        TypeError: a field of a type that no column has, or of a common column's name.
    """
    import pyarrow as pa

    common = [
        ("id", pa.string()),
        ("round", pa.int32()),
        ("seed_id", pa.string()),
        ("index", pa.int32()),
        ("flow", pa.string()),
        ("seats", pa.list_(pa.struct([("role", pa.string()), ("members", pa.list_(pa.string()))]))),
        *end_columns(),
    ]
    own = list(arrow_of(result)) if result else []
    if twice := {*(name for name, _ in common), *optional_columns()} & {f.name for f in own}:
        raise TypeError(f"{result.__name__ if result else ''}.{min(twice)}: a common column has this name")
    return pa.schema([*common, *own, *([(THOUGHTS, pa.string())] if thoughts else [])])


@functools.cache
def arrow_of(kind: type) -> pa.Schema:
    """Columns of a dataclass, by its fields' types: str, Literal of texts, int, float, bool, tuple[X, ...], dataclass,
    X | None.

    Raises:
        TypeError: a field of another type.
    """
    import pyarrow as pa

    hints = typing.get_type_hints(kind)
    return pa.schema([(f.name, _column(hints[f.name], f"{kind.__name__}.{f.name}")) for f in dataclasses.fields(kind)])


def _column(hint: Any, where: str) -> pa.DataType:
    import pyarrow as pa

    plain = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    if hint in plain:
        return plain[hint]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal and all(isinstance(a, str) for a in args):
        return pa.string()
    if origin in (typing.Union, types.UnionType):
        some = [a for a in args if a is not type(None)]
        if len(some) == 1:
            return _column(some[0], where)
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return pa.list_(_column(args[0], where))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return pa.struct(list(arrow_of(hint)))
    raise TypeError(f"{where}: {hint}: expected str, int, float, bool, tuple[X, ...], a dataclass, or X | None")
