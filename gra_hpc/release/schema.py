"""The tables of a release: their fixed Arrow schemas, and how rows of samples become rows of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc import conversation
from gra_hpc.records import CONTEXT, PAPER, PROPENSITY, THOUGHTS, Rubric, criteria_of
from gra_hpc.thoughts import CLOSING, OPENING, Thoughts

TOOLS = "tools"
"""A column of releases of runs whose seeds have context."""
OUTCOMES = ("rejected", "failed", "dropped")
"""Kinds of rejects, one set of files each: by the committee, without a judgement, by the merge."""


def _roles() -> pa.DataType:
    return pa.struct(
        [
            ("generator", pa.string()),
            ("reviewers", pa.list_(pa.string())),
            ("adjudicator", pa.string()),
            ("summarizer", pa.string()),
        ]
    )


def _review(criteria: Sequence[str]) -> pa.DataType:
    names = [("member", pa.string()), ("model", pa.string()), ("comment", pa.string())]
    return pa.struct([*names, *((c, pa.int8()) for c in criteria)])


def messages_type(context: bool = False) -> pa.DataType:
    """Of the column `messages`; with context they may call tools."""
    function = pa.struct([("name", pa.string()), ("arguments", pa.string())])
    calls = pa.list_(pa.struct([("type", pa.string()), ("function", function)]))
    fields = [("role", pa.string()), ("content", pa.string()), *([("tool_calls", calls)] if context else [])]
    return pa.list_(pa.struct(fields))


def data_schema(
    thoughts: Thoughts = Thoughts.drop, context: bool = False, propensity: bool = False, rubric: Rubric = PAPER
) -> pa.Schema:
    """Arrow schema of data/*.parquet. `models` and `members` say who did what: the Adjudicator is null unless asked.

    Args:
        thoughts: as released; their column is the last, and empty where there were none.
        context: of a run whose seeds have context: `messages` may call tools, which are described in a column `tools`,
            as JSON text; null: none.
        propensity: of a run whose Generators are drawn by their standing: the chance that a row's had to be drawn.
        rubric: the criteria of the reviews.
    """
    return pa.schema(
        [
            ("id", pa.string()),
            ("round", pa.int32()),
            ("seed_id", pa.string()),
            ("domain", pa.string()),
            ("keywords", pa.list_(pa.string())),
            ("summary", pa.string()),
            ("instruction", pa.string()),
            ("response", pa.string()),
            ("messages", messages_type(context)),
            *([(TOOLS, pa.string())] if context else []),
            ("score", pa.float64()),
            ("mean", pa.float64()),
            ("sd", pa.float64()),
            ("instruction_reviews", pa.list_(_review(rubric.instruction))),
            ("reviews", pa.list_(_review(rubric.response))),
            ("verdict", _review(rubric.response)),
            ("models", _roles()),
            ("members", _roles()),
            *([(PROPENSITY, pa.float64())] if propensity else []),
            *([(THOUGHTS, pa.string())] if thoughts is not Thoughts.drop else []),
        ]
    )


def rejects_schema(context: bool = False, rubric: Rubric = PAPER) -> pa.Schema:
    """Arrow schema of rejects/*.parquet.

    `stage` is where the sample ended: a stage of the method, or the merge's step for a dropped one; then `winner` is
    the row that beat it, `similarity` how near it was, `detail` what the step found. A sample on which the committee
    stopped early has in `detail` how far its mean could have come. `raw` is the unusable answer of
    a failed one.

    Args:
        context: of a run whose seeds have context, with its column (`conversation.pack`).
        rubric: the criteria of the reviews.
    """
    data = data_schema(rubric=rubric)
    return pa.schema(
        [
            ("id", pa.string()),
            ("round", pa.int32()),
            ("seed_id", pa.string()),
            ("outcome", pa.string()),
            ("stage", pa.string()),
            ("reason", pa.string()),
            ("winner", pa.string()),
            ("similarity", pa.float64()),
            ("detail", pa.string()),
            ("raw", pa.string()),
            *(data.field(n) for n in ("domain", "keywords", "instruction", "response", "score", "mean", "sd")),
            *(data.field(n) for n in ("instruction_reviews", "reviews", "verdict", "models", "members")),
            *([(CONTEXT, pa.string())] if context else []),
        ]
    )


def data_rows(samples: pa.Table, models: Mapping[str, str], thoughts: Thoughts = Thoughts.drop) -> pa.Table:
    """Samples as rows of `data_schema`.

    Args:
        samples: rows of `records.sample_schema`, a few thousand at a time; with context, if it is among its columns.
        models: model of each committee member.
        thoughts: as released.
    """
    if THOUGHTS not in samples.column_names:
        samples = samples.append_column(THOUGHTS, pa.repeat("", len(samples)))
    columns = {**_shared(samples, models), THOUGHTS: samples[THOUGHTS], "messages": chat(samples, thoughts)}
    if context := CONTEXT in samples.column_names:
        tools = (conversation.tools_of(c) for c in samples[CONTEXT].to_pylist())
        columns[TOOLS] = pa.array([conversation.json_text(t) if t else None for t in tools], pa.string())
    if drawn := PROPENSITY in samples.column_names:
        columns[PROPENSITY] = samples[PROPENSITY]
    return _conform(columns, data_schema(thoughts, context, drawn, _rubric(samples)))


def reject_rows(
    samples: pa.Table, models: Mapping[str, str], outcome: str, detail: Callable[[pa.Table], pa.Array] | None
) -> pa.Table:
    """Samples as rows of `rejects_schema`; for `dropped` the merge's columns are among the samples' columns.

    Args:
        detail: what more there is to say of those that were not accepted (`Views.detail`).
    """
    rows = len(samples)
    columns = {**_shared(samples, models), "outcome": pa.repeat(pa.scalar(outcome), rows)}
    if outcome == "dropped":
        columns |= {n: samples[n] for n in ("winner", "similarity", "detail")}
        steps = samples["step"].to_pylist()
        columns |= {"stage": samples["step"], "reason": pa.array([REASONS.get(s, s) for s in steps], pa.string())}
    else:
        columns |= {n: samples[n] for n in ("stage", "reason")}
        columns |= {n: pa.nulls(rows, rejects_schema().field(n).type) for n in ("winner", "similarity")}
        columns["detail"] = detail(samples) if detail else pa.nulls(rows, pa.string())
    context = {CONTEXT: samples[CONTEXT]} if CONTEXT in samples.column_names else {}
    return _conform(columns | {"raw": samples["raw"]} | context, rejects_schema(bool(context), _rubric(samples)))


REASONS = {
    "exact": "the same text as a better row",
    "fuzzy": "near-duplicate of a better row",
    "semantic": "means the same as a better row",
    "contaminated": "overlaps with a benchmark",
    "forwarded": "the next round worked on its seed",
    "surplus": "more rows than the target; better ones were kept",
}
"""What a step of the merge says of a row that it dropped."""


def _rubric(samples: pa.Table) -> Rubric:
    """The criteria of samples' reviews."""
    each = samples.schema.field("instruction_reviews").type.value_type
    return Rubric(criteria_of(samples.schema.field("verdict").type), criteria_of(each))


def _shared(samples: pa.Table, models: Mapping[str, str]) -> dict[str, pa.Array]:
    """Columns that both tables have."""
    table = samples.combine_chunks()
    plain = ("id", "round", "seed_id", "domain", "keywords", "summary", "instruction", "response")
    out = {n: _array(table[n]) for n in (*plain, "score", "mean", "sd")}
    for name in ("instruction_reviews", "reviews"):
        lists = _array(table[name])
        out[name] = _relist(lists, _with_model(lists.flatten(), models))
    verdict = _array(table["verdict"])
    out["verdict"] = _with_model(verdict, models)
    seats = {n: _array(table[n]) for n in ("generator", "reviewers", "summarizer")}
    seats["adjudicator"] = pc.if_else(verdict.is_valid(), _array(table["adjudicator"]), None)
    out["members"] = _seats(seats)
    out["models"] = models_of(out["members"], models)
    return out


def models_of(members: pa.StructArray, models: Mapping[str, str]) -> pa.StructArray:
    """Column `models` of a column `members`."""
    seats = {f.name: pc.struct_field(members, f.name) for f in _roles()}
    return _seats(
        {
            n: _relist(v, _model(v.flatten(), models)) if pa.types.is_list(v.type) else _model(v, models)
            for n, v in seats.items()
        }
    )


def _array(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _seats(columns: dict[str, pa.Array]) -> pa.Array:
    names = [f.name for f in _roles()]
    return pa.StructArray.from_arrays([columns[n] for n in names], fields=list(_roles()))


def _model(members: pa.Array, models: Mapping[str, str]) -> pa.Array:
    """The model behind each member; null for null."""
    known, names = pa.array(list(models), pa.string()), pa.array(list(models.values()), pa.string())
    return names.take(pc.index_in(members, known))


def _with_model(reviews: pa.Array, models: Mapping[str, str]) -> pa.Array:
    """Reviews with their member's model."""
    kind = _review(criteria_of(reviews.type))
    member = pc.struct_field(reviews, "member")
    columns = {"member": member, "model": _model(member, models)}
    arrays = [columns[f.name] if f.name in columns else pc.struct_field(reviews, f.name) for f in kind]
    return pa.StructArray.from_arrays(arrays, fields=list(kind), mask=reviews.is_null())


def _relist(lists: pa.Array, values: pa.Array) -> pa.Array:
    """Lists of the same lengths over other values; a null list becomes an empty one."""
    return pa.ListArray.from_arrays(_offsets(lists), values)


def _offsets(lists: pa.Array) -> pa.Array:
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def chat(samples: pa.Table, thoughts: Thoughts = Thoughts.drop) -> pa.Array:
    """Each sample as `[{user, instruction}, {assistant, response}]`, or the turns of its context in place of the first;
    with its thoughts as `thoughts.inline` has it."""
    table, rows = samples.combine_chunks(), len(samples)
    said = _array(table["response"])
    if thoughts is Thoughts.inline:
        before = _array(table[THOUGHTS])
        with_thoughts = pc.binary_join_element_wise(OPENING, before, CLOSING, said, "")
        said = pc.if_else(pc.equal(before, ""), said, with_thoughts)
    if CONTEXT in table.column_names:
        each = zip(table[CONTEXT].to_pylist(), table["instruction"].to_pylist(), said.to_pylist(), strict=True)
        return pa.array([conversation.messages_of(c, i, r) for c, i, r in each], messages_type(context=True))
    both = pa.concat_arrays([_array(table["instruction"]), said])
    turns = np.arange(2 * rows).reshape(2, rows).T.ravel()  # 0, n, 1, n + 1, ...
    speaker = pa.array(["user", "assistant"]).take(pa.array(np.arange(2 * rows) % 2))
    each = pa.StructArray.from_arrays([speaker, both.take(pa.array(turns))], fields=list(messages_type().value_type))
    return pa.ListArray.from_arrays(pa.array(np.arange(0, 2 * rows + 1, 2).astype(np.int32)), each)


def contexts(messages: pa.Array, instructions: pa.Array) -> pa.Array:
    """The contexts that `chat` has put into a column `messages`; empty where they do not lead to the instruction."""
    found = []
    for row, instruction in zip(messages.to_pylist(), instructions.to_pylist(), strict=True):
        before = [{k: v for k, v in m.items() if v is not None} for m in row[:-1]]
        last = next((m.get("content") for m in reversed(before) if m.get("role") == "user"), None)
        found.append(conversation.pack(before) if last == instruction else "")
    return pa.array(found, pa.string())


def shown_before(row: Mapping[str, Any]) -> str:
    """What the response of a row answers, turn by turn, where that is more than its instruction.

    Args:
        row: of the data, with `messages` and `tools`, or of rejects, with their context.
    """
    if TOOLS not in row:
        return conversation.shown(row.get(CONTEXT) or "")
    tools = json.loads(row[TOOLS] or "[]")
    return conversation.shown(conversation.pack(conversation.without_nulls(row["messages"][:-1]), tools))


def _conform(columns: Mapping[str, object], schema: pa.Schema) -> pa.Table:
    return pa.table({f.name: columns[f.name] for f in schema}).cast(schema)
