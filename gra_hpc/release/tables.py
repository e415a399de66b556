"""What the tables of a release are, by its run's flow: conversations, or results with columns of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gra_hpc.flows.keys import Keys
from gra_hpc.flows.registry import MESSAGES, Chat, flow_of
from gra_hpc.records import CONTEXT, THOUGHTS
from gra_hpc.release import schema, splits
from gra_hpc.release.shuffle import keys_of
from gra_hpc.run.run import Run
from gra_hpc.signatures import columns
from gra_hpc.thoughts import Thoughts

_ENDS = ("status", "stage", "reason", "raw")
"""Columns of samples that say how a candidate ended."""
_WHY = (("winner", pa.string()), ("similarity", pa.float64()), ("detail", pa.string()))
"""What the merge says of a row that it dropped."""


@dataclass(frozen=True)
class Tables:
    """Schemas, and how samples become rows."""

    samples: pa.Schema
    """Of the samples, without their embeddings and what is not released."""
    rejected: pa.Schema
    """Of the samples that are not in the data, as they are read."""
    data: pa.Schema
    rejects: pa.Schema
    twice: tuple[str, ...]
    """Columns of samples that the data hold twice."""
    split_by: tuple[str, ...]
    """Columns that `split_keys` reads."""
    split_keys: Callable[[Iterable[pa.Table]], tuple[np.ndarray, np.ndarray]]
    data_rows: Callable[[pa.Table], pa.Table]
    reject_rows: Callable[[pa.Table, str], pa.Table]
    """Of samples of one outcome; those of `dropped` with the merge's columns."""
    conversations: bool
    """Whether rows are instructions with responses."""


def tables_of(run: Run) -> Tables:
    """The tables of a run's release."""
    flow, plan, config = flow_of(run.config), run.plan, run.config.release
    models = {name: member.model for name, member in run.config.committee.items()}
    thoughts = plan.thought_out and config.thoughts is not Thoughts.drop
    if not flow.conversations:
        return results(_without(flow.schema(thoughts), "embedding"), flow.keys, flow.chat)
    inline = (THOUGHTS,) if config.thoughts is Thoughts.inline else ()
    return Tables(
        samples=_without(flow.schema(thoughts, plan.context, plan.propensity, plan.rubric), "embedding"),
        rejected=_without(flow.schema(context=plan.context, rubric=plan.rubric), "embedding"),
        data=schema.data_schema(config.thoughts, plan.context, plan.propensity, plan.rubric),
        rejects=schema.rejects_schema(plan.context, plan.rubric),
        twice=("instruction", "response", CONTEXT, *inline),
        split_by=splits.COLUMNS,
        split_keys=splits.split_keys,
        data_rows=lambda samples: schema.data_rows(samples, models, config.thoughts),
        reject_rows=lambda samples, outcome: schema.reject_rows(samples, models, outcome, flow.views.detail),
        conversations=True,
    )


def results(samples: pa.Schema, keys: Keys | None = None, chat: Chat | None = None) -> Tables:
    """Of samples with columns of their own: rows keep them all, but for how the candidate ended.

    Args:
        samples: their schema, without embeddings.
        keys: what they are compared by; none: rows are split by their seeds, and texts do not count.
        chat: a row as a chat, in a column `messages` of the data; none: there is no such column.
    """
    data = _without(samples, *_ENDS)
    first = [(n, pa.string()) for n in ("outcome", "stage", "reason", "raw")]
    rejects = pa.schema([data.field("id"), *first, *_WHY, *(f for f in data if f.name != "id")])
    own_names = data.names
    if chat:
        data = data.append(pa.field(MESSAGES, schema.messages_type()))

    def data_rows(rows: pa.Table) -> pa.Table:
        own = rows.select(own_names)
        if chat:
            turns = [[*map(_turn, chat(row))] for row in own.to_pylist()]
            own = own.append_column(MESSAGES, pa.array(turns, schema.messages_type()))
        return own.cast(data)

    def reject_rows(rows: pa.Table, outcome: str) -> pa.Table:
        own = {f.name: rows[f.name] for f in samples if f.name != "status"}
        own["outcome"] = pa.repeat(pa.scalar(outcome), len(rows))
        if outcome == "dropped":
            reasons = [schema.REASONS.get(s, s) for s in rows["step"].to_pylist()]
            own |= {"stage": rows["step"], "reason": pa.array(reasons, pa.string())}
        there = set(rows.column_names)
        own |= {n: rows[n] if n in there else pa.nulls(len(rows), kind) for n, kind in _WHY}
        return pa.table({f.name: own[f.name] for f in rejects}).cast(rejects)

    return Tables(
        samples=samples,
        rejected=samples,
        data=data,
        rejects=rejects,
        twice=(),
        split_by=("seed_id", *keys.columns) if keys else ("seed_id",),
        split_keys=_by_texts(keys) if keys else _by_seed,
        data_rows=data_rows,
        reject_rows=reject_rows,
        conversations=False,
    )


def _by_seed(tables: Iterable[pa.Table]) -> tuple[np.ndarray, np.ndarray]:
    """Keys of rows and of their seeds, as `splits.split_keys` has them; texts do not count."""
    drawn = [np.empty(0, np.uint64), *(keys_of(t["seed_id"], "split") for t in tables)]
    rows = np.concatenate(drawn)
    return rows, np.unique(rows)


def _turn(said: tuple[str, str]) -> dict[str, str]:
    return {"role": said[0], "content": said[1]}


def compared(keys: Keys, table: pa.Table) -> pa.Table:
    """What rows are compared by, under the names that `splits` has for it."""
    return pa.table(columns.named(keys, {name: table[name] for name in keys.columns}))


def _by_texts(keys: Keys) -> Callable[[Iterable[pa.Table]], tuple[np.ndarray, np.ndarray]]:
    """`splits.split_keys`, of tables with these."""

    def split_keys(tables: Iterable[pa.Table]) -> tuple[np.ndarray, np.ndarray]:
        return splits.split_keys(compared(keys, t).append_column("seed_id", t["seed_id"]) for t in tables)

    return split_keys


def _without(of: pa.Schema, *names: str) -> pa.Schema:
    return pa.schema([f for f in of if f.name not in names])


def lines(of: pa.Schema) -> list[str]:
    """A schema as a manifest has it: `name: type`."""
    return [f"{f.name}: {_said(f.type)}" for f in of]


def _said(kind: pa.DataType) -> str:
    """A type; of a list without the name of its items, which is different in a file and in memory."""
    if pa.types.is_list(kind):
        return f"list of {_said(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "{" + ", ".join(f"{f.name}: {_said(f.type)}" for f in kind) + "}"
    return str(kind)


def reasons_of(samples: pa.Table) -> dict[str, int]:
    """Rows by `stage: reason`; all together where there is none."""
    if "stage" not in samples.column_names:
        return {"": len(samples)}
    joined = pc.binary_join_element_wise(samples["stage"], samples["reason"], ": ")
    return {str(c["values"]): c["counts"] for c in pc.value_counts(joined.combine_chunks()).to_pylist()}
