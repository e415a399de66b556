"""Training examples as conversations, out of a release, a run, or any file of chats or instructions."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from gra_hpc.conversation import as_object, without_nulls
from gra_hpc.errors import ReleaseError, SeedError
from gra_hpc.parquet import open_table, read_batches
from gra_hpc.records import THOUGHTS
from gra_hpc.sources.conversations import Conversation
from gra_hpc.sources.layouts import NOT_OBJECT, Layout
from gra_hpc.sources.rows import ENCODING, Source
from gra_hpc.sources.texts import Refused
from gra_hpc.storage import checked
from gra_hpc.terminal import word
from gra_hpc.thoughts import Thoughts, inline, without_marks
from gra_hpc.training.config import Trained

Messages = list[dict[str, Any]]
"""Turns `{role, content}`, some with `tool_calls`, some with `weight: 0`: nothing is learned from those. The last is
the assistant's."""


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation."""

    messages: Messages
    tools: list[dict[str, Any]] = field(default_factory=list)
    """What the assistant may call, as OpenAI describes it."""


@dataclass
class Examples:
    """What was read."""

    conversations: list[Example] = field(default_factory=list)
    read: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Rows that are no examples, by reason."""
    aside: Counter[str] = field(default_factory=Counter)
    """Rows of which something was left aside, by its kind."""
    source: str = ""
    """What was read, for people: a release by its fingerprint."""


def read_examples(
    path: str,
    split: str = "train",
    min_score: float = 0.0,
    limit: int = 0,
    limit_seed: int = -1,
    scratch: str = "",
    last_round: int = 0,
    thoughts: Trained = Trained.auto,
) -> Examples:
    """Read all examples, in their order.

    Args:
        path: a run, a release, a file or a staged Hub dataset.
        split: split of a release, or of a Hub dataset.
        min_score: leave out rows of a release below it.
        limit: at most so many; 0: all.
        limit_seed: draw them at random with this seed (their order stays); -1: the first ones.
        last_round: leave out rows of a release from later rounds; 0: none.
        thoughts: whether they stand before the last answer.

    Raises:
        ReleaseError: a run that has no release yet, or a release without rows, or without the thoughts asked for.
        SeedError: nothing there, or nothing that could be read.
    """
    release = release_of(path)
    if release:
        found = _release(release, split, min_score, last_round, thoughts)
    else:
        found = _source(path, split, scratch, thoughts)
    if not found.conversations:
        why = "; ".join(f"{n} {reason}" for reason, n in found.refused.most_common(3)) or "no rows"
        raise SeedError(f"{path}: no example in it ({why})", "data.path=A RELEASE, or a file with chats")
    if limit and limit < len(found.conversations):
        chosen = range(limit)
        if limit_seed >= 0:
            rows = range(len(found.conversations))
            chosen = sorted(random.Random(limit_seed).sample(rows, limit))  # type: ignore[assignment]
        found.refused["beyond data.limit"] = len(found.conversations) - limit
        found.conversations = [found.conversations[i] for i in chosen]
    return found


def refuse_absent(path: str, scratch: str = "") -> None:
    """Refuse data that are not there, before a job waits for its turn to find that out. Nothing of them is read.

    Raises:
        ReleaseError: a run that has no release yet.
        SeedError: no file or directory of that name, and no dataset of the Hub that could be had here.
    """
    try:
        if release_of(path):
            return
        source = Source(path, scratch=scratch)
        if not source.local:
            near = Path(path).parent
            if near != Path() and near.is_dir():  # `runs/sft` is meant as a directory, not as ORG/NAME
                raise SeedError(f"data.path={path}: no such file or directory", f"ls {word(near)}")
            source.refuse_unreachable()
    except ReleaseError as e:
        raise ReleaseError(e.what, f"gra resume {word(path)}; or --after ID, of the job that makes it") from None
    except SeedError as e:
        raise SeedError(*(words.replace("seeds.path", "data.path") for words in (e.what, e.then))) from None


def release_of(path: str) -> Path | None:
    """The release directory that a path stands for; none if it is something else.

    Raises:
        ReleaseError: a run without a release.
    """
    directory = Path(path).expanduser()
    if (directory / "manifest.json").is_file() and (directory / "data").is_dir():
        return directory
    if (directory / "release" / "manifest.json").is_file():
        return directory / "release"
    if (directory / "plan.json").is_file():
        raise ReleaseError(f"{path}: this run has no release yet", f"gra status {word(path)}")
    return None


