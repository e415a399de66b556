"""The release in the forms that trainers read: Alpaca JSON, ShareGPT JSON, chat JSON lines.

Conversations are whole in all of them; Alpaca, which knows no tools, leaves out those that call one.

LLaMA-Factory opens the directory (`dataset_dir: DIR`) by the `dataset_info.json` beside the files; TRL's SFTTrainer
reads the chat form with `load_dataset("json", data_files=...)`, or the release itself, whose column is `messages` too.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from gra_hpc import parquet, storage
from gra_hpc.conversation import Message, as_object, json_text, messages_before, without_nulls
from gra_hpc.errors import ReleaseError, nearest
from gra_hpc.flows.registry import find
from gra_hpc.records import THOUGHTS
from gra_hpc.release.manifest import NAME, read
from gra_hpc.release.schema import TOOLS
from gra_hpc.terminal import word
from gra_hpc.thoughts import Thoughts
from gra_hpc.thoughts import inline as with_thoughts

log = logging.getLogger(__name__)

SUFFIX = {"alpaca": ".json", "sharegpt": ".json", "chat": ".jsonl"}
"""The forms, and the kind of file each is."""
INFO = "dataset_info.json"

_CONTEXT: dict[str, dict[str, Any]] = {
    "alpaca": {"columns": {"system": "system", "history": "history"}},
    "sharegpt": {"columns": {"tools": "tools"}},
    "chat": {"columns": {"tools": "tools"}, "formatting": "openai"},
}
"""What LLaMA-Factory has to know beyond `_LLAMA_FACTORY` of a release of conversations."""
_SHAREGPT = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}
"""ShareGPT's names of roles."""
_LLAMA_FACTORY: dict[str, dict[str, Any]] = {
    "alpaca": {"columns": {"prompt": "instruction", "query": "input", "response": "output"}},
    "sharegpt": {"formatting": "sharegpt", "columns": {"messages": "conversations"}},
    "chat": {
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    },
}


def export(release: Path, form: str, target: Path, thoughts: str = "") -> list[Path]:
    """Write one file per split, and `dataset_info.json` for all forms that lie in `target`.

    Args:
        release: a release directory.
        form: alpaca, sharegpt or chat.
        target: directory for the files; made when needed.
        thoughts: inline (within `<think>` before the response) or drop; empty: as the release has them in `messages`.

    Returns:
        The files with rows, one per split.

    Raises:
        ReleaseError: no release there, one whose data are not as its manifest says, one without the thoughts that are
            wanted, or an unknown form.
        StorageError: no room.
    """
    if form not in SUFFIX:
        raise ReleaseError(f"format {form}: not known{nearest(form, list(SUFFIX))}", f"--format {' | '.join(SUFFIX)}")
    if thoughts not in ("", Thoughts.inline.value, Thoughts.drop.value):
        raise ReleaseError(f"thoughts {thoughts}: not known", "--thoughts inline | drop")
    then = f"gra release verify {word(release)}"
    manifest = read(release)
    try:
        name, splits = manifest["name"], list(manifest["splits"])
        released = manifest["config"]["release"].get("thoughts", Thoughts.drop.value)
        said = {n: f for n, f in manifest["files"].items() if n.startswith("data/")}
        flow = manifest["config"]["method"]["flow"]
    except KeyError as e:
        raise ReleaseError(f"{release / NAME}: without {e}", then) from None
    if not find(flow).conversations:
        raise ReleaseError(
            f"{release}: rows of method.flow={flow} are no instructions with responses, which {form} wants",
            f"open them as they are: datasets.load_dataset('{release}')",
        )
    for path in sorted(release.glob("data/*.parquet")):
        if f"data/{path.name}" not in said:
            raise ReleaseError(f"{path}: not in the manifest; nothing was exported", then)
    for file, recorded in said.items():
        storage.checked(release / file, recorded, then)
    if thoughts == Thoughts.inline.value and released == Thoughts.drop.value:
        raise ReleaseError(f"{release}: has no thoughts", "gra merge RUN release.thoughts=column")
    return export_splits(release, name, splits, form, target, (thoughts or released) == Thoughts.inline.value)


def export_splits(
    release: Path, name: str, splits: list[str], form: str, target: Path, inline: bool = False
) -> list[Path]:
    """The same for a release that has no manifest yet.

    Args:
        inline: with the thoughts.
    """
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for split in splits:
        path = target / f"{form}-{split}{SUFFIX[form]}"
        _write(path, converted(release, split, form, inline, warn=True), lines=SUFFIX[form] == ".jsonl")
        written.append(path)
    storage.write_atomic(target / INFO, storage.to_json(dataset_info(name, target, has_context(release))))
    return written


def has_context(release: Path) -> bool:
    """Whether the rows of a release may be more than an instruction and its response."""
    for path in release.glob("data/train-*.parquet"):
        with parquet.open_table(path, then=f"gra release verify {word(release)}") as file:
            return TOOLS in file.schema_arrow.names
    return False


