"""Answers as dataclasses: one describes the JSON that a member is held to, and is what the flow is given."""

from __future__ import annotations

import dataclasses
import math
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from gra_hpc.flows import parsing
from gra_hpc.flows.ask import Question
from gra_hpc.flows.parsing import Unparsable

T = TypeVar("T")


def guided(step: str, stage: str, kind: type[T], role: str = "", longest: int = 200) -> Question[T]:
    """A question whose answer is JSON, with a key for each field of a dataclass that has no default, in their order.

    Its template is `prompts/STEP.j2`, beside the module of the dataclass.

    Args:
        kind: the dataclass; what is asked for is str, int, float, bool, or one of some texts (`Literal`).
        role: who is asked; left out: the flow's first role.
        longest: characters of a text.

    Raises:
        TypeError: a field of another type.
    """
    hints = typing.get_type_hints(kind)
    unset = dataclasses.MISSING
    of: Any = kind
    asked = {f.name: hints[f.name] for f in dataclasses.fields(of) if f.default is f.default_factory is unset}
    properties = {name: _property(hint, f"{kind.__name__}.{name}", longest) for name, hint in asked.items()}
    schema = {"type": "object", "properties": properties, "required": [*asked], "additionalProperties": False}

    def parse(answer: str, _: dict[str, Any]) -> T:
        found = parsing.json_object(answer, asked)
        if missing := [name for name in asked if name not in found]:
            raise Unparsable(f"no {missing[0]}")
        return kind(**{name: _value(found[name], hint, name) for name, hint in asked.items()})

    prompts = Path(str(sys.modules[kind.__module__].__file__)).parent / "prompts"
    return Question(step, stage, parse, lambda _: schema, role=role, prompts=prompts)


_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean"}


def _property(hint: Any, where: str, longest: int) -> dict[str, Any]:
    """JSON schema of one field."""
    if typing.get_origin(hint) is Literal:
        return {"type": "string", "enum": [*typing.get_args(hint)]}
    if hint not in _NAMES:
        raise TypeError(
            f"{where}: {hint}: expected str, int, float, bool or Literal[...] in what a member is asked for"
        )
    return {"type": _NAMES[hint]} | ({"maxLength": longest} if hint is str else {})


def _value(found: Any, hint: Any, name: str) -> Any:
    """A key's value as its field has it.

    Raises:
        Unparsable: it is none.
    """
    if hint is str:
        if not isinstance(found, str) and not _number(found):  # of null, true or a list Python has words, JSON none
            raise Unparsable(f"{name} is no string")
        return parsing.plain(found)
    if typing.get_origin(hint) is Literal:
        if found not in typing.get_args(hint):
            raise Unparsable(f"{name} is none of {', '.join(typing.get_args(hint))}")
        return found
    if not _FITS[hint](found):
        raise Unparsable(f"{name} is no {_NAMES[hint]}")
    return hint(found)


def _number(found: Any) -> bool:
    return isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)


_FITS: dict[type, Callable[[Any], bool]] = {
    int: lambda found: _number(found) and found == int(found) and -(2**63) <= found < 2**63,  # as a table holds
    float: _number,
    bool: lambda found: isinstance(found, bool),
}