def _release(release: Path, split: str, min_score: float, last_round: int, thoughts: Trained) -> Examples:
    from gra_hpc.release.manifest import read

    manifest = read(release)
    out = Examples(source=f"{release} ({manifest.get('fingerprint', '')})")
    then = f"gra release verify {word(release)}"
    released = manifest.get("config", {}).get("release", {}).get("thoughts", Thoughts.drop.value)
    if thoughts is Trained.inline and released == Thoughts.drop.value:
        raise ReleaseError(
            f"{release}: has no thoughts", "gra merge RUN release.thoughts=column, or data.thoughts=drop"
        )
    added = thoughts is Trained.inline and released == Thoughts.column.value
    taken = thoughts is Trained.drop and released == Thoughts.inline.value
    files = sorted(release.glob(f"data/{split}-*.parquet"))
    if not files:
        raise ReleaseError(f"{release}: no {split} split", then)
    for file in files:
        recorded = manifest.get("files", {}).get(f"data/{file.name}")
        if recorded is None:
            raise ReleaseError(f"{file}: not in the release's manifest", then)
        with open_table(checked(file, recorded, then), then=then) as table:
            names = table.schema_arrow.names
            tools = [n for n in ("tools",) if n in names]  # of a run whose seeds have context
        if "messages" not in names:
            flow = manifest.get("config", {}).get("method", {}).get("flow", "")
            raise ReleaseError(
                f"{release}: its rows are no chats (no column messages): those of method.flow={flow} have none",
                "data.path=ANOTHER RELEASE, or a file with chats",
            )
        columns = ["messages", "score", *(["round"] if last_round else []), *tools]
        taken = taken and "response" in names  # only conversations have thoughts within
        columns += [THOUGHTS] if added else ["response"] if taken else []
        for batch in read_batches(file, columns, then=then):
            for row in batch.to_pylist():
                out.read += 1
                if row["score"] is not None and row["score"] < min_score:
                    out.refused["below data.min_score"] += 1
                elif last_round and row["round"] > last_round:
                    out.refused["after data.last_round"] += 1
                else:
                    if added:
                        row["messages"][-1]["content"] = inline(row[THOUGHTS], row["messages"][-1]["content"])
                    elif taken:
                        row["messages"][-1]["content"] = row["response"]
                    described = orjson.loads(row.get("tools") or "[]")
                    out.conversations.append(Example(list(map(for_template, row["messages"])), described))
    return out


def _source(path: str, split: str, scratch: str, thoughts: Trained) -> Examples:
    layout = Layout({})
    source = Source(path, split=split, wanted=layout.wanted, scratch=scratch)
    out = Examples(source=source.label)
    for row in source:
        out.read += 1
        try:
            if row.problem or not isinstance(row.value, dict):
                raise Refused(row.problem.reason if row.problem else NOT_OBJECT, "")
            found = layout.conversation(row.value)
            out.conversations.append(_example(found, thoughts is not Trained.drop))
            out.aside.update(dict.fromkeys(found.aside, 1))
        except Refused as e:
            out.refused[e.reason] += 1
    return out


def _example(found: Conversation, thoughts: bool) -> Example:
    """A conversation up to the assistant's last turn.

    Args:
        thoughts: with those before it, in `<think>`.

    Raises:
        Refused: nothing is asked, or nothing is answered; text that is not Unicode.
    """
    turns = found.turns
    while turns and turns[-1].role != "assistant":
        turns.pop()
    if not turns:
        raise Refused("with an empty response", "")
    if not any(t.role == "user" for t in turns):
        raise Refused("without a question", "")
    try:
        "".join(t.content for t in turns).encode()
    except UnicodeEncodeError:
        raise Refused(ENCODING, "") from None
    if thoughts:
        turns[-1].content = inline(without_marks(turns[-1].thoughts), turns[-1].content)
    if not any(t.learned for t in turns if t.role == "assistant"):
        raise Refused("without words of a weight", "")
    weights = ({} if t.learned else {"weight": 0} for t in turns)
    return Example([for_template(t.message) | w for t, w in zip(turns, weights, strict=True)], found.tools)


def for_template(message: dict[str, Any]) -> dict[str, Any]:
    """A message as chat templates take it: without fields that are null, a call's arguments as an object."""
    message = without_nulls(message)
    if calls := message.get("tool_calls"):
        functions = [{**c["function"], "arguments": as_object(c["function"]["arguments"])} for c in calls]
        message["tool_calls"] = [{**c, "function": f} for c, f in zip(calls, functions, strict=True)]
    return message