def rows(release: Path, split: str, inline: bool = False) -> Iterator[dict[str, Any]]:
    """Response of every row of a split, in its order, with the instruction; with context `messages` and `tools`.

    Args:
        inline: the response with its thoughts.
    """
    of_context = ["messages", TOOLS] if has_context(release) else []
    columns = ["instruction", "response", *of_context, *([THOUGHTS] if inline else [])]
    for path in sorted(release.glob(f"data/{split}-*.parquet")):
        for batch in parquet.read_batches(path, columns, then=f"gra release verify {word(release)}"):
            for row in batch.to_pylist():
                yield row | {"response": with_thoughts(row[THOUGHTS], row["response"])} if inline else row


def converted(
    release: Path, split: str, form: str, inline: bool = False, warn: bool = False
) -> Iterator[dict[str, Any]]:
    """The rows of a split in one form, without those that it cannot hold.

    Args:
        inline: with the thoughts.
        warn: say how many are left out.
    """
    left_out = 0
    for row in rows(release, split, inline):
        try:
            yield convert(row, form)
        except Unheld:
            left_out += 1
    if left_out and warn:
        log.warning("%s: %d conversations of %s are left out: the form does not hold them", form, left_out, split)


class Unheld(ValueError):
    """A conversation that a form does not hold."""


def convert(row: dict[str, Any], form: str) -> dict[str, Any]:
    """One row in one form.

    Raises:
        Unheld: the form has no words for it.
    """
    instruction, response = row["instruction"], row["response"]
    before = without_nulls(row["messages"][:-1]) if "messages" in row else messages_before("", instruction)
    tools = {"tools": row[TOOLS] or ""} if TOOLS in row else {}
    if form == "alpaca":
        return _alpaca(instruction, response, before, tools)
    turns = [*before, {"role": "assistant", "content": response}]
    if form == "sharegpt":
        return {"conversations": [t for m in turns for t in _sharegpt(m)], **tools}
    return {"messages": turns, **tools}


def _alpaca(instruction: str, response: str, before: list[Message], tools: dict[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {"instruction": instruction, "input": "", "output": response}
    if not tools:
        return row
    system = before[0]["content"] if before[0]["role"] == "system" else ""
    said = before[bool(system) : -1]
    roles = [m["role"] for m in said]
    if tools["tools"] or roles != ["user", "assistant"] * (len(said) // 2) or any("tool_calls" in m for m in said):
        raise Unheld
    pairs = [[a["content"], b["content"]] for a, b in zip(said[::2], said[1::2], strict=True)]
    return row | {"system": system, "history": pairs}


def _sharegpt(message: Message) -> Iterator[dict[str, str]]:
    if message["content"] or "tool_calls" not in message:
        yield {"from": _SHAREGPT[message["role"]], "value": message["content"]}
    if calls := message.get("tool_calls"):
        functions = [{**c["function"], "arguments": as_object(c["function"]["arguments"])} for c in calls]
        yield {"from": "function_call", "value": json_text(functions if len(functions) > 1 else functions[0])}


def dataset_info(name: str, directory: Path, context: bool = False) -> dict[str, Any]:
    """LLaMA-Factory's description of the exported files in a directory.

    Args:
        context: they are of a release of conversations.
    """
    stem = re.sub(r"\W+", "_", name).strip("_") or "gra"
    out = {}
    for form, suffix in SUFFIX.items():
        for path in sorted(directory.glob(f"{form}-*{suffix}")):
            split = path.stem.removeprefix(f"{form}-")
            key = f"{stem}_{form}" if split == "train" else f"{stem}_{form}_{split}"
            described, more = _LLAMA_FACTORY[form], _CONTEXT[form] if context else {"columns": {}}
            columns = described["columns"] | more["columns"]
            out[key] = {"file_name": path.name, **described, **more, "columns": columns}
    return out


def is_export(path: Path, release: Path, split: str, form: str, inline: bool = False) -> bool:
    """Whether a file is what `export` writes of a split, byte by byte."""
    items = converted(release, split, form, inline)
    with path.open("rb") as f:
        same = all(f.read(len(c)) == c for c in _chunks(items, SUFFIX[form] == ".jsonl"))
        return same and not f.read(1)


def _chunks(items: Iterator[dict[str, Any]], lines: bool) -> Iterator[bytes]:
    head = b"" if lines else b"[\n"
    for item in items:
        yield head + orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE if lines else 0)
        head = b"" if lines else b",\n"
    if not lines:
        yield b"[]\n" if head == b"[\n" else b"\n]\n"


def _write(path: Path, items: Iterator[dict[str, Any]], lines: bool) -> None:
    """JSON lines, or a JSON array with one item a line; whole or not at all."""
    with storage.whole_file(path) as f:
        f.writelines(_chunks(items, lines))
