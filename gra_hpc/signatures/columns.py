"""Columns of tables under the names that `signing` has for them: a flow names its own (`flows/keys.py`)."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.flows.keys import RECORDS, Keys
from gra_hpc.records import CODING, CONTEXT
from gra_hpc.signatures.signing import wanted_columns


def wanted(keys: Keys, context: bool) -> list[str]:
    """The columns of a table that `named` needs.

    Args:
        context: the table has contexts.
    """
    own = dict(zip(RECORDS.columns, (keys.text, keys.answer, keys.group), strict=True))
    return [name for signed in wanted_columns(context) if (name := own.get(signed, signed))]


def named(keys: Keys, columns: Mapping[str, pa.Array]) -> Mapping[str, pa.Array]:
    """Text, answer and group as `instruction`, `response` and `domain`, and the context where there is one.

    Args:
        columns: `wanted` of some rows.
    """
    if (keys.columns, keys.code) == (RECORDS.columns, RECORDS.code):
        return columns
    text = pc.fill_null(columns[keys.text], "")
    nothing = pa.array([""] * len(text), pa.string())
    answer = pc.fill_null(columns[keys.answer], "") if keys.answer else nothing
    code = pc.is_in(columns[keys.group], value_set=pa.array(keys.code, pa.string())) if keys.group else None
    group = nothing if code is None else pc.if_else(code, CODING, "")
    context = {CONTEXT: columns[CONTEXT]} if CONTEXT in columns else {}
    return dict(zip(RECORDS.columns, (text, answer, group), strict=True)) | context
