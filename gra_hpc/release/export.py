"""The release in the forms that trainers read: Alpaca JSON, ShareGPT JSON, chat JSON lines.

LLaMA-Factory opens the directory (`dataset_dir: DIR`) by the `dataset_info.json` beside the files; TRL's SFTTrainer
reads the chat form with `load_dataset("json", data_files=...)`, or the release itself, whose column is `messages` too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from gra_hpc import parquet, storage
from gra_hpc.errors import ReleaseError, nearest
from gra_hpc.records import THOUGHTS
from gra_hpc.release.manifest import NAME
from gra_hpc.thoughts import Thoughts
from gra_hpc.thoughts import inline as with_thoughts

SUFFIX = {"alpaca": ".json", "sharegpt": ".json", "chat": ".jsonl"}
"""The forms, and the kind of file each is."""
INFO = "dataset_info.json"

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
    then = f"gra release verify {release}"
    try:
        manifest = storage.read_json(release / NAME)
        name, splits = manifest["name"], list(manifest["splits"])
        released = manifest["config"]["release"].get("thoughts", Thoughts.drop.value)
        said = {n: f for n, f in manifest["files"].items() if n.startswith("data/")}
    except (OSError, KeyError, TypeError, AttributeError):
        raise ReleaseError(f"{release}: not a release (no {NAME})", then) from None
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
        _write(path, (convert(row, form) for row in rows(release, split, inline)), lines=SUFFIX[form] == ".jsonl")
        written.append(path)
    storage.write_atomic(target / INFO, storage.to_json(dataset_info(name, target)))
    return written


def rows(release: Path, split: str, inline: bool = False) -> Iterator[dict[str, Any]]:
    """Instruction and response of every row of a split, in its order.

    Args:
        inline: the response with its thoughts.
    """
    columns = ["instruction", "response", *([THOUGHTS] if inline else [])]
    for path in sorted(release.glob(f"data/{split}-*.parquet")):
        for batch in parquet.read_batches(path, columns, then=f"gra release verify {release}"):
            for row in batch.to_pylist():
                yield row | {"response": with_thoughts(row[THOUGHTS], row["response"])} if inline else row


def convert(row: dict[str, Any], form: str) -> dict[str, Any]:
    """One row in one form."""
    instruction, response = row["instruction"], row["response"]
    if form == "alpaca":
        return {"instruction": instruction, "input": "", "output": response}
    if form == "sharegpt":
        turns = (("human", instruction), ("gpt", response))
        return {"conversations": [{"from": who, "value": text} for who, text in turns]}
    turns = (("user", instruction), ("assistant", response))
    return {"messages": [{"role": who, "content": text} for who, text in turns]}


def dataset_info(name: str, directory: Path) -> dict[str, Any]:
    """LLaMA-Factory's description of the exported files in a directory."""
    stem = re.sub(r"\W+", "_", name).strip("_") or "gra"
    out = {}
    for form, suffix in SUFFIX.items():
        for path in sorted(directory.glob(f"{form}-*{suffix}")):
            split = path.stem.removeprefix(f"{form}-")
            key = f"{stem}_{form}" if split == "train" else f"{stem}_{form}_{split}"
            out[key] = {"file_name": path.name, **_LLAMA_FACTORY[form]}
    return out


def is_export(path: Path, release: Path, split: str, form: str, inline: bool = False) -> bool:
    """Whether a file is what `export` writes of a split, byte by byte."""
    items = (convert(row, form) for row in rows(release, split, inline))
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
