"""A configuration as commented YAML: each key under its docstring and its bounds."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Iterator
from enum import Enum
from typing import Any, cast

import yaml

from gra_hpc.config.fields import bounds_of


def field_docs(kind: Any) -> dict[str, str]:
    """Docstrings of a config dataclass, by field: the string literal after each one; of one that was made
    (`flow_sections.config_of`), of what it was made from."""
    if kind.__name__.startswith("RunConfigOf_"):
        return field_docs(kind.__base__) | {f.name: _summary(f.type) for f in dataclasses.fields(kind)[-1:]}
    tree = ast.parse(inspect.getsource(kind)).body[0]
    docs: dict[str, str] = {}
    name = ""
    for node in cast(ast.ClassDef, tree).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
            docs[name] = " ".join(str(node.value.value).split())
            name = ""
    return docs


def _summary(kind: Any) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


def explain(value: Any, indent: int = 0) -> Iterator[str]:
    """The resolved configuration as commented YAML lines, each field under its meaning and its bounds."""
    pad = "  " * indent
    docs = field_docs(type(value))
    for f in dataclasses.fields(value):
        item = getattr(value, f.name)
        bounds = bounds_of(f)
        yield f"{pad}# {docs.get(f.name, '')}" + (f" [{bounds}]" if bounds else "")
        if dataclasses.is_dataclass(item):
            yield f"{pad}{f.name}:"
            yield from explain(item, indent + 1)
        elif isinstance(item, dict) and item and all(dataclasses.is_dataclass(v) for v in item.values()):
            yield f"{pad}{f.name}:"
            for name, entry in item.items():
                yield f"{pad}  {name}:"
                yield from explain(entry, indent + 2)
        else:
            plain = item.value if isinstance(item, Enum) else item
            text = yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=True).strip()
            yield f"{pad}{f.name}: {text.removesuffix('...').strip()}"
